"""Files: what is the host's cannot be read, what is not /tmp cannot be written, and /tmp is empty for the next call."""

from tests.hostile import TRY, Hostile

CASES = (
    Hostile(
        "secrets of the host",
        TRY
        + """\
for path in ('@FILE@', '/etc/shadow', '/root/.ssh/id_rsa', '/root/.bashrc', '/home', '/proc/1/environ', '/proc/1/mem',
             '/proc/1/maps', '/proc/kcore', '/var/run/docker.sock', '/run/docker.sock', '/run/secrets', '/mnt', '/srv',
             '/var/lib/docker', '/var/log', '/proc/1/root/etc/hostname', '/proc/1/cwd/x', '/dev/mem', '/boot', '/work',
             '/sys/kernel/debug', '/sys/firmware/efi/efivars', '/var/run/secrets/kubernetes.io', '/proc/kmsg'):
    try: found = os.listdir(path) if os.path.isdir(path) else [open(path, 'rb').read(100)]
    except OSError: continue
    if found: print(path, 'DONE', found[:5])
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "people of the host",
        """\
try: print(open('/etc/passwd').read())
except OSError: print('none')
""",
        ("ok",),
        hides=("/home/",),
    ),
    Hostile(
        "secrets in the environment",
        """\
import glob, os
print(dict(os.environ))
for path in glob.glob('/proc/*/environ') + glob.glob('/proc/*/cmdline'):
    try: print(open(path).read())
    except OSError: pass
""",
        ("ok",),
        hides=("TOOLENV_TEST_TOKEN",),
    ),
    Hostile(
        "folders that can be written to",
        """\
import os
for folder, folders, _ in os.walk('/'):
    if folder.count('/') > 4 or folder.startswith(('/proc', '/tmp', '/dev/shm')):
        folders.clear()
        continue
    if os.access(folder, os.W_OK): print('DONE', folder)
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "settings of the kernel that can be written to",
        """\
import os, stat
for top in ('/proc/sys', '/sys'):
    for folder, _, files in os.walk(top):
        for name in files:
            path = f'{folder}/{name}'
            if name == 'ns_last_pid' or not os.access(path, os.W_OK): continue  # this one says yes to all, and refuses
            print('DONE', path)
for path in ('/proc/sysrq-trigger', '/proc/irq/0/smp_affinity', '/proc/bus', '/proc/acpi', '/proc/timer_list'):
    if os.access(path, os.W_OK) and not stat.S_ISCHR(os.stat(path).st_mode): print('DONE', path)  # an empty device
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "files outside",
        TRY
        + """\
for folder in ('/', '/etc', '/usr', '/usr/lib', '/var', '/dev', '/run', '/home', '/root', '/opt', '/sys', '/proc',
               '/sandbox', '/sandbox/site', sys.prefix, os.path.dirname(os.__file__), '/var/tmp', '/dev/mqueue'):
    attempt(folder, lambda: open(folder + '/left', 'w').write('x'))
    attempt(folder, lambda: os.mkdir(folder + '/left'))
    attempt(folder, lambda: os.symlink('/tmp', folder + '/left'))
    attempt(folder, lambda: os.rename('/tmp', folder + '/left'))
""",
        ("ok",),
        ("/etc refused", "/dev refused"),
    ),
    Hostile(
        "links out of /tmp",
        TRY
        + """\
for n, target in enumerate(('/', '/etc', '/proc/1/root', '/dev/shm', '..', '/proc/self', '/dev/null', '/tmp')):
    os.symlink(target, f'/tmp/link{n}')
    try: os.symlink(target, f'/dev/shm/link{n}')
    except OSError: pass
attempt('hard', os.link, os.__file__, '/tmp/hard')
os.makedirs('/tmp/a/b')
os.symlink('/dev/shm', '/tmp/a/b/shm')
os.symlink('loop', '/tmp/loop')
print('end')
""",
        ("ok",),
        ("hard refused", "end"),
    ),
    Hostile(
        "names that confuse",
        """\
import os
for name in (b'-rf', b'new\\nline', b'\\xff\\xfe', b' ', b'*', b'...', b'.hidden', b'x' * 255, b'"', b'\\\\', b'\\x01',
             'é'.encode(), b'.wipe-1-1'):
    open(b'/tmp/' + name, 'w').close()
    os.mkdir(b'/tmp/' + name[:200] + b'.d')
    open(b'/tmp/' + name[:200] + b'.d/' + name, 'w').close()
print(len(os.listdir('/tmp')))
""",
        ("ok",),
        ("26",),
    ),
    Hostile(
        "folders without rights",
        """\
import os
for n in range(5):
    os.makedirs(f'/tmp/locked{n}/inner/deep')
    open(f'/tmp/locked{n}/inner/file', 'w').close()
    os.chmod(f'/tmp/locked{n}/inner/file', 0)
    os.chmod(f'/tmp/locked{n}/inner/deep', 0)
    os.chmod(f'/tmp/locked{n}/inner', 0o111 * (n % 2))
    os.chmod(f'/tmp/locked{n}', 0o7000)
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "rights of /tmp itself",
        """\
import os
for folder in ('/tmp', '/dev/shm'):
    for mode in (0o777, 0o100, 0):
        try: os.chmod(folder, mode)
        except OSError: pass
    for action in (lambda: os.rmdir(folder), lambda: os.setxattr(folder, 'user.left', b'x')):
        try: action()
        except OSError: pass
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "attributes and locks of files that all share",
        TRY
        + """\
import fcntl
attempt('attribute', lambda: os.setxattr(os.__file__, 'user.left', b'x'))
fd = os.open(os.__file__, os.O_RDONLY)
fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
if os.fork() == 0:
    while True: pass
print('end')
""",
        ("ok",),
        ("attribute refused", "end"),
    ),
    Hostile(
        "a deep tree",
        """\
import os
for _ in range(2000):
    os.mkdir('d')
    os.chdir('d')
open('bottom', 'w').close()
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "files without number",
        """\
count = 0
try:
    for count in range(20_000): open(f'/tmp/{count}', 'w').close()
except OSError as error: print('refused', count)
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "folders without number",
        """\
import os
try:
    for n in range(20_000): os.makedirs(f'/tmp/{n % 50}/{n}/x')
except OSError: print('refused')
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "/tmp filled",
        """\
size = 0
for n in range(100):
    try:
        with open(f'/tmp/{n}', 'wb') as file:
            for _ in range(16): size += file.write(bytes(1 << 20))
    except OSError: break
print('small' if size <= 80 << 20 else size)
""",
        ("ok",),
        ("small",),
    ),
    Hostile(
        "/dev/shm filled",
        """\
import os
size = 0
try:
    for n in range(100):
        with open(f'/dev/shm/{n}', 'wb') as file:
            for _ in range(16): size += file.write(bytes(1 << 20))
except OSError: pass
print('small' if size <= 80 << 20 else size)
""",
        ("ok",),
        ("small",),
    ),
    Hostile(
        "one file too large",
        """\
with open('big', 'wb') as file:
    while True: file.write(bytes(1 << 20))
""",
        ("error", "killed"),
    ),
    Hostile(
        "a file with holes",
        TRY
        + """\
attempt('sparse', lambda: os.truncate(open('/tmp/sparse', 'w').name, 1 << 50))
os.truncate('/tmp/sparse', 30 << 20)
print('end')
""",
        ("ok",),
        ("sparse refused", "end"),
    ),
    Hostile(
        "room taken before it is used",
        TRY
        + """\
fd = os.open('/tmp/x', os.O_RDWR | os.O_CREAT)
attempt('room', os.posix_fallocate, fd, 0, 1 << 40)
print('end')
""",
        ("ok",),
        ("room refused",),
    ),
    Hostile(
        "deleted files held open",
        """\
import os
for n in range(20):
    f = os.open('/tmp/x', os.O_RDWR | os.O_CREAT)
    os.write(f, bytes(2 << 20))
    os.unlink('/tmp/x')
if os.fork() == 0:
    while True: pass
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "nameless files",
        """\
import os
for _ in range(20):
    try: os.write(os.open('/tmp', os.O_TMPFILE | os.O_RDWR), bytes(1 << 20))
    except OSError: pass
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "pipes, sockets and devices as files",
        TRY
        + """\
import socket, stat
try: os.mkfifo('/tmp/fifo')
except OSError: pass
try: socket.socket(socket.AF_UNIX).bind('/tmp/socket')
except OSError: pass
attempt('block', os.mknod, '/tmp/block', stat.S_IFBLK | 0o666, os.makedev(8, 0))
attempt('memory', os.mknod, '/tmp/mem', stat.S_IFCHR | 0o666, os.makedev(1, 1))
print('end')
""",
        ("ok",),
        ("block refused", "memory refused", "end"),
    ),
    Hostile(
        "files mapped and deleted",
        """\
import mmap, os
with open('/tmp/x', 'w+b') as f:
    f.truncate(20 << 20)
    m = mmap.mmap(f.fileno(), 0)
    m[:] = b'x' * len(m)
os.unlink('/tmp/x')
if os.fork() == 0:
    while True: m[0] = 1
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "a map cut short",
        """\
import mmap
with open('/tmp/x', 'w+b') as f:
    f.truncate(1 << 20)
    m = mmap.mmap(f.fileno(), 0)
    f.truncate(0)
m[5]
""",
        ("killed",),
        ("SIGBUS",),
    ),
    Hostile(
        "its working directory deleted",
        """\
import os
os.mkdir('/tmp/d')
os.chdir('/tmp/d')
os.rmdir('/tmp/d')
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "files in /dev/shm by name",
        """\
from multiprocessing import shared_memory
try: shared_memory.SharedMemory('left', create=True, size=1 << 20)
except OSError: pass
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "message queues as files",
        """\
import os
try: open('/dev/mqueue/left', 'w').close()
except OSError: pass
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "descriptors without number",
        """\
import os
held = []
try:
    while len(held) < 100_000: held.append(os.open('/dev/null', os.O_RDONLY))
except OSError: print('refused', len(held) < 5000)
print('end')
""",
        ("ok",),
        ("refused True",),
    ),
)
