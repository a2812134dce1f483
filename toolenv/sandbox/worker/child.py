"""The throw-away process that runs one program."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import sys
import tempfile
from typing import NoReturn

from .capture import clip
from .limits import set_limits
from .messages import Request, Settings
from .notebook import finish, run_code
from .rights import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, drop_root, prctl
from .streams import Ends

REPORT_FD = 3
CRASHED = 70


def run_child(request: Request, settings: Settings, ends: Ends, home: str) -> NoReturn:
    """Run one request in this process, which is a new child, and exit."""
    code = CRASHED
    try:
        main_pid = os.getpid()
        prepare(request, settings, ends, home)
        stdout = sys.stdout
        code, value, error = run_code(request["code"])
        finish(stdout)
        if os.getpid() == main_pid:  # a fork in the program comes past here too
            report(value, error, request["max_output_bytes"])
    finally:
        os._exit(code)


def report(value: str | None, error: str | None, limit: int) -> None:
    """Tell the worker the value or the error: a letter that says which, and the text."""
    if error is not None:
        text = "e" + clip(error, limit)
    elif value is not None:
        text = "v" + clip(value, limit)
    else:
        return
    data = text.encode("utf-8", "backslashreplace")
    while data:
        data = data[os.write(REPORT_FD, data) :]


def prepare(request: Request, settings: Settings, ends: Ends, home: str) -> None:
    """Turn a copy of the worker into a process for a program, and take its rights away."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    for source, target in zip(ends, (0, 1, 2), strict=False):
        os.dup2(source, target)
    os.dup2(ends.report, REPORT_FD, inheritable=False)
    os.closerange(REPORT_FD + 1, 4096)
    os.chdir(home)
    os.umask(0o022)
    if settings["uid"] is not None and os.getuid() == 0:
        drop_root(settings["uid"], settings["path"])
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # out of memory, the kernel takes the code, not the worker
    set_limits(settings, request["timeout_s"])
    os.environ["TMPDIR"] = os.environ["HOME"] = tempfile.tempdir = home
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8", "surrogatepass")
    sys.stdout, sys.stderr = _writer(1), _writer(2)
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)


def _writer(fd: int) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", errors="backslashreplace", line_buffering=True)
