"""Signals to the worker, to all, to itself."""

from tests.hostile import TRY, Hostile

CASES = (
    Hostile(
        "every signal to the parent",
        """\
import os
for s in range(1, 65):
    try: os.kill(os.getppid(), s)
    except OSError: pass
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "every signal to process 1 and to its group",
        """\
import os
for s in range(1, 65):
    for pid in (1, -os.getpgid(1)):
        try: os.kill(pid, s) if pid < -1 or pid == 1 else None
        except OSError: pass
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "kill all",
        """\
import os
try: os.kill(-1, 9)
except OSError: pass
print('main')
""",
        ("ok", "killed"),
    ),
    Hostile(
        "stop all, then go on",
        """\
import os, signal
try: os.kill(-1, signal.SIGSTOP)
except OSError: pass
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "kill its own group",
        """\
import os
os.kill(0, 9)
""",
        ("killed",),
        ("SIGKILL",),
    ),
    Hostile(
        "kill itself",
        """\
import os
print('before')
os.kill(os.getpid(), 9)
""",
        ("killed",),
        ("before", "SIGKILL"),
    ),
    Hostile(
        "stop itself",
        """\
import os, signal
os.kill(os.getpid(), signal.SIGSTOP)
""",
        ("timeout",),
        limit_s=0.4,
    ),
    Hostile(
        "stop by terminal signals, its group as well",
        """\
import os, signal
os.killpg(0, signal.SIGTSTP)
os.killpg(0, signal.SIGTTIN)
print('main')
""",
        ("ok", "timeout"),
        limit_s=0.4,
    ),
    Hostile(
        "real-time signal to itself",
        """\
import os
os.kill(os.getpid(), 40)
""",
        ("killed",),
    ),
    Hostile(
        "a storm of SIGCHLD to the worker",
        """\
import os, signal, time
end = time.time() + 0.3
while time.time() < end:
    try: os.kill(os.getppid(), signal.SIGCHLD)
    except OSError: pass
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "a storm that goes on after it left",
        """\
import os, signal
for _ in range(4):
    if os.fork() == 0:
        while True:
            for pid in (1, os.getppid()):
                try: os.kill(pid, signal.SIGCHLD)
                except OSError: pass
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "signals by file owner",
        """\
import fcntl, os, signal
read, write = os.pipe()
for s in (9, 15, signal.SIGCHLD, 19):
    try:
        fcntl.fcntl(read, fcntl.F_SETOWN, 1)
        fcntl.fcntl(read, 10, s)  # F_SETSIG
        fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        os.write(write, b'x')
    except OSError: pass
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "signals by descriptor of a process, by queue and by thread",
        TRY
        + """\
try: fd = os.pidfd_open(1)
except OSError: fd = -1
for s in (9, 19):
    if fd >= 0:
        libc.syscall(424, fd, s, 0, 0)
    libc.syscall(234 if platform.machine() == 'x86_64' else 131, 1, 1, s)
    libc.syscall(129 if platform.machine() == 'x86_64' else 138, 1, s, ctypes.create_string_buffer(128))
print('main')
""",
        ("ok", "error"),
    ),
    Hostile(
        "alarms without end",
        """\
import signal, time
count = 0
def handler(*_):
    global count
    count += 1
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
end = time.time() + 0.1
while time.time() < end: pass
print(count > 5)
""",
        ("ok",),
        ("True",),
    ),
    Hostile(
        "a handler that raises at the worst time",
        """\
import signal
def handler(*_): raise RuntimeError('out of nowhere')
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
'the end'
""",
        ("ok", "error", "killed"),
    ),
    Hostile(
        "a kernel timer that kills",
        """\
import signal
signal.setitimer(signal.ITIMER_REAL, 0.05)
while True: pass
""",
        ("killed",),
        ("SIGALRM",),
    ),
    Hostile(
        "death signal for the worker's children",
        TRY
        + """\
for s in (9, 15, 19, 0): libc.prctl(1, s, 0, 0, 0)
print('main')
""",
        ("ok",),
        ("main",),
    ),
    Hostile(
        "signals blocked for ever",
        """\
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
for s in signal.valid_signals() - {9, 19}: signal.signal(s, signal.SIG_IGN)
print('start', flush=True)
while True: pass
""",
        ("timeout",),
        ("start",),
        limit_s=0.4,
    ),
    Hostile(
        "groups and sessions of others",
        TRY
        + """\
attempt('group', os.setpgid, 1, os.getpid())
attempt('parent', os.setpgid, os.getppid(), os.getpid())
attempt('session', os.setsid)
attempt('terminal', os.tcsetpgrp, 0, 1)
attempt('priority', os.setpriority, os.PRIO_PROCESS, 1, 19)
attempt('of the user', os.setpriority, os.PRIO_USER, 0, 19)
attempt('of the group', os.setpriority, os.PRIO_PGRP, os.getpgid(1) or 1, 19)
attempt('faster', os.setpriority, os.PRIO_PROCESS, 0, -20)
attempt('real time', os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(50))
print('end')
""",
        ("ok",),
        ("group refused", "faster refused", "real time refused", "end"),
    ),
)
