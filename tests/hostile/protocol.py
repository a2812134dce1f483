"""Forged answers and reports, replayed requests, closed and swapped descriptors."""

from tests.hostile import TRY, Hostile

ANSWER = (
    "{'id': i, 'stdout': 'forged', 'stderr': '', 'status': 'ok', 'exit_code': 0, 'wall_s': 0.0, 'value': 'forged',"
    " 'error': None, 'clean': True}"
)
REQUEST = "{'id': i, 'code': 'print(\"forged\")', 'timeout_s': 5, 'max_output_bytes': 1000, 'stdin': '', 'keep': True}"
# What the call's own report may say is the program's own affair; what it does to the worker is not.
EVERYWHERE = """\
import json, os
def everywhere(message):
    for fd in [int(name) for name in os.listdir('/proc/self/fd')]:
        if fd > 2:
            try:
                os.set_blocking(fd, False)
                os.write(fd, message)
            except OSError: pass
"""

CASES = (
    Hostile(
        "answers on every descriptor",
        EVERYWHERE + f"for i in range(300): everywhere(json.dumps({ANSWER}).encode() + b'\\n')\nprint('honest')",
        ("ok", "killed"),
        ("honest",),
    ),
    Hostile(
        "answers on the output",
        f"import json\nfor i in range(50): print(json.dumps({ANSWER}))\nprint('honest')\n1 / 0",
        ("error",),
        ("honest", "ZeroDivisionError"),
    ),
    Hostile(
        "requests replayed on every descriptor",
        EVERYWHERE + f"for i in range(300): everywhere(json.dumps({REQUEST}).encode() + b'\\n')\nprint('honest')",
        ("ok", "killed"),
        ("honest",),
    ),
    Hostile(
        "requests to the worker's own descriptors",
        TRY
        + f"""\
import json
i = 1
line = json.dumps({REQUEST}) + '\\n'
for pid in (1, os.getppid()):
    for fd in range(40):
        try: open(f'/proc/{{pid}}/fd/{{fd}}', 'w').write(line)
        except OSError: continue
        print('DONE', pid, fd)
    attempt(f'list {{pid}}', os.listdir, f'/proc/{{pid}}/fd')
print('honest')
""",
        ("ok",),
        ("honest", "refused"),
    ),
    Hostile(
        "the worker's descriptors taken",
        TRY
        + """\
for pid in (1, os.getppid()):
    try: fd = os.pidfd_open(pid)
    except OSError: continue
    for number in range(20):
        attempt('take', syscall, 438, 438, fd, number, 0)
print('honest')
""",
        ("ok",),
        ("honest",),
    ),
    Hostile(
        "report that is no JSON",
        """\
import os
os.write(3, b'\\xff{]\\n')
os._exit(0)
""",
        ("ok", "error"),
        hides=("lost",),
    ),
    Hostile(
        "report of a hundred thousand brackets",
        """\
import os
os.write(3, b'[' * 60_000)
os.write(3, b'[' * 60_000)
os._exit(0)
""",
        ("ok", "error"),
    ),
    Hostile(
        "report of nested objects",
        """\
import os
for _ in range(30): os.write(3, b'{"value":' * 5000)
os._exit(0)
""",
        ("ok", "error", "killed"),
    ),
    Hostile(
        "report of another kind",
        """\
import os
os.write(3, b'[1, {"value": 2}]')
os._exit(0)
""",
        ("ok",),
    ),
    Hostile(
        "report with the wrong types",
        """\
import os
os.write(3, b'{"value": {"a": 1}, "error": [1], "id": 5, "clean": 7}')
os._exit(0)
""",
        ("ok",),
    ),
    Hostile(
        "report of a number with a million digits",
        """\
import os
os.write(3, b'9' * 1_000_000)
os._exit(0)
""",
        ("ok", "killed"),
    ),
    Hostile(
        "report with more fields than there are",
        """\
import json, os
os.write(3, json.dumps({'value': '1', 'error': None, 'stdout': 'forged', 'status': 'killed'}).encode())
os._exit(0)
""",
        ("ok",),
        hides=("forged",),
    ),
    Hostile(
        "report of an error where all is well",
        """\
import os
os.write(3, b'{"value": null, "error": "out of memory"}')
os._exit(0)
""",
        ("ok", "error"),
    ),
    Hostile(
        "report of five million characters",
        """\
import json, os
data = json.dumps({'value': 'v' * 5_000_000, 'error': None}).encode()
while data: data = data[os.write(3, data):]
os._exit(0)
""",
        ("ok", "killed"),
    ),
    Hostile(
        "report without end",
        """\
import os
print('start', flush=True)
while True: os.write(3, b'x' * 65536)
""",
        ("killed",),
        ("start",),
    ),
    Hostile(
        "two reports",
        """\
import os
os.write(3, b'{"value": "forged"}\\n')
'true'
""",
        ("ok", "error"),
    ),
    Hostile(
        "a child's report",
        """\
import os
if os.fork() == 0:
    os.write(3, b'{"value": "forged"}')
    os._exit(0)
os.wait()
'true'
""",
        ("ok", "error"),
    ),
    Hostile(
        "every descriptor closed",
        """\
import os
os.closerange(0, 1 << 16)
'value'
""",
        ("ok", "error"),
    ),
    Hostile(
        "the report's descriptor swapped",
        """\
import os
null = os.open('/dev/null', os.O_RDWR)
for fd in range(3, 12): os.dup2(null, fd)
print('said')
'value'
""",
        ("ok", "error"),
        ("said",),
    ),
    Hostile(
        "output and report swapped",
        """\
import os
os.dup2(1, 9)
os.dup2(3, 1)
os.dup2(9, 3)
print('said', flush=True)
'value'
""",
        ("ok", "error"),
    ),
    Hostile(
        "report's descriptor full",
        """\
import os, fcntl
os.set_blocking(3, False)
try:
    while True: os.write(3, b'x' * 4096)
except OSError: pass
'value'
""",
        ("ok", "error", "killed"),
    ),
    Hostile(
        "descriptors that it got from the worker",
        """\
import os
listed = [f'/proc/self/fd/{fd}' for fd in os.listdir('/proc/self/fd')]
kinds = {int(path.rpartition('/')[2]): os.readlink(path) for path in listed if os.path.lexists(path)}
others = {fd: kind for fd, kind in kinds.items() if fd > 3 and not kind.startswith('/proc/')}
print('extra:', others)
""",
        ("ok",),
        ("extra: {}",),
    ),
    Hostile(
        "code of the worker run again",
        """\
import sys
frame, seen = sys._getframe(), []
while frame is not None:
    seen.append(frame.f_code.co_name)
    for name in ('serve', 'reply', 'answer', 'main'):
        function = frame.f_globals.get(name)
        if callable(function) and frame.f_back is not None:
            try: function()
            except BaseException as error: print('failed', type(error).__name__)
    frame = frame.f_back
print('honest')
""",
        ("ok", "error", "killed"),
    ),
    Hostile(
        "the worker's object found and used",
        """\
import gc
for thing in gc.get_objects():
    if type(thing).__name__ in ('Worker', 'Zygote', 'Server', 'Session'):
        for name in ('requests', 'replies', 'wake'):
            fd = getattr(thing, name, None)
            try: __import__('os').write(fd, b'{"ready": true, "id": 1}\\n')
            except (OSError, TypeError): pass
        try: thing.reply({'id': 1, 'stdout': 'forged'})
        except BaseException: pass
print('honest')
""",
        ("ok",),
        ("honest",),
    ),
    Hostile(
        "standard input that speaks to the worker",
        """\
import os
for fd in (0, 1, 2):
    try: os.write(fd, b'{"id": 1, "end": true}\\n')
    except OSError: pass
print('honest')
""",
        ("ok",),
        ("honest",),
    ),
    Hostile(
        "the worker's methods called",
        """\
import gc, os
request = {'id': 1, 'code': 'print("forged")', 'timeout_s': 1, 'max_output_bytes': 1000, 'stdin': '', 'keep': False}
for thing in gc.get_objects():
    if not type(thing).__module__.startswith('toolenv_worker'): continue
    for name in dir(type(thing)):
        method = getattr(thing, name, None)
        if name.startswith('__') or not callable(method): continue
        for arguments in ((), (request,), ({'id': 1, 'end': True},)):
            if os.fork() == 0:
                try: method(*arguments)
                except BaseException: pass
                os._exit(0)
print('honest')
""",
        ("ok", "error", "killed", "timeout"),
        limit_s=2,
    ),
)
