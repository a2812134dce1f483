"""The network: there is none, of any kind."""

from tests.hostile import TRY, Hostile

CASES = (
    Hostile(
        "a server on the host",
        TRY
        + """\
import socket
def connect(address):
    with socket.create_connection((address, @PORT@), timeout=1): return 'there'
for address in ('127.0.0.1', 'localhost', '0.0.0.0', '172.17.0.1', '::1', '::ffff:127.0.0.1'):
    attempt(address, connect, address)
""",
        ("ok",),
        ("127.0.0.1 refused", "localhost refused"),
    ),
    Hostile(
        "the world, by name and by number",
        TRY
        + """\
import socket
attempt('name', socket.getaddrinfo, 'example.com', 80)
for address in ('1.1.1.1', '8.8.8.8', '192.168.0.1', '2606:4700::1111'):
    attempt(address, lambda: socket.create_connection((address, 53), timeout=1))
def ask():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(0.5)
    s.sendto(b'x' * 12, ('8.8.8.8', 53))
    return s.recv(10)
attempt('datagram', ask)
""",
        ("ok",),
        ("name refused", "1.1.1.1 refused", "datagram refused"),
    ),
    Hostile(
        "metadata of a cloud",
        TRY
        + """\
import urllib.request
for address in ('169.254.169.254', '[fd00:ec2::254]', '100.100.100.200', 'metadata.google.internal'):
    attempt(address, lambda: urllib.request.urlopen(f'http://{address}/latest/meta-data/', timeout=1).read())
""",
        ("ok",),
        ("169.254.169.254 refused", "metadata.google.internal refused"),
    ),
    Hostile(
        "abstract sockets of the host",
        TRY
        + """\
import socket
for name in ('@ABSTRACT@', '/tmp/.X11-unix/X0', '/containerd-shim/x'):
    attempt('abstract', lambda: socket.socket(socket.AF_UNIX).connect('\\0' + name))
attempt('datagram', lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', '\\0@ABSTRACT@'))
""",
        ("ok",),
        ("abstract refused", "datagram refused"),
    ),
    Hostile(
        "sockets of the engine and of the system",
        TRY
        + """\
import socket
for path in ('/var/run/docker.sock', '/run/docker.sock', '/run/containerd/containerd.sock', '/run/podman/podman.sock',
             '/run/dbus/system_bus_socket', '/run/systemd/private', '/dev/log'):
    attempt(path, lambda: socket.socket(socket.AF_UNIX).connect(path))
""",
        ("ok",),
        ("docker.sock refused",),
    ),
    Hostile(
        "a socket to the hypervisor",
        TRY
        + """\
import socket
attempt('vsock', lambda: socket.socket(40, socket.SOCK_STREAM))
attempt('datagram', lambda: socket.socket(40, socket.SOCK_DGRAM))
""",
        ("ok",),
        ("vsock refused", "datagram refused"),
    ),
    Hostile(
        "sockets that speak to the kernel",
        TRY
        + """\
import socket
for name, family, kind, protocol in (
    ('netlink', 16, 3, 0), ('netfilter', 16, 3, 12), ('audit', 16, 3, 9), ('packet', 17, 3, 3), ('raw', 2, 3, 1),
    ('raw6', 10, 3, 58), ('crypto', 38, 5, 0), ('key', 15, 3, 2), ('bluetooth', 31, 3, 1), ('can', 29, 3, 1),
    ('xdp', 44, 3, 0), ('tipc', 30, 5, 0), ('rds', 21, 5, 0), ('smc', 43, 1, 0), ('kcm', 41, 5, 0),
    ('phonet', 35, 2, 0)):
    attempt(name, lambda: socket.socket(family, kind, protocol))
""",
        ("ok",),
        ("netlink refused", "packet refused", "raw refused", "crypto refused", "key refused"),
    ),
    Hostile(
        "interfaces",
        """\
import os
names = [line.split(':')[0].strip() for line in open('/proc/net/dev').read().splitlines()[2:]]
idle = ('lo', 'tunl', 'sit', 'gre', 'erspan', 'ip', 'dummy', 'bond', 'ifb', 'teql')  # what a new namespace starts with
routes = open('/proc/net/route').read().splitlines()[1:]
print('interfaces', [name for name in names if not name.startswith(idle)], 'routes', routes)
""",
        ("ok",),
        ("interfaces [] routes []",),
    ),
    Hostile(
        "servers left behind",
        """\
import os, socket
try:
    for family, address in ((socket.AF_INET, ('127.0.0.1', 4711)), (socket.AF_UNIX, '\\0left')):
        s = socket.socket(family)
        s.bind(address)
        s.listen()
        os.set_inheritable(s.fileno(), True)
except OSError: print('refused')
if os.fork() == 0:
    os.setsid()
    while True: pass
print('end')
""",
        ("ok",),
        ("end",),
    ),
    Hostile(
        "a pair of sockets is fine, and what needs one works",
        """\
import asyncio, socket
a, b = socket.socketpair()
a.send(b'5')
print(b.recv(1), asyncio.run(asyncio.sleep(0, 'slept')))
""",
        ("ok",),
        ("b'5'", "slept"),
    ),
    Hostile(
        "a pair of sockets of another kind",
        TRY
        + """\
import socket
for family in (2, 10, 16, 17, 38, 40): attempt(family, lambda: socket.socketpair(family))
a, b = socket.socketpair()
attempt('connect', a.connect, '\\0@ABSTRACT@')
def send():
    first, second = socket.socketpair(type=socket.SOCK_DGRAM)
    first.sendto(b'x', '\\0@ABSTRACT@')
attempt('send', send)
attempt('message', lambda: a.sendmsg([b'x'], [], 0, '\\0@ABSTRACT@'))
print('end')
""",
        ("ok",),
        ("connect refused", "send refused", "end"),
    ),
    Hostile(
        "descriptors sent round until nobody holds them",
        """\
import array, os, socket
held = []
for _ in range(10):
    a, b = socket.socketpair()
    r, w = os.pipe()
    try:
        a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [r, w, 1, b.fileno()]))])
    except OSError: print('refused')
    os.close(r); os.close(w)
    del b
print('end')
""",
        ("ok",),
        ("end",),
    ),
)
