"""Floods, broken text and closed streams: the answer stays whole, small and true."""

from tests.hostile import Hostile

CASES = (
    Hostile(
        "flood of lines",
        """\
print('first')
while True: print('x' * 10_000)
""",
        ("killed",),
        ("first", "output"),
    ),
    Hostile(
        "flood of errors",
        """\
import sys
while True: print('x' * 10_000, file=sys.stderr)
""",
        ("killed",),
        ("output",),
    ),
    Hostile(
        "flood of bytes",
        """\
import os
while True: os.write(1, os.urandom(65536))
""",
        ("killed",),
        ("output",),
    ),
    Hostile(
        "flood on both streams from many processes",
        """\
import os
for _ in range(4):
    if os.fork() == 0: break
while True:
    os.write(1, b'\\xff' * 65536)
    os.write(2, b'\\0' * 65536)
""",
        ("killed",),
        ("output",),
    ),
    Hostile(
        "flood just under the limit",
        """\
print('x' * 3_000_000)
print('last')
""",
        ("ok",),
        ("last", "left out"),
    ),
    Hostile("huge value", "'x' * 10_000_000", ("ok", "killed"), ("left out",)),
    Hostile("huge error", "raise ValueError('x' * 10_000_000)", ("error", "killed")),
    Hostile(
        "a thousand causes",
        """\
e = None
for i in range(1000):
    n = ValueError(i)
    n.__cause__ = e
    e = n
raise e
""",
        ("error",),
        ("ValueError",),
    ),
    Hostile(
        "errors in a ring",
        """\
a, b = ValueError(1), ValueError(2)
a.__cause__, b.__cause__ = b, a
raise a
""",
        ("error",),
        ("ValueError",),
    ),
    Hostile(
        "a group of a thousand errors",
        "raise ExceptionGroup('g', [ExceptionGroup('h', [ValueError(i)]) for i in range(1000)])",
        ("error",),
        ("ExceptionGroup",),
    ),
    Hostile("lone surrogates printed", "print('\\ud800', 'end')", ("ok",), ("end",)),
    Hostile("lone surrogates as value", "'\\ud800\\udfff'", ("ok",), ("\\ud800",)),
    Hostile(
        "lone surrogates in a value's own text",
        """\
class A:
    def __repr__(self): return '\\ud800 shown'
A()
""",
        ("ok",),
        ("shown",),
    ),
    Hostile("lone surrogates raised", "raise ValueError('\\udfff')", ("error",), ("ValueError",)),
    Hostile(
        "lone surrogates in the program",
        """\
x = '\ud800'
print('end')
""",
        ("ok", "error"),
    ),
    Hostile(
        "lone surrogates in a name of an error",
        "raise type('\\ud800E', (Exception,), {})('said')",
        ("error",),
        ("said",),
    ),
    Hostile(
        "bytes that are no text",
        """\
import os
_ = os.write(1, bytes(range(256)))
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile("half a character at the cut", "print('é' * 100_000 + 'end')", ("ok",), ("end", "left out")),
    Hostile("NUL and control characters", "print('\\0\\x1b[2J\\r\\x07end')", ("ok",), ("\0\x1b[2J\r\x07end",)),
    Hostile(
        "line ends of every kind", "print('a\\u2028b\\u2029c\\x85d\\x0be\\r\\nend')", ("ok",), ("\u2028b\u2029c", "end")
    ),
    Hostile("a line without end", "print('x' * 60_000, end='')", ("ok",)),
    Hostile(
        "streams closed",
        """\
import os, sys
sys.stdout.close()
sys.stderr.close()
os.closerange(0, 3)
""",
        ("ok", "error"),
    ),
    Hostile(
        "streams are None",
        """\
import sys
sys.stdout = sys.stderr = sys.stdin = sys.__stdout__ = sys.__stderr__ = None
1
""",
        ("ok",),
        ("1",),
    ),
    Hostile(
        "a stream that fails",
        """\
import sys
class S:
    def write(self, text): raise SystemExit(3)
    flush = write
sys.stdout = sys.stderr = S()
1
""",
        ("ok", "error"),
    ),
    Hostile(
        "output that does not wait",
        """\
import os
os.set_blocking(1, False)
try:
    for _ in range(50): os.write(1, b'x' * 65536)
except BlockingIOError: pass
os.set_blocking(1, True)
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "a wider pipe",
        """\
import fcntl
for size in (1 << 30, 1 << 20, 4096):
    try: fcntl.fcntl(1, 1031, size)
    except OSError: pass
print('y' * 500_000, 'end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "its own output read back",
        """\
import os
print('before', flush=True)
try:
    fd = os.open('/proc/self/fd/1', os.O_RDONLY | os.O_NONBLOCK)
    os.read(fd, 100)
except OSError: pass
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "warnings",
        """\
import warnings
for i in range(3): warnings.warn(f'careful {i}')
print('kept')
""",
        ("ok",),
        ("kept", "careful 2"),
    ),
    Hostile(
        "input that is not there",
        """\
import sys
print([sys.stdin.read()])
input()
""",
        ("error",),
        ("['']", "EOFError"),
    ),
    Hostile(
        "input from descriptor 0, by every way",
        """\
import os
print([os.read(0, 10)], [open('/dev/stdin').read()], [open(0).read()])
""",
        ("ok", "error"),
    ),
    Hostile(
        "half a character when time is up",
        "import os, time\n_ = os.write(1, 'start é'.encode()[:-1])\ntime.sleep(60)",
        ("timeout",),
        ("start",),
        limit_s=0.3,
    ),
    Hostile("errors that are no exceptions of the ordinary kind", "raise GeneratorExit('said')", ("error",), ("said",)),
)
