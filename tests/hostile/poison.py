"""The interpreter turned against whatever runs next in it."""

from tests.hostile import TRY, Hostile

ENDS = ("ok", "error", "killed")

CASES = (
    Hostile(
        "builtins replaced",
        """\
import builtins
builtins.print = builtins.len = builtins.open = builtins.repr = lambda *a, **k: 'poison'
builtins.__import__ = lambda *a: 1 / 0
1
""",
        ENDS,
    ),
    Hostile(
        "every builtin replaced",
        """\
import builtins
for n in list(vars(builtins)):
    if n != '__build_class__': setattr(builtins, n, None)
""",
        ENDS,
    ),
    Hostile(
        "import hooks",
        """\
import sys
class F:
    def find_spec(self, *a): raise ImportError('poison')
sys.meta_path.insert(0, F())
sys.path_hooks.insert(0, F)
sys.path.insert(0, '/tmp')
sys.path_importer_cache.clear()
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "modules replaced",
        """\
import sys
for n in list(sys.modules):
    if n not in ('sys', 'builtins'): sys.modules[n] = None
1
""",
        ENDS,
    ),
    Hostile(
        "functions of modules replaced",
        """\
import json, math, os, random, sympy, numpy, time
math.pi = 3
json.dumps = lambda *a, **k: '{"value": "poison"}'
random.random = lambda: 4
sympy.factor = numpy.eye = lambda *a: 'poison'
time.monotonic = lambda: 1e18
os.read = os.write = os.close = lambda *a: 0
""",
        ENDS,
    ),
    Hostile(
        "its exit replaced",
        """\
import os, sys
os._exit = sys.exit = lambda *a: None
print('said')
5
""",
        ENDS,
        ("said",),
    ),
    Hostile(
        "exit and kill replaced in the worker's code",
        """\
import sys, types
os = __import__('os')
frame = sys._getframe()
while frame:
    g = frame.f_globals
    for n in ('os', 'json', 'clip', 'describe', 'threading', 'atexit', 'prctl'):
        if n in g and frame.f_back: g[n] = types.SimpleNamespace(_exit=lambda c: None, getpid=lambda: 1)
    frame = frame.f_back
print('said', flush=True)
5
""",
        ENDS,
        ("said",),
    ),
    Hostile(
        "the shower of errors replaced",
        """\
import traceback
traceback.TracebackException.from_exception = traceback.TracebackException.format = lambda *a, **k: 1 / 0
1 / 0
""",
        ("error", "killed"),
    ),
    Hostile(
        "module files beside the program",
        """\
for n in ('math', 'json', 'os', 'sympy', 'numpy', 'random', 'sitecustomize', 'usercustomize', 'encodings'):
    open(f'{n}.py', 'w').write('raise SystemExit("poison")')
import os
os.makedirs('.local/lib/python3.11/site-packages')
open('.local/lib/python3.11/site-packages/x.pth', 'w').write('import os; os._exit(9)')
os.environ.update(PYTHONPATH='/tmp', PYTHONSTARTUP='/tmp/math.py', PYTHONHOME='/tmp')
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "module files where modules are",
        TRY
        + """\
import sympy, numpy, json
for module in (sympy, numpy, json, os, ctypes):
    folder = os.path.dirname(module.__file__)
    attempt('new', lambda: open(folder + '/poison.py', 'w').write('x'))
    attempt('old', lambda: open(module.__file__, 'a').write('x'))
    attempt('cache', lambda: os.makedirs(folder + '/__pycache__/x'))
    attempt('gone', lambda: os.remove(module.__file__))
    attempt('rights', lambda: os.chmod(folder, 0o777))
    attempt('times', lambda: os.utime(module.__file__, (0, 0)))
""",
        ("ok",),
        ("new refused", "old refused", "cache refused", "gone refused", "rights refused", "times refused"),
    ),
    Hostile(
        "codecs",
        """\
import codecs
codecs.register(lambda n: 1 / 0)
codecs.register_error('strict', lambda e: ('poison', 10**9))
codecs.register_error('backslashreplace', lambda e: 1 / 0)
print('said', '\\ud800')
""",
        ENDS,
    ),
    Hostile(
        "tracers",
        """\
import sys, threading
t = lambda *a: t
sys.settrace(t); sys.setprofile(t); threading.settrace(t); threading.setprofile(t)
print('said')
5
""",
        ("ok",),
        ("said", "5"),
    ),
    Hostile(
        "a tracer that fails",
        """\
import sys
def t(*a): raise MemoryError('poison')
sys.setprofile(t)
""",
        ENDS,
    ),
    Hostile(
        "audit hooks",
        """\
import sys
sys.addaudithook(lambda *a: 1 / 0)
print('said')
""",
        ENDS,
    ),
    Hostile(
        "hooks for errors",
        """\
import sys, threading
sys.excepthook = sys.unraisablehook = sys.displayhook = threading.excepthook = lambda *a: 1 / 0
class A:
    def __del__(self): raise ValueError
A()
1 / 0
""",
        ("error",),
        ("ZeroDivisionError",),
    ),
    Hostile(
        "signal handlers and wake-up descriptors",
        """\
import os, signal
r, w = os.pipe()
os.set_blocking(w, False)
signal.set_wakeup_fd(w)
for s in signal.valid_signals() - {9, 19, 32, 33}: signal.signal(s, lambda *a: None)
signal.setitimer(signal.ITIMER_VIRTUAL, 0.01, 0.01)
signal.pthread_sigmask(signal.SIG_BLOCK, {15})
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "umask, folder and environment",
        """\
import os
os.mkdir('gone')
os.chdir('gone')
os.umask(0o777)
os.rmdir('/tmp/gone') if os.getcwd().startswith('/tmp') else None
os.environ.clear()
os.environ['LD_PRELOAD'] = '/tmp/x.so'
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "garbage collection",
        """\
import gc
gc.disable(); gc.set_threshold(1); gc.unfreeze()
gc.callbacks.append(lambda *a: 1 / 0)
x = [[] for _ in range(5000)]
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "settings of the interpreter",
        """\
import sys
sys.setrecursionlimit(50)
sys.setswitchinterval(1e6)
sys.set_int_max_str_digits(0)
sys.dont_write_bytecode = False
sys.flags = None
sys.ps1 = 5
print('main')
""",
        ENDS,
    ),
    Hostile(
        "settings of numbers",
        """\
import decimal, locale, numpy, random, time, os
decimal.setcontext(decimal.Context(prec=1))
locale.setlocale(locale.LC_ALL, 'C')
numpy.seterr(all='raise')
random.seed(7); numpy.random.seed(7)
os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "a small number changed in memory",
        """\
import ctypes
ctypes.c_long.from_address(id(2) + 24).value = 3
print(1 + 1)
""",
        ENDS,
    ),
    Hostile(
        "types changed in memory",
        """\
import ctypes, gc
d = gc.get_referents(int.__dict__)[0]
d['real'] = 'poison'
ctypes.pythonapi.PyType_Modified(ctypes.py_object(int))
print((5).real)
""",
        ENDS,
        ("poison",),
    ),
    Hostile(
        "sympy turned",
        """\
import sympy
from sympy.core.cache import clear_cache
sympy.Symbol.__add__ = lambda *a: 7
sympy.core.mul.Mul.__mul__ = lambda *a: 7
sympy.S.One.p if hasattr(sympy.S, 'One') else 0
sympy.Integer(2).p = 3
print('main')
""",
        ENDS,
    ),
    Hostile(
        "limits of its own pulled down to nothing",
        """\
import resource
for n in ('NOFILE', 'FSIZE', 'NPROC', 'STACK', 'DATA', 'AS'):
    r = getattr(resource, f'RLIMIT_{n}')
    try: resource.setrlimit(r, (0, 0))
    except (ValueError, OSError): pass
print('said')
5
""",
        ENDS,
    ),
    Hostile(
        "no more system calls: strict mode",
        TRY
        + """\
print('said', flush=True)
libc.prctl(22, 1, 0, 0, 0)
""",
        (*ENDS, "timeout"),
        ("said",),
        limit_s=0.6,
    ),
    Hostile(
        "every system call refused by a filter of its own",
        TRY
        + """\
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
allow = ctypes.create_string_buffer((0x06).to_bytes(4, 'little') + (0x00050001).to_bytes(4, 'little'), 8)
program = Program(1, ctypes.addressof(allow))
print('said', flush=True)
libc.prctl(22, 2, ctypes.byref(program), 0, 0)
""",
        (*ENDS, "timeout"),
        ("said",),
        limit_s=0.6,
    ),
    Hostile(
        "a filter that stops its last words",
        TRY
        + """\
import struct
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
def ins(code, jt, jf, k): return struct.pack('HBBI', code, jt, jf, k)
exit_group = 231 if platform.machine() == 'x86_64' else 94
code = ins(0x20, 0, 0, 0) + ins(0x15, 0, 1, exit_group) + ins(6, 0, 0, 0x00050001) + ins(6, 0, 0, 0x7fff0000)
buffer = ctypes.create_string_buffer(code, len(code))
print('said', flush=True)
libc.prctl(22, 2, ctypes.byref(Program(4, ctypes.addressof(buffer))), 0, 0)
""",
        (*ENDS, "timeout"),
        ("said",),
        limit_s=0.6,
    ),
    Hostile(
        "personality",
        TRY
        + """\
try: syscall(135, 92, 0x0040000 | 0x0400000)
except OSError: pass
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "names of earlier calls looked for",
        """\
import gc, sys
found = [str(type(t)) for t in gc.get_objects() if isinstance(t, dict) and 'TODAYS_SECRET' in t]
print('found', found, [n for n in sys.modules if 'keep' in n])
""",
        ("ok",),
        ("found [] []",),
    ),
    Hostile(
        "itself hidden in modules of the library",
        """\
import sys, types
for m in list(sys.modules.values()):
    try: m.LEFT = open
    except Exception: pass
sys.modules['left'] = types.ModuleType('left')
sys.modules['re'].compile = None
print('main')
""",
        ("ok",),
        ("main",),
    ),
)
