"""Programs that mean harm, by class, each with what must come of it.

They are data, and run in a sandbox alone: never import them to run them here.
"""

from __future__ import annotations

from dataclasses import dataclass

# Given to a program, or planted on the host for it to find: no result may show it.
SECRET = "s3cret-of-the-host"

# A program's ways to say what it could do. "DONE" must never be seen.
TRY = """\
import ctypes, os, platform, sys, time
libc = ctypes.CDLL(None, use_errno=True)

def attempt(name, action, *arguments):
    try:
        outcome = action(*arguments)
    except BaseException as error:
        print(name, 'refused', type(error).__name__, flush=True)
    else:
        print(name, 'DONE', repr(outcome)[:200], flush=True)

def checked(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def put(path, text):
    file = os.open(path, os.O_WRONLY)
    os.write(file, text.encode())
    os.close(file)

def syscall(x86_64, aarch64, *arguments):
    number = x86_64 if platform.machine() == 'x86_64' else aarch64
    return checked(libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if type(a) is int else a for a in arguments)))

"""


@dataclass(frozen=True, slots=True)
class Hostile:
    """A program and what must come of it.

    Attributes:
        name: What it tries.
        code: The program. ``@FILE@``, ``@PORT@`` and ``@ABSTRACT@`` stand for what is planted on the host.
        status: Statuses that it may end with.
        shows: What the result must show.
        hides: What it must not show, beside ``DONE`` and the secret.
        limit_s: Time limit of the call. A ``timeout`` must be answered soon after it; all else long before.
    """

    name: str
    code: str
    status: tuple[str, ...] = ("ok",)
    shows: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()
    limit_s: float = 10.0


# What a call can see and use. It must be the same after every program: nothing left, nothing changed, nothing lost.
CANARY = """\
import atexit, builtins, codecs, decimal, gc, json, locale, math, os, random, resource, signal, socket, stat, sys
import threading, time, warnings
import numpy, sympy

def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError as error:
        return type(error).__name__

def name(thing):
    return f'{getattr(thing, "__module__", "")}.{getattr(thing, "__qualname__", type(thing).__name__)}'

def folder(path):
    try:
        facts, space = os.stat(path), os.statvfs(path)
    except OSError as error:
        return type(error).__name__
    attributes = os.listxattr(path) if hasattr(os, 'listxattr') else []
    return [os.listdir(path), oct(facts.st_mode), facts.st_uid == os.getuid(), space.f_bfree, space.f_ffree, attributes]

processes = {}
for entry in os.listdir('/proc'):
    if entry.isdigit() and (fields := read(f'/proc/{entry}/stat').rpartition(')')[2].split()):
        processes[int(entry)] = fields
status = dict(line.split(':\\t', 1) for line in read('/proc/self/status').splitlines() if ':\\t' in line)
x = sympy.Symbol('x')
print(json.dumps({
    'worker started': processes[1][19] if 1 in processes else None,
    'answer': [str(sympy.factor(x**2 - 1)), sum(range(10)), 1 + 1, math.pi, float(numpy.eye(3).sum()), len('four')],
    'random': [random.random(), float(numpy.random.random())],
    'processes': [len(processes), sorted({read(f'/proc/{pid}/comm') for pid in processes})],
    'parent is the worker': os.getppid() in processes,
    'threads': [threading.active_count(), len(os.listdir('/proc/self/task'))],
    'folders': {path: folder(path) for path in ('/tmp', '/dev/shm', '/dev/mqueue', '/var/tmp', os.getcwd())},
    'working directory': os.getcwd(),
    'environment': dict(os.environ),
    'umask': oct(os.umask(0o22)),
    'builtins': {key: name(value) for key, value in vars(builtins).items() if key != '_'},
    'modules': sorted(sys.modules),
    'module files': [math.__name__, json.__file__, os.__file__, sympy.__file__, numpy.__file__],
    'path': [sys.path, [name(hook) for hook in sys.meta_path], [name(hook) for hook in sys.path_hooks], sys.argv],
    'hooks': [sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__, name(sys.unraisablehook),
              name(threading.excepthook), sys.gettrace(), sys.getprofile(), name(builtins.__import__)],
    'collector': [gc.isenabled(), gc.get_threshold(), len(gc.callbacks), atexit._ncallbacks()],
    'interpreter': [sys.getrecursionlimit(), sys.getswitchinterval(), sys.get_int_max_str_digits(), sys.flags.optimize],
    'numbers': [decimal.getcontext().prec, locale.setlocale(locale.LC_ALL), numpy.geterr(), time.tzname],
    'warnings': len(warnings.filters),
    'encoding': [sys.stdout.encoding, codecs.lookup('utf-8').name, sys.stdout is sys.__stdout__],
    'signals': {int(s): name(signal.getsignal(s)) for s in signal.valid_signals()},
    'blocked': [status.get(key) for key in ('SigBlk', 'SigIgn', 'SigCgt')] + [signal.getitimer(0), signal.alarm(0)],
    'descriptors': {fd: oct(stat.S_IFMT(os.fstat(int(fd)).st_mode)) for fd in os.listdir('/proc/self/fd')[:-1]},
    'limits': {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith('RLIMIT')},
    'rights': [os.getresuid(), os.getgroups(), {k: v for k, v in status.items() if k[:3] in ('Cap', 'NoN', 'Sec')}],
    'priority': [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), read('/proc/self/oom_score_adj')],
    'processors': sorted(os.sched_getaffinity(0)),
    'host name': socket.gethostname(),
    'namespaces': len(status.get('NSpid', '').split()),
    'control groups': read('/proc/self/cgroup'),
    'mounts': len(read('/proc/self/mountinfo').splitlines()),
    'kernel objects': [len(read(f'/proc/{p}').splitlines()) for p in ('sysvipc/shm', 'sysvipc/sem', 'sysvipc/msg')],
    'sockets': [len(read(f'/proc/net/{p}').splitlines()) for p in ('unix', 'tcp', 'udp', 'netlink')],
}))
"""
