"""Forks, daemons, threads: nothing of a call runs on, and the next one has room."""

from tests.hostile import TRY, Hostile

ANY = ("ok", "error", "killed")

DAEMON = """\
import os, sys, time
def daemon(body):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            body()
        os._exit(0)
"""

CASES = (
    Hostile(
        "fork bomb that never ends",
        """\
import os
print('start')
while True:
    try: os.fork()
    except OSError: pass
""",
        ("timeout",),
        ("start",),
        limit_s=0.4,
    ),
    Hostile(
        "fork bomb whose first process leaves",
        """\
import os
main = os.getpid()
try:
    while True: os.fork()
except OSError:
    if os.getpid() == main: os._exit(0)
    while True:
        try: os.fork()
        except OSError: pass
""",
        ("ok",),
    ),
    Hostile(
        "fork bomb by libc",
        """\
import ctypes, os
libc = ctypes.CDLL(None)
main, tries = os.getpid(), 0
while tries < 200:
    tries += 1
    libc.fork()
if os.getpid() != main:
    while True: pass
print('main')
""",
        ("ok", "timeout"),
        limit_s=1,
    ),
    Hostile(
        "fork bomb by vfork",
        """\
import ctypes
libc = ctypes.CDLL(None)
for _ in range(1000): libc.vfork()
""",
        (*ANY, "timeout"),
        limit_s=0.6,
    ),
    Hostile(
        "fork bomb by the clone call",
        TRY
        + """\
main, tries = os.getpid(), 0
while tries < 200:
    tries += 1
    try: syscall(56, 220, 17, 0, 0, 0, 0)
    except OSError: pass
if os.getpid() != main:
    while True: pass
print('main')
""",
        ("ok", "timeout"),
        limit_s=1,
    ),
    Hostile(
        "children that are nobody's: clone without a signal, and with the parent's parent",
        TRY
        + """\
for flags in (0, 0x8000):  # no SIGCHLD at the end; CLONE_PARENT: a sibling, child of the worker
    try: pid = syscall(56, 220, flags | (17 if flags else 0), 0, 0, 0, 0)
    except OSError as error: pid = -1
    if pid == 0:
        while True: pass
print('main')
""",
        ANY,
    ),
    Hostile(
        "a sibling that speaks as the call's main process",
        TRY
        + """\
pid = syscall(56, 220, 0x8000 | 17, 0, 0, 0, 0)
if pid == 0:
    os._exit(0)
time.sleep(0.1)
print('main')
""",
        ANY,
        hides=("lost",),
    ),
    Hostile(
        "threads without end",
        """\
import threading, time
threading.stack_size(1 << 16)
count = 0
try:
    while count < 5000:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        count += 1
except (RuntimeError, MemoryError):
    print('refused')
""",
        ("ok",),
        ("refused",),
    ),
    Hostile(
        "daemon that holds the pipes",
        DAEMON
        + """\
daemon(lambda: time.sleep(60))
print('main')
""",
        ("ok",),
        ("main",),
        limit_s=8,
    ),
    Hostile(
        "daemon that ignores every signal and has another name",
        DAEMON
        + """\
import signal
def body():
    for s in signal.valid_signals() - {9, 19}: signal.signal(s, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    open('/proc/self/comm', 'w').write('kworker/0:1')
    os.closerange(0, 100)
    while True: pass
daemon(body)
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "daemon that writes files without end",
        DAEMON
        + """\
def body():
    n = 0
    while True:
        for folder in ('/tmp', '/dev/shm'):
            try: open(f'{folder}/again-{n % 50}', 'w').write('x')
            except OSError: pass
        n += 1
daemon(body)
time.sleep(0.1)
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "daemon that writes to the output without end",
        DAEMON
        + """\
def body():
    while True: os.write(1, b'late' * 1000)
daemon(body)
print('main')
""",
        ("ok", "killed"),
    ),
    Hostile(
        "twenty processes that hop: each forks the next and leaves",
        DAEMON
        + """\
def hop():
    while True:
        try:
            if os.fork(): os._exit(0)
        except OSError: pass
for _ in range(20):
    try: daemon(hop)
    except OSError: break
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "hopping while the call runs into its limit",
        DAEMON
        + """\
def hop():
    while True:
        try:
            if os.fork(): os._exit(0)
        except OSError: pass
print('main', flush=True)
for _ in range(8):
    try: daemon(hop)
    except OSError: break
hop()
""",
        ("ok", "timeout"),
        limit_s=0.4,
    ),
    Hostile(
        "stopped children",
        """\
import os, signal, time
for _ in range(8):
    if os.fork() == 0:
        os.setsid()
        os.kill(os.getpid(), signal.SIGSTOP)
        while True: pass
time.sleep(0.05)
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "children left unreaped",
        """\
import os
for _ in range(16):
    if os.fork() == 0: os._exit(1)
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "main process leaves, its threads and children run",
        """\
import os, threading
if os.fork() == 0:
    while True: pass
for _ in range(4): threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()
os._exit(5)
""",
        ("error",),
    ),
    Hostile(
        "main thread ends, the process does not",
        TRY
        + """\
import threading
threading.Thread(target=time.sleep, args=(60,)).start()
print('start', flush=True)
syscall(60, 93, 0)
""",
        (*ANY, "timeout"),
        ("start",),
        limit_s=0.5,
    ),
    Hostile(
        "a subreaper that collects orphans",
        TRY
        + """\
libc.prctl(36, 1, 0, 0, 0)
if os.fork() == 0:
    if os.fork() == 0:
        while True: pass
    os._exit(0)
time.sleep(0.1)
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "the process limit raised",
        TRY
        + """\
import resource
infinite = resource.RLIM_INFINITY
for name in dir(resource):
    if name.startswith('RLIMIT_') and resource.getrlimit(getattr(resource, name))[1] != infinite:
        hard = resource.getrlimit(getattr(resource, name))[1]
        attempt(name, resource.setrlimit, getattr(resource, name), (hard + 1, hard + 1))
        attempt(name, resource.setrlimit, getattr(resource, name), (infinite, infinite))
print('end')
""",
        ("ok",),
        ("RLIMIT_NOFILE refused", "RLIMIT_DATA refused", "end"),
    ),
    Hostile(
        "other programs",
        TRY
        + """\
import shutil, subprocess
attempt('run', subprocess.run, [sys.executable, '-c', 'print(6 * 7)'])
attempt('spawn', os.posix_spawn, sys.executable, [sys.executable, '-c', 'print(6 * 7)'], {})
print('shell', os.system('echo $((6*7))'))
if os.fork() == 0:
    try: os.execv(sys.executable, [sys.executable, '-I', '-S', '-c', 'print(6 * 7)'])
    except OSError: print('exec refused', flush=True)
    os._exit(0)
os.wait()
""",
        ("ok",),
        ("run refused", "spawn refused", "exec refused"),
        ("42",),
    ),
    Hostile(
        "a program of its own making",
        TRY
        + """\
elf = open(sys.executable, 'rb').read()
for folder in ('/tmp', '/dev/shm'):
    try: open(f'{folder}/program', 'wb').write(elf)
    except OSError: continue
    os.chmod(f'{folder}/program', 0o6755)
    attempt('exec', os.posix_spawn, f'{folder}/program', ['program', '-c', 'print(6 * 7)'], {})
print('end')
""",
        ("ok",),
        ("end",),
        ("42",),
    ),
    Hostile(
        "work for many: pools of processes are ended, too",
        """\
import multiprocessing
pool = multiprocessing.get_context('fork').Pool(2)
print(pool.map(abs, [-1, -2]))
""",
        (*ANY, "timeout"),
        limit_s=2,
    ),
    Hostile(
        "both halves of a fork go on to the end",
        "import os, sys\npid = os.fork()\nprint('half')\n'the parent' if pid else sys.exit(7)",
        ("ok",),
        ("half", "the parent"),
    ),
    Hostile(
        "a fork that outlives its parent and fails",
        """\
import os, time
if os.fork() == 0:
    time.sleep(0.05)
    raise ValueError('late')
print('main')
5
""",
        ("ok",),
        ("main", "5"),
        ("late",),
    ),
    Hostile(
        "watches and waits without number",
        """\
import ctypes, os, select
libc, held = ctypes.CDLL(None), []
for _ in range(2000):
    fd = libc.inotify_init()
    if fd < 0: break
    libc.inotify_add_watch(fd, b'/tmp', 0xfff)
for _ in range(2000):
    try: held.append(select.epoll())
    except OSError: break
print('end')
""",
        ("ok",),
        ("end",),
    ),
)
