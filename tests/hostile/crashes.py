"""Crashes of the interpreter, and Python at its edges."""

from tests.hostile import TRY, Hostile

FAILS = ("error", "killed")

CASES = (
    Hostile(
        "read at address 0",
        """\
import ctypes
print('before', flush=True)
ctypes.string_at(0)
""",
        ("killed",),
        ("before", "SIGSEGV"),
    ),
    Hostile(
        "write over its own memory",
        """\
import ctypes
ctypes.memset(id(None), 255, 1 << 12)
print([None])
""",
        FAILS,
    ),
    Hostile(
        "abort",
        """\
import os
print('before')
os.abort()
""",
        ("killed",),
        ("before", "SIGABRT"),
    ),
    Hostile(
        "fatal error of Python",
        """\
import ctypes
ctypes.pythonapi.Py_FatalError(b'fatal')
""",
        ("killed",),
        ("SIGABRT",),
    ),
    Hostile(
        "recursion without a limit",
        """\
import sys
sys.setrecursionlimit(10**9)
def f(): f()
f()
""",
        FAILS,
        limit_s=20,
    ),
    Hostile(
        "recursion in C",
        """\
import sys
sys.setrecursionlimit(10**9)
class A:
    def __getattr__(self, n): return getattr(self, n + 'a')
A().a
""",
        FAILS,
        limit_s=20,
    ),
    Hostile(
        "recursion of repr",
        """\
import sys
sys.setrecursionlimit(10**9)
x = []
for _ in range(10**5): x = [x]
repr(x)
""",
        ("ok", *FAILS),
    ),
    Hostile(
        "ordinary recursion",
        """\
def f(): f()
f()
""",
        ("error",),
        ("RecursionError",),
    ),
    Hostile(
        "a small stack",
        """\
import threading
threading.stack_size(32768)
def f(n): return sorted([0], key=lambda _: f(n - 1)) if n else 0
t = threading.Thread(target=f, args=(900,))
t.start()
t.join()
""",
        ("ok", *FAILS),
    ),
    Hostile(
        "bytecode of its own",
        """\
f = lambda: 0
f.__code__ = f.__code__.replace(co_code=bytes([255] * 64), co_stacksize=1)
f()
""",
        FAILS,
    ),
    Hostile(
        "freed objects used",
        """\
import ctypes
x = [1] * 1000
ctypes.pythonapi.Py_DecRef(ctypes.py_object(x))
ctypes.pythonapi.Py_DecRef(ctypes.py_object(x))
del x
y = [2] * 1000
print('main')
""",
        ("ok", *FAILS),
    ),
    Hostile(
        "illegal instruction",
        TRY
        + """\
import mmap
m = mmap.mmap(-1, 4096, prot=7)
m.write(b'\\x0f\\x0b' * 8)
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()
""",
        FAILS,
    ),
    Hostile(
        "exit at once",
        """\
import os
print('said', flush=True)
os._exit(0)
""",
        ("ok",),
        ("said",),
    ),
    Hostile(
        "exit codes beyond 255",
        """\
import sys
sys.exit(1 << 70)
""",
        (*FAILS, "ok"),
    ),
    Hostile(
        "exit with a thing that cannot be shown",
        """\
class A:
    def __str__(self): raise ValueError
import sys
sys.exit(A())
""",
        FAILS,
    ),
    Hostile(
        "exit of a thread",
        """\
import sys, threading
t = threading.Thread(target=sys.exit, args=(9,))
t.start()
t.join()
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "exit in a value",
        """\
class A:
    def __repr__(self): raise SystemExit(4)
A()
""",
        ("error",),
    ),
    Hostile(
        "interrupt in a value",
        """\
class A:
    def __repr__(self): raise KeyboardInterrupt
A()
""",
        ("error",),
        ("KeyboardInterrupt",),
    ),
    Hostile(
        "a value that is no text",
        """\
class A:
    def __repr__(self): return 5
A()
""",
        ("error",),
        ("TypeError",),
    ),
    Hostile(
        "a value whose text is of a class of its own",
        """\
class S(str):
    def __len__(self): return -1
    def __getitem__(self, k): raise ValueError
    def encode(self, *a): raise ValueError
    def __str__(self): raise ValueError
class A:
    def __repr__(self): return S('shown')
A()
""",
        ("ok", "error"),
    ),
    Hostile(
        "an error that cannot be shown",
        """\
class E(Exception):
    def __str__(self): raise ValueError
    __repr__ = __str__
raise E
""",
        ("error",),
    ),
    Hostile(
        "an error that leaves when it is shown",
        """\
import os
class E(Exception):
    def __str__(self): os._exit(0)
print('before', flush=True)
raise E
""",
        ("ok", "error"),
        ("before",),
    ),
    Hostile(
        "an error with false links",
        """\
class E(Exception):
    @property
    def __traceback__(self): raise ValueError
    __cause__ = __context__ = property(lambda s: 1 / 0)
raise E('said')
""",
        ("error",),
    ),
    Hostile(
        "an error whose notes are no text",
        """\
e = ValueError('said')
e.__notes__ = [object(), '\\ud800', 5]
raise e
""",
        ("error",),
        ("said",),
    ),
    Hostile(
        "a syntax error made by hand",
        "raise SyntaxError('said', ('\\0', -5, 10**9, None, -1, 'x'))",
        ("error",),
        ("said",),
    ),
    Hostile(
        "an error of a class without a name",
        """\
class M(type):
    __name__ = property(lambda s: 1 / 0)
    __qualname__ = __module__ = __name__
class E(Exception, metaclass=M): pass
raise E('said')
""",
        ("error",),
    ),
    Hostile("ten thousand parentheses", "(" * 10_000 + ")" * 10_000, ("error",)),
    Hostile("a hundred thousand signs", "-" * 100_000 + "1", ("ok", *FAILS)),
    Hostile("a chain of attributes", "x" + ".a" * 100_000, FAILS),
    Hostile("a sum of a hundred thousand", "1" + "+x" * 100_000, FAILS),
    Hostile("a number too long", "x = 1" + "0" * 10_000, ("error",), ("digits",)),
    Hostile("NUL in the program", "print('DO' + 'NE')\0", ("error",)),
    Hostile(
        "an encoding declared",
        """\
# -*- coding: utf-7 -*-
+AHA-rint('DO' + 'NE')
""",
        ("ok", "error"),
    ),
    Hostile(
        "a file name to confuse",
        "exec(compile('1 / 0', '/etc/passwd', 'exec'))",
        ("error",),
        ("ZeroDivisionError",),
        ("root:",),
    ),
    Hostile(
        "a line of two million characters",
        "x = 5  #"
        + "y" * 2_000_000
        + """\

print(x)
1 / 0
""",
        ("error",),
        ("5", "ZeroDivisionError"),
    ),
    Hostile(
        "its main module thrown away",
        """\
import sys
sys.modules.clear()
print('main')
1
""",
        ("ok", *FAILS),
    ),
    Hostile(
        "no builtins",
        """\
print('before', flush=True)
import builtins
builtins.__dict__.clear()
""",
        ("ok", *FAILS),
        ("before",),
    ),
    Hostile(
        "its own globals cleared",
        """\
print('before', flush=True)
globals().clear()
1
""",
        ("ok", *FAILS),
        ("before",),
    ),
    Hostile(
        "interpreter ended twice",
        """\
import ctypes
print('before', flush=True)
ctypes.pythonapi.Py_Finalize()
ctypes.pythonapi.Py_Finalize()
""",
        ("ok", *FAILS),
        ("before",),
    ),
)
