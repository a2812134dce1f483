"""After a call: its files are removed."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterable

WIPE_S = 2.0


class Scratch:
    """The folders that programs can write to.

    They are opened once, so that no program can put another folder in their place.

    Args:
        folders: Those of them that are there.
        own: One of them that the worker made, in a folder that was made for the worker.
    """

    def __init__(self, folders: Iterable[str], own: str | None = None) -> None:
        self._own = own
        self._folders = [(fd, os.fstat(fd).st_mode) for fd in map(_open, folders)]

    def wipe(self) -> bool:
        """Empty them; whether it could be done."""
        try:
            for fd, mode in self._folders:
                if os.fstat(fd).st_mode != mode:
                    os.chmod(fd, stat.S_IMODE(mode))
                wipe(fd)
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Leave nothing of them behind: whoever started the worker may be gone."""
        if self._own is not None and self.wipe():
            # One at a time: the signal to leave may come in the middle of leaving, and this is done again.
            for folder in (self._own, os.path.dirname(self._own)):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


def wipe(top: int) -> None:
    """Empty an open folder, however deep it is; subfolders are moved up before they are emptied.

    Raises:
        OSError: It cannot be done, or takes too long.
    """
    unguessable, count = os.urandom(8).hex(), 0
    deadline = time.monotonic() + WIPE_S
    while names := os.listdir(top):
        for name in names:
            if time.monotonic() > deadline:
                raise TimeoutError
            try:
                os.unlink(name, dir_fd=top)
                continue
            except (IsADirectoryError, PermissionError):  # Linux and macOS say it differently
                pass
            os.chmod(name, 0o700, dir_fd=top)
            sub = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
            try:
                for inner in os.listdir(sub):
                    count += 1
                    _move(inner, f".{unguessable}-{count}", sub, top)
            finally:
                os.close(sub)
            os.rmdir(name, dir_fd=top)


def _move(name: str, new: str, source: int, target: int) -> None:
    try:
        os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
    except PermissionError:  # a folder that is not to be written to
        os.chmod(name, 0o700, dir_fd=source)
        os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)


def _open(folder: str) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
