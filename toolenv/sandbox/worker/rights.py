"""What a process may do: its user, its privileges, how it dies with its parent."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable

LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_CHILD_SUBREAPER = 1, 4, 8, 36
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 38, 47, 2
CAP_DAC_READ_SEARCH = 2
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 2, 4, 8, 32

libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int = 0, third: int = 0) -> None:
    """Call ``prctl``; a no-op where there is none."""
    if LINUX:
        libc.prctl(option, value, third, 0, 0)


def limit_inodes(folder: str, count: int) -> None:
    """Limit the number of files of a ``tmpfs``, which its starter could not, and forbid to run them.

    Raises:
        OSError: This process may not.
    """
    flags = MS_REMOUNT | MS_NOSUID | MS_NODEV | MS_NOEXEC
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, b"nr_inodes=%d" % count) != 0:
        raise OSError(ctypes.get_errno(), "cannot limit the number of files", folder)


def set_capabilities(kept: int) -> None:
    """Give up every capability but these, for good.

    Args:
        kept: A bit for each.
    """
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)(kept, kept, kept, 0, 0, 0)
    libc.capset(header, sets)


def drop_root(uid: int, folders: Iterable[str]) -> None:
    """Become ``uid`` for good; keep only the right to read Python's own files where they lie out of its reach.

    Args:
        uid: The user, and the group.
        folders: Folders that programs import from.
    """
    reachable = all(_others_may_enter(folder) for folder in (os.path.dirname(os.__file__), *folders))
    if not reachable:
        prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if not LINUX:
        return
    set_capabilities(0 if reachable else 1 << CAP_DAC_READ_SEARCH)
    if not reachable:
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH)


def _others_may_enter(folder: str) -> bool:
    folder = os.path.realpath(folder)
    while True:
        if os.path.exists(folder) and not os.stat(folder).st_mode & 0o001:
            return False
        if folder == "/":
            return True
        folder = os.path.dirname(folder)
