"""The start of the worker: walls up, packages in memory, one trial, then requests."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import signal
import site
import sys

from .messages import Settings
from .rights import PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, drop_root, prctl
from .zygote import Zygote, end

FIRST_FD = 10


def main(argument: str) -> None:
    """Set up, warm up, serve.

    Args:
        argument: The settings, as JSON.
    """
    settings: Settings = json.loads(argument)
    requests, replies = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FD) for fd in (0, 1))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    raise_walls(settings)
    wake_read, wake_write = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FD) for fd in os.pipe())
    os.closerange(3, FIRST_FD)  # whatever the starter left open
    for fd in (wake_read, wake_write):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    sys.path += settings["path"]
    site.setquit()  # ``exit`` and ``help``, which programs use and which Python's option ``-S`` leaves out
    site.sethelper()
    failed = [problem for statement in settings["warm"] if (problem := warm(statement))]
    gc.collect()
    gc.freeze()
    zygote = Zygote(settings, requests, replies, wake_read)
    code = "open('file', 'w').close()\n1 + 1"
    trial = zygote.call({"id": 0, "code": code, "timeout_s": 10.0, "max_output_bytes": 1000, "stdin": ""})
    ready = trial["value"] == "2" and trial["clean"]
    zygote.reply({"ready": ready, "problem": None if ready else trial, "cold": failed})
    zygote.serve()
    os._exit(0)


def raise_walls(settings: Settings) -> None:
    """Give up what the worker needs no more, and see that it dies with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getpid() == 1 and settings["uid"] is not None and os.getuid() == 0:
        drop_root(settings["uid"], settings["path"])
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getpid() == 1:  # no signal from inside reaches it that it does not handle
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        signal.signal(signal.SIGTERM, lambda *_: end())
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def warm(statement: str) -> str | None:
    """Run a statement of the warm-up; what failed, ``None`` where nothing did."""
    try:
        exec(statement, {})
    except Exception as error:
        return f"{statement}: {error}"
    return None
