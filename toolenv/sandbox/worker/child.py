"""The throw-away process that runs one program."""

from __future__ import annotations

import io
import os
import random
import signal
import socket
import sys
import tempfile
from os import _exit, getpid, read, write  # as they are now: a program may put others in their place
from typing import NoReturn

from .handing import take_over
from .limits import limit, set_limits
from .messages import Settings
from .notebook import Ending, finish, new_main, run_code
from .pages import Ranges, touch
from .rights import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, drop_root, prctl
from .streams import Ends
from .text import clip

FIRST_OWN_FD = 3
CRASHED = 70
NICE = 10


def run_child(channel: int, settings: Settings, hot: Ranges) -> NoReturn:
    """Wait for a program, run it in this process, which is a new child, and exit.

    Args:
        channel: Where the program is handed over.
        settings: Those of the worker.
        hot: Where programs are likely to write.
    """
    exit_code = CRASHED
    try:
        main_pid = getpid()
        waiting = socket.socket(fileno=keep_descriptors(channel))
        become_program(settings)
        take_no_streams()  # what is done once is faster the second time
        touch(hot, waiting.fileno())
        order, ends = take_over(waiting)
        waiting.detach()
        take_streams(ends)
        report_fd = keep_descriptors(ends.report)
        limit("RLIMIT_CPU", order.cpu_s)
        code = read_code(order.code_bytes)
        stdout = sys.stdout
        told = run_code(code, new_main())
        if getpid() == main_pid:  # a fork in the program comes past here too
            report(report_fd, told, order.max_output_bytes)
        ending = finish(told, stdout, leaves=True)
        exit_code = ending.exit_code
        if ending is not told and getpid() == main_pid:
            report(report_fd, ending, order.max_output_bytes, told)
    finally:
        _exit(exit_code)


def read_code(count: int) -> str:
    """The program, which comes before what it reads from the same pipe."""
    data = bytearray()  # which grows in place, as bytes do not
    while len(data) < count:
        part = read(0, count - len(data))
        if not part:
            raise EOFError
        data += part
    return data.decode("utf-8", "surrogatepass")


def report(fd: int, ending: Ending, limit: int, told: Ending | None = None) -> None:
    """Tell the worker the value or the error: a letter that says which, and the text; see ``messages.py``.

    It is told before threads are waited for, since they may never end.

    Args:
        fd: Where it is told.
        ending: What is to be told.
        limit: Most bytes of the text.
        told: What was told before of the same program, which had not yet failed, or not in this way.
    """
    if ending.error is not None:
        text = ("e" if told is None else "\n" if told.error else "\0e") + clip(ending.error, limit, last_line=True)
    elif ending.value is not None:
        text = "v" + clip(ending.value, limit)
    else:
        text = "d"
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    while data:
        data = data[write(fd, data) :]


def take_streams(ends: Ends) -> None:
    """Make the pipes of a call the standard streams of this process."""
    for source, target in ((ends.stdin, 0), (ends.stdout, 1), (ends.stderr, 2)):
        os.dup2(source, target)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8", "surrogatepass")
    sys.stdout, sys.stderr = _writer(1), _writer(2)
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)


def take_no_streams() -> None:
    """Have standard streams that lead nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    take_streams(Ends(null, null, null, null))
    os.close(null)


def _writer(fd: int) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", errors="backslashreplace", line_buffering=True)


def keep_descriptors(kept: int) -> int:
    """Close every descriptor but the standard streams and one; what that one is called now."""
    os.dup2(kept, FIRST_OWN_FD, inheritable=False)
    os.closerange(FIRST_OWN_FD + 1, 4096)
    return FIRST_OWN_FD


def become_program(settings: Settings) -> None:
    """Turn a copy of the worker into a process for a program, and take its rights away."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    os.nice(NICE)
    if settings["uid"] is not None and os.getuid() == 0:
        drop_root(settings["uid"], settings["path"])
    prctl(PR_SET_DUMPABLE, 1)  # its own files in /proc are its own again
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    set_limits(settings)
    home = settings["tmp"]
    os.chdir(home)
    os.umask(0o022)
    os.environ["TMPDIR"] = os.environ["HOME"] = tempfile.tempdir = home
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
