"""After a call: every process that it started is killed, and its files are removed."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from .rights import LINUX

CLEAN_S = 3.0


def kill_all() -> bool:
    """Kill and reap every process that the call started; whether none is left."""
    deadline = time.monotonic() + CLEAN_S
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] > 0:
                continue
        except ChildProcessError:
            # Orphans come to this process, as process 1 or as subreaper: no child means no descendant.
            return True
        if time.monotonic() > deadline:
            return False
        if os.getpid() == 1:
            _kill(-1)
        else:
            for pid in descendants(os.getpid()):
                _kill(pid)
        time.sleep(0.0005)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def descendants(root: int) -> set[int]:
    """Ids of all processes below ``root``."""
    parents = {}
    for name in os.listdir("/proc") if LINUX else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    below, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in below} - below
        grown = bool(more)
        below |= more
    return below - {root}


def wipe(folder: str) -> None:
    """Empty a folder, however deep it is; subfolders are moved up before they are emptied."""
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    count = 0
    try:
        while names := os.listdir(top):
            for name in names:
                try:
                    os.unlink(name, dir_fd=top)
                    continue
                except (IsADirectoryError, PermissionError):
                    os.chmod(name, 0o700, dir_fd=top)
                sub = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
                try:
                    for inner in os.listdir(sub):
                        count += 1
                        os.rename(inner, f".wipe-{count}-{os.getpid()}", src_dir_fd=sub, dst_dir_fd=top)
                finally:
                    os.close(sub)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
