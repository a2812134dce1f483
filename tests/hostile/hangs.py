"""Programs that do not end: in Python, in C, at the exit."""

from tests.hostile import Hostile


def hang(name: str, code: str, limit_s: float = 0.3) -> Hostile:
    """A program that must run into its limit, and keep what it printed before."""
    return Hostile(name, f"print('start', flush=True)\n{code}", ("timeout",), ("start",), limit_s=limit_s)


CASES = (
    hang("busy loop", "while True: pass"),
    hang("sleep", "import time; time.sleep(1e6)"),
    hang("sleep in C", "import ctypes; ctypes.CDLL(None).sleep(60)"),
    hang("loop in C that holds the interpreter", "import ctypes; ctypes.PyDLL(None).sleep(60)"),
    hang("regular expression that backtracks", "import re; re.match('(a+)+$', 'a' * 40 + 'b')"),
    hang("huge power", "x = 7 ** (10 ** 8)"),
    hang("huge sum", "sum(range(10 ** 14))"),
    hang("membership of a huge range", "10 ** 30 in iter(range(10 ** 15))"),
    hang("lock that it holds already", "import threading; a = threading.Lock(); a.acquire(); a.acquire()"),
    Hostile(
        "named pipe that nobody opens", "import os; os.mkfifo('fifo'); open('fifo')", ("timeout", "error"), limit_s=0.3
    ),
    hang("pipe that nobody writes", "import os; r, w = os.pipe(); os.read(r, 1)"),
    hang("pause", "import signal; signal.pause()"),
    hang(
        "deaf to interrupts",
        """\
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    ),
    hang("a thread that never ends", "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()"),
    hang("an exit handler that never ends", "import atexit, time; atexit.register(time.sleep, 60)"),
    hang(
        "a value that is never shown",
        """\
class A:
    def __repr__(self):
        while True: pass
A()
""",
    ),
    hang(
        "an error that is never shown",
        """\
class E(Exception):
    def __str__(self):
        while True: pass
raise E
""",
    ),
    hang(
        "output that is never flushed",
        """\
import sys, io
class S(io.StringIO):
    def flush(self):
        while True: pass
sys.stdout = S()
""",
    ),
    Hostile(
        "processor time spread over processes",
        """\
import os
print('start', flush=True)
for _ in range(6):
    if os.fork() == 0: break
while True: pass
""",
        ("timeout",),
        ("start",),
        limit_s=0.4,
    ),
    Hostile(
        "a finaliser that never ends",
        """\
class A:
    def __del__(self):
        while True: pass
import sys, types
keep = sys.modules['keep'] = A()
print('main')
""",
        ("ok", "timeout"),
        ("main",),
        limit_s=0.4,
    ),
    Hostile(
        "finalisers and exit handlers that fail",
        """\
import atexit, gc, weakref
class A:
    def __del__(self): raise ValueError('del')
a = A(); a.self = a
weakref.finalize(a, lambda: 1 / 0)
atexit.register(lambda: 1 / 0)
atexit.register(lambda: exit(9))
gc.callbacks.append(lambda *_: 1 / 0)
print('main')
""",
        ("ok", "error"),
        ("main",),
    ),
)
