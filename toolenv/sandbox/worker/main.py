"""The start of the worker: walls up, packages in memory, one trial, then requests."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import signal
import site
import sys
from typing import NoReturn

from .messages import Answer, Request, Settings
from .pages import gather, written_by
from .rights import (
    LINUX,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    drop_root,
    limit_inodes,
    prctl,
    set_capabilities,
)
from .seccomp import refuse_calls
from .streams import Streams
from .wipe import Scratch
from .zygote import Zygote

FIRST_FD = 10
SHARED_MEMORY = ("/dev/shm", "/dev/mqueue")


def main(argument: str) -> None:
    """Set up, warm up, serve.

    Args:
        argument: The settings, as JSON.
    """
    settings: Settings = json.loads(argument)
    requests, replies = _take_protocol()
    os.closerange(3, FIRST_FD)  # whatever the starter left open
    oom = _own_oom_score()
    scratch = _make_scratch(settings)
    raise_walls(settings, scratch)
    wake = _watch_children()
    sys.path += settings["path"]
    site.setquit()  # ``exit`` and ``help``, which programs use and which Python's option ``-S`` leaves out
    site.sethelper()
    failed = [problem for statement in settings["warm"] if (problem := warm(statement))]
    unfiltered = refuse_calls()
    gc.collect()
    gc.freeze()
    gather()
    hot = written_by(lambda: [warm(statement) for statement in settings["warm"]])
    zygote = Zygote(settings, requests, replies, wake, scratch, oom, hot)
    if os.getpid() != 1:
        signal.signal(signal.SIGTERM, lambda *_: zygote.leave())
    wrong = _trial(zygote)
    zygote.tell({"ready": wrong is None, "problem": wrong, "cold": failed, "unfiltered": unfiltered, "sessions": LINUX})
    zygote.serve()


def warm(statement: str) -> str | None:
    """Run a statement of the warm-up; what failed, ``None`` where nothing did."""
    try:
        exec(statement, {})
    except Exception as error:
        return f"{statement}: {error}"
    return None


def raise_walls(settings: Settings, scratch: Scratch) -> None:
    """Give up what the worker needs no more, and see that it dies with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if settings["max_files"] is not None:
        for folder in (settings["tmp"], SHARED_MEMORY[0]):
            limit_inodes(folder, settings["max_files"])
    if os.getpid() == 1:
        if settings["uid"] is not None and os.getuid() == 0:
            drop_root(settings["uid"], settings["path"])
        else:
            set_capabilities(0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getpid() == 1:  # no signal from inside reaches it that it does not handle
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        signal.signal(signal.SIGTERM, lambda *_: _leave(scratch))
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _take_protocol() -> tuple[int, int]:
    """Move the protocol's descriptors out of a program's way: ``(requests, replies)``."""
    requests, replies = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FD) for fd in (0, 1))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    return requests, replies


def _own_oom_score() -> int | None:
    """Opened while it can be: later, this process is hidden from its own user."""
    with contextlib.suppress(OSError):
        return os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    return None


def _make_scratch(settings: Settings) -> Scratch:
    """Find or make the folders of programs."""
    if os.getpid() == 1:
        return Scratch([settings["tmp"], *(folder for folder in SHARED_MEMORY if os.access(folder, os.W_OK))])
    # Within a folder that is not the program's, so that it cannot be put elsewhere.
    settings["tmp"] = os.path.join(settings["tmp"], "home")
    os.mkdir(settings["tmp"], 0o700)
    if settings["uid"] is not None and os.getuid() == 0:
        os.chown(settings["tmp"], settings["uid"], settings["uid"])
    return Scratch([settings["tmp"]], own=settings["tmp"])


def _watch_children() -> int:
    """A descriptor that can be read when a child has ended."""
    read, write = os.pipe()
    for fd in (read, write):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return read


def _trial(zygote: Zygote) -> Answer | None:
    """Run a first program, which makes a file; what went wrong, ``None`` where nothing did."""
    read, write = os.pipe()
    code = b"open('file', 'w').close()\n1 + 1"
    os.write(write, code)
    request: Request = {
        "id": 0,
        "timeout_s": 10.0,
        "max_output_bytes": 1000,
        "keep": False,
        "code_bytes": len(code),
        "stdin_bytes": 0,
    }
    streams = Streams(request, read)
    answer = zygote.call(request, streams)
    said = [b"".join(capture.parts()).decode("utf-8", "replace") for capture in streams.captures.values()]
    streams.forget()
    os.close(read)
    os.close(write)
    return None if said[-1] == "v2" and answer["clean"] else answer | {"said": said}


def _leave(scratch: Scratch) -> NoReturn:
    scratch.remove()
    os._exit(0)
