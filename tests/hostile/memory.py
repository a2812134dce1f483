"""Memory: the program gets a MemoryError or is killed, and the next call never feels it."""

from tests.hostile import TRY, Hostile

FAILS = ("error", "killed")

CASES = (
    Hostile("one huge block", "x = bytearray(10 ** 11)", ("error",), ("MemoryError",)),
    Hostile(
        "a block beyond the limit",
        """\
x = bytearray(10 ** 9)
x[::4096] = x[::4096]
""",
        FAILS,
    ),
    Hostile(
        "a list that grows",
        """\
x = []
while True: x.append(bytes(1 << 20))
""",
        FAILS,
    ),
    Hostile(
        "text that doubles",
        """\
x = 'x'
while True: x += x
""",
        FAILS,
    ),
    Hostile("a shift", "x = 1 << (1 << 40)", ("error",)),
    Hostile(
        "numpy",
        """\
import numpy
x = numpy.ones((100_000, 100_000))
""",
        ("error",),
        ("MemoryError",),
    ),
    Hostile(
        "many small objects",
        """\
x = []
while True: x = [x, [0] * 1000, {}]
""",
        FAILS,
    ),
    Hostile(
        "deaf to MemoryError",
        """\
held = []
for size in (1 << 26, 1 << 22, 1 << 18):
    try:
        while True: held.append(bytearray(size))
    except MemoryError: pass
print('full', flush=True)
held.clear()
print('main')
""",
        ("ok", "killed"),
    ),
    Hostile(
        "full to the brim at its end",
        """\
held = []
try:
    while True: held.append(bytearray(1 << 16))
except MemoryError: pass
held[0]
""",
        ("ok", *FAILS),
    ),
    Hostile(
        "anonymous maps",
        TRY
        + """\
import mmap
maps = []
try:
    while True:
        maps.append(mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        maps[-1][0] = 1
except (OSError, MemoryError, ValueError) as error:
    print('refused after', len(maps))
""",
        ("ok", "killed"),
        hides=("after 100",),
    ),
    Hostile(
        "shared maps, each byte touched",
        """\
import mmap
maps, page = [], b'x' * 4096
try:
    while True:
        maps.append(mmap.mmap(-1, 32 << 20))
        for at in range(0, 32 << 20, 4096): maps[-1][at] = 1
except (OSError, MemoryError, ValueError):
    print('refused')
""",
        ("ok", "killed"),
    ),
    Hostile(
        "four processes, each within its limit, that say that others should die",
        """\
import os, time
for _ in range(4):
    if os.fork() == 0:
        try: open('/proc/self/oom_score_adj', 'w').write('0')
        except OSError: pass
        held = []
        try:
            while len(held) < 90: held.append(b'x' * (1 << 20))
        except MemoryError: pass
        time.sleep(0.2)
        os._exit(0)
for _ in range(4): os.wait()
print('main')
""",
        ("ok", "killed"),
    ),
    Hostile(
        "the killer of last resort turned away",
        TRY
        + """\
attempt('adj', put, '/proc/self/oom_score_adj', '-1000')
attempt('worker', put, '/proc/1/oom_score_adj', '1000')
attempt('parent', put, f'/proc/{os.getppid()}/oom_score_adj', '1000')
""",
        ("ok",),
        ("adj refused", "worker refused", "parent refused"),
    ),
    Hostile(
        "locked memory",
        TRY
        + """\
libc.mlockall(7)
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "files of memory",
        TRY
        + """\
import mmap
for _ in range(3):
    try: fd = os.memfd_create('left')
    except OSError: break
    for _ in range(8): os.write(fd, b'x' * (1 << 20))
print('main')
""",
        ("ok", *FAILS),
    ),
    Hostile(
        "pipes filled and held",
        """\
import fcntl, os
pipes = []
try:
    while True:
        pipes.append(os.pipe())
        fcntl.fcntl(pipes[-1][1], 1031, 1 << 20)
        os.set_blocking(pipes[-1][1], False)
        os.write(pipes[-1][1], b'x' * (1 << 20))
except OSError: print('refused')
""",
        ("ok",),
        ("refused",),
    ),
    Hostile(
        "kernel objects left behind",
        TRY
        + """\
for name, numbers in {'shm': (29, 194), 'sem': (64, 190), 'msg': (68, 186)}.items():
    arguments = {'shm': (0, 4096, 0o1666), 'sem': (0, 1, 0o1666), 'msg': (0, 0o1666)}[name]
    attempt(name, syscall, *numbers, *arguments)
""",
        ("ok",),
        ("shm refused", "sem refused", "msg refused"),
    ),
    Hostile(
        "a compressed bomb",
        """\
import zlib
d = zlib.decompressobj()
z = zlib.compress(bytes(10**7)) 
x = b''
while True: x += zlib.decompress(z)
""",
        FAILS,
    ),
    Hostile(
        "a tower of brackets",
        """\
x = []
for _ in range(10**6): x = [x]
print('built')
x
""",
        ("ok", *FAILS),
        ("built",),
    ),
    Hostile(
        "folders in memory filled, then the rest",
        """\
for folder in ('/tmp', '/dev/shm'):
    for n in range(8):
        try: open(f'{folder}/{n}', 'wb').write(bytes(16 << 20))
        except OSError: break
held = []
while True: held.append(b'x' * (1 << 20))
""",
        FAILS,
    ),
    Hostile(
        "its own program written to",
        TRY
        + """\
attempt('exe', lambda: open('/proc/self/exe', 'r+b'))
memory = os.open('/proc/self/mem', os.O_RDWR)
for line in open('/proc/self/maps'):
    if 'libc' in line and 'r-xp' in line:
        start = int(line.split('-')[0], 16)
        for at in range(0, 4096, 8):
            try: os.pwrite(memory, b'\\xcc' * 8, start + at)
            except OSError: break
print('main')
""",
        ("ok", *FAILS),
        ("exe refused",),
    ),
)
