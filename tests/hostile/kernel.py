"""Rights, namespaces, other processes' memory, devices, control groups, clocks, and calls that few programs need."""

from tests.hostile import TRY, Hostile

CALLS = {  # name: x86_64, aarch64, arguments that would do something, or at least reach the kernel
    "bpf": (321, 280, "0, 0, 0"),
    "perf_event_open": (298, 241, "ctypes.create_string_buffer(b'\\x01\\0\\0\\0\\x70', 128), 0, -1, -1, 0"),
    "userfaultfd": (323, 282, "1"),
    "add_key": (248, 217, "b'user', b'left', b'x', 1, -4"),
    "keyctl": (250, 219, "0, -4, 1"),
    "request_key": (249, 218, "b'user', b'left', 0, -4"),
    "io_uring_setup": (425, 425, "8, ctypes.create_string_buffer(200)"),
    "kexec_load": (246, 104, "0, 0, 0, 0"),
    "init_module": (175, 105, "b'', 0, b''"),
    "finit_module": (313, 273, "0, b'', 0"),
    "delete_module": (176, 106, "b'x', 0"),
    "swapon": (167, 224, "b'/tmp/x', 0"),
    "swapoff": (168, 225, "b'/tmp/x'"),
    "reboot": (169, 142, "0xfee1dead, 672274793, 0x89abcdef, 0"),
    "sethostname": (170, 161, "b'left', 4"),
    "setdomainname": (171, 162, "b'left', 4"),
    "settimeofday": (164, 170, "ctypes.create_string_buffer(16), 0"),
    "clock_settime": (227, 112, "0, ctypes.create_string_buffer(16)"),
    "acct": (163, 89, "b'/tmp/x'"),
    "syslog": (103, 116, "3, ctypes.create_string_buffer(100), 100"),
    "quotactl": (179, 60, "0, 0, 0, 0"),
    "open_by_handle_at": (304, 265, "0, ctypes.create_string_buffer(128), 0"),
    "fanotify_init": (300, 262, "0, 0"),
    "memfd_secret": (447, 447, "0"),
    "move_pages": (279, 239, "1, 1, ctypes.create_string_buffer(8), 0, ctypes.create_string_buffer(8), 4"),
    "migrate_pages": (256, 238, "1, 64, 0, 0"),
    "process_madvise": (440, 440, "-1, 0, 0, 4, 0"),
    "mq_open": (240, 180, "b'left', 0o102, 0o666, 0"),
    "pivot_root": (155, 41, "b'/tmp', b'/tmp'"),
    "vhangup": (153, 58, ""),
    "ioprio_set": (251, 30, "1, 1, (1 << 13) | 0"),
}
PORTS = """\
if platform.machine() == 'x86_64':
    attempt('iopl', syscall, 172, 0, 3)
    attempt('ioperm', syscall, 173, 0, 0, 1024, 1)
"""
UNNEEDED = "".join(f"attempt('{n}', lambda: syscall({', '.join(map(str, call))}))\n" for n, call in CALLS.items())

CASES = (
    Hostile(
        "calls that no program here needs",
        TRY + UNNEEDED + PORTS,
        ("ok",),
        tuple(f"{name} refused" for name in CALLS),
    ),
    Hostile(
        "namespaces of its own",
        TRY
        + """\
for name, flag in {'user': 0x10000000, 'mount': 0x20000, 'pid': 0x20000000, 'net': 0x40000000, 'ipc': 0x8000000,
                   'uts': 0x4000000, 'cgroup': 0x2000000, 'time': 0x80}.items():
    attempt(name, lambda: checked(libc.unshare(flag)))
    attempt(name + ' with user', lambda: checked(libc.unshare(flag | 0x10000000)))
    attempt(name + ' clone', lambda: syscall(56, 220, flag | 0x10000000 | 17, 0, 0, 0, 0) or os._exit(0))
arguments = ctypes.create_string_buffer((0x10000000).to_bytes(8, 'little') + bytes(24) + (17).to_bytes(8, 'little'), 88)
attempt('clone3', lambda: syscall(435, 435, arguments, 88) or os._exit(0))
""",
        ("ok",),
        ("user refused", "net with user refused", "mount clone refused", "clone3 refused"),
    ),
    Hostile(
        "namespaces of others",
        TRY
        + """\
for path in (f'/proc/{who}/ns/{name}' for who in (1, 'self') for name in ('net', 'mnt', 'user', 'pid')):
    attempt(path, lambda: checked(libc.setns(os.open(path, os.O_RDONLY), 0)))
try: attempt('process', lambda: checked(libc.setns(os.pidfd_open(1), 0x20000)))
except OSError: pass
print('end')
""",
        ("ok",),
        ("/proc/self/ns/net refused", "end"),
    ),
    Hostile(
        "mounts",
        TRY
        + """\
attempt('tmpfs', lambda: checked(libc.mount(b'x', b'/tmp', b'tmpfs', 0, None)))
attempt('proc', lambda: checked(libc.mount(b'proc', b'/tmp', b'proc', 0, None)))
attempt('bind', lambda: checked(libc.mount(b'/', b'/tmp', None, 4096, None)))
attempt('writable', lambda: checked(libc.mount(b'', b'/', None, 32 | 4096, None)))
attempt('away', lambda: checked(libc.umount2(b'/tmp', 2)))
attempt('proc away', lambda: checked(libc.umount2(b'/proc', 2)))
attempt('open tree', syscall, 428, 428, -100, b'/', 1)
attempt('fsopen', syscall, 430, 430, b'tmpfs', 0)
attempt('move', syscall, 429, 429, -100, b'/', -100, b'/tmp', 0)
attempt('settings', syscall, 442, 442, -100, b'/', 0, bytes(32), 32)
attempt('root', os.chroot, '/tmp')
""",
        ("ok",),
        ("tmpfs refused", "bind refused", "writable refused", "away refused", "open tree refused", "root refused"),
    ),
    Hostile(
        "another user",
        TRY
        + """\
for name, action in {
    'setuid': lambda: os.setuid(0), 'setgid': lambda: os.setgid(0), 'seteuid': lambda: os.seteuid(0),
    'setresuid': lambda: os.setresuid(0, 0, 0), 'groups': lambda: os.setgroups([0]), 'other': lambda: os.setuid(1),
    'initgroups': lambda: os.initgroups('root', 0)}.items(): attempt(name, action)
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
attempt('capset', lambda: checked(libc.capset(header, (ctypes.c_uint32 * 6)(*[0xffffffff] * 6))))
attempt('ambient', lambda: checked(libc.prctl(47, 2, 21, 0, 0)))
attempt('new rights', lambda: checked(libc.prctl(38, 0, 0, 0, 0)))
attempt('secure bits', lambda: checked(libc.prctl(28, 1, 0, 0, 0)))
attempt('owner', lambda: os.chown('/tmp', 0, 0))
print('I am', os.getuid() != 0 and os.geteuid() != 0)
""",
        ("ok",),
        ("setuid refused", "setresuid refused", "groups refused", "capset refused", "new rights refused", "I am True"),
    ),
    Hostile(
        "programs that lend rights",
        """\
import os, stat
for folder, folders, names in os.walk('/', onerror=None):
    if folder.startswith(('/proc', '/sys', '/dev')) or os.statvfs(folder).f_flag & os.ST_NOSUID:
        folders.clear()
        continue
    for name in names:
        try: mode = os.lstat(f'{folder}/{name}').st_mode
        except OSError: continue
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID): print('DONE', f'{folder}/{name}')
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "memory of the worker",
        TRY
        + """\
class Part(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]
for pid in {1, os.getppid()}:
    attempt('attach', lambda: checked(libc.ptrace(16, pid, 0, 0)))
    attempt('seize', lambda: checked(libc.ptrace(0x4206, pid, 0, 0)))
    for mode in ('rb', 'r+b'): attempt('mem', lambda: open(f'/proc/{pid}/mem', mode))
    for name in ('maps', 'smaps', 'environ', 'auxv', 'syscall', 'stack', 'pagemap'):
        attempt(name, lambda: open(f'/proc/{pid}/{name}').read(10) or 1 / 0)
    for name in ('root', 'cwd', 'exe', 'fd/0'): attempt(name, os.readlink, f'/proc/{pid}/{name}')
    here = ctypes.create_string_buffer(8)
    local, remote = Part(ctypes.addressof(here), 8), Part(id(None), 8)
    attempt('read', lambda: checked(libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)))
    attempt('write', lambda: checked(libc.process_vm_writev(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)))
    attempt('kcmp', syscall, 312, 272, os.getpid(), pid, 0, 0, 0)
    attempt('prlimit', lambda: __import__('resource').prlimit(pid, 7, (1, 1)))
    attempt('affinity', lambda: os.sched_setaffinity(pid, {0}))
    attempt('priority', lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
""".replace(
            """\
    attempt('affinity', lambda: os.sched_setaffinity(pid, {0}))
    attempt('priority', lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
""",
            "",
        ),
        ("ok",),
        ("attach refused", "mem refused", "maps refused", "environ refused", "read refused", "prlimit refused"),
    ),
    Hostile(
        "the worker slowed down",
        """\
import os
for pid in {1, os.getppid()}:
    for action in (lambda: os.sched_setaffinity(pid, {0}), lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
                   lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))):
        try: action()
        except OSError: pass
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "its own children traced",
        TRY
        + """\
import signal
pid = os.fork()
if pid == 0:
    libc.ptrace(0, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)
time.sleep(0.05)
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "devices",
        TRY
        + """\
for name in ('mem', 'kmem', 'port', 'kmsg', 'sda', 'vda', 'nvme0n1', 'kvm', 'fuse', 'loop0', 'loop-control', 'net/tun',
             'vsock', 'vhost-vsock', 'vhost-net', 'rtc', 'rtc0', 'nvidia0', 'nvidiactl', 'dri/card0', 'input/event0',
             'snd/timer', 'hpet', 'watchdog', 'mapper/control', 'tty', 'tty0', 'tty1', 'console', 'ttyS0', 'uinput',
             'autofs', 'btrfs-control', 'cpu_dma_latency', 'userfaultfd', 'zram0', 'ram0', 'initctl', 'bus/usb'):
    attempt(name, lambda: os.close(os.open(f'/dev/{name}', os.O_RDWR | os.O_NONBLOCK)) or 'opened')
""",
        ("ok",),
        ("mem refused", "kvm refused", "fuse refused", "net/tun refused", "vhost-vsock refused"),
    ),
    Hostile(
        "control groups",
        TRY
        + """\
import glob
for folder in ('/sys/fs/cgroup', *glob.glob('/sys/fs/cgroup/*'), *glob.glob('/sys/fs/cgroup/*/*')):
    for name in ('cgroup.procs', 'tasks', 'memory.limit_in_bytes', 'memory.max', 'pids.max', 'cpu.cfs_quota_us',
                 'release_agent', 'notify_on_release', 'devices.allow', 'cgroup.freeze', 'freezer.state', 'cpu.max'):
        path = f'{folder}/{name}'
        if os.path.exists(path): attempt(name, put, path, '0')
    if os.path.isdir(folder): attempt('group', os.mkdir, f'{folder}/left')
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "terminals",
        TRY
        + """\
import fcntl, termios
for fd in range(4):
    attempt('type', lambda: fcntl.ioctl(fd, termios.TIOCSTI, b'x'))
    attempt('take', lambda: fcntl.ioctl(fd, termios.TIOCSCTTY, 1))
    attempt('console', lambda: fcntl.ioctl(fd, 0x541D))
    attempt('paste', lambda: fcntl.ioctl(fd, 0x541C, b'\\x02'))
attempt('tty', lambda: open('/dev/tty', 'w'))
print([os.isatty(fd) for fd in range(3)])
""",
        ("ok",),
        ("type refused", "take refused", "tty refused", "[False, False, False]"),
    ),
    Hostile(
        "terminals of its own",
        """\
import os, termios, fcntl
try:
    for _ in range(20):
        first, second = os.openpty()
        os.setsid() if os.getsid(0) != os.getpid() else None
        fcntl.ioctl(second, termios.TIOCSCTTY, 0)
        fcntl.ioctl(second, termios.TIOCSTI, b'x')
except OSError: pass
print('end')
""",
        ("ok", "killed"),
    ),
    Hostile(
        "clocks",
        TRY
        + """\
attempt('set', lambda: time.clock_settime(time.CLOCK_REALTIME, 0))
attempt('adjust', lambda: checked(libc.adjtimex(ctypes.create_string_buffer((0x8001).to_bytes(4, 'little'), 256))))
attempt('offsets', put, '/proc/self/timens_offsets', 'monotonic 100 0')
print(time.time() > 1e9)
""",
        ("ok",),
        ("set refused", "adjust refused", "True"),
    ),
    Hostile(
        "settings of its process",
        TRY
        + """\
for option in range(1, 70):
    if option in (22, 59): continue  # filters of its own: see elsewhere
    for value in (0, 1, 9): libc.prctl(option, value, 0, 0, 0)
print('end', flush=True)
""",
        ("ok", "error", "killed"),
        ("end",),
        limit_s=3,
    ),
    Hostile(
        "calls by the old gates: 32 bits",
        TRY
        + """\
import mmap
if platform.machine() == 'x86_64':
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')  # getpid, as a program of 1995 asks for it
    print('start', flush=True)
    gate = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    print('DONE' if gate() == os.getpid() else 'refused')
else:
    print('start refused')
    os._exit(1)
""",
        ("ok", "error", "killed"),
        ("start",),
    ),
    Hostile(
        "calls by the old gates: x32",
        TRY
        + """\
print('start', flush=True)
if platform.machine() == 'x86_64':
    print('DONE' if libc.syscall(ctypes.c_long(0x40000000 | 39)) == os.getpid() else 'refused')
""",
        ("ok", "error", "killed"),
        ("start",),
    ),
    Hostile(
        "calls that there are not",
        TRY
        + """\
for number in (*range(335, 424), *range(470, 600), -1, 1 << 20):
    libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0, 0)
print('end')
""",
        ("ok", "killed"),
    ),
    Hostile(
        "a filter taken off",
        TRY
        + """\
attempt('mode', lambda: checked(libc.prctl(22, 0, 0, 0, 0)))
status = open('/proc/self/status').read()
print('filtered', 'Seccomp:\\t2' in status, 'no new rights', 'NoNewPrivs:\\t1' in status)
rights = [line.split()[1] for line in status.splitlines() if line.startswith(('CapPrm', 'CapEff', 'CapAmb'))]
print('rights', sum(int(right, 16) for right in rights))
""",
        ("ok",),
        ("mode refused", "filtered True no new rights True", "rights 0"),
    ),
)
