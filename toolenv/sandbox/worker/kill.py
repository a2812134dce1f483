"""After a call: every process that it started is ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Mapping
from typing import NamedTuple

from .rights import LINUX

CLEAN_S = 3.0
KEEP_S = 1.0
WAIT_S = 0.005

ZOMBIE, STOPPED = "Z", "T"


class Reaper:
    """Ends what descends from this process, to which orphans come: as process 1, or as their subreaper.

    Args:
        wake: A descriptor that can be read when a child has ended.
        uid: A user that only programs have; ``None`` where they share the worker's.
    """

    def __init__(self, wake: int, uid: int | None) -> None:
        self.wake, self.uid = wake, uid
        self.private = os.getpid() == 1

    def kill_all(self, group: int = 0) -> bool:
        """Kill and reap every process below this one; whether none is left.

        Args:
            group: A process group of theirs: where there is no ``/proc``, no other process is known.
        """
        deadline = time.monotonic() + CLEAN_S
        if group and not LINUX:
            send(-group, signal.SIGKILL)
        while not self._reap():
            if time.monotonic() > deadline:
                return False
            self.signal_all(signal.SIGKILL)
            self._wait()
        return True

    def kill_others(self, kept: int) -> bool:
        """Kill every process below this one but one, which is stopped; whether it is so.

        Args:
            kept: Process that says it is to be kept; it need not be one of ours.
        """
        deadline = time.monotonic() + KEEP_S
        while time.monotonic() < deadline:
            self.signal_all(signal.SIGSTOP)
            self._reap()
            seen = processes()
            ours = seen.keys() - {os.getpid()} if self.private else descendants(os.getpid(), seen)
            living = [pid for pid in ours if pid != kept and not seen[pid].dead]
            for pid in living:
                send(pid, signal.SIGKILL)
            heir = seen.get(kept)
            if not living and heir and (heir.parent, heir.state) == (os.getpid(), STOPPED):
                return True
            self._wait()
        return False

    def signal_all(self, number: int) -> None:
        """Send a signal to every process below this one, and to those that they start meanwhile."""
        if self.private:
            send(-1, number)  # the kernel lets no fork slip through
        elif self.uid is not None and os.getuid() == 0:
            _signal_user(self.uid, number)
        else:
            _sweep(number)

    def _reap(self) -> bool:
        """Collect what has ended; whether there is no child left, and so no descendant."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
        return False

    def _wait(self) -> None:
        if select.select([self.wake], [], [], WAIT_S)[0]:
            os.read(self.wake, 4096)


def send(pid: int, number: int) -> None:
    """Send a signal, to one that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _signal_user(uid: int, number: int) -> None:
    """Signal every process of a user, from a process that has this user alone and so reaches no other."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            send(-1, number)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def _sweep(number: int) -> None:
    """Stop every descendant, until no new one appears, and then signal them all."""
    stopped: set[int] = set()
    while new := descendants(os.getpid()) - stopped:
        for pid in new:
            send(pid, signal.SIGSTOP)
        stopped |= new
    for pid in stopped:
        send(pid, number)


class Process(NamedTuple):
    """What the kernel tells of a process."""

    parent: int
    state: str
    threads: int

    @property
    def dead(self) -> bool:
        """Whether nothing of it can run: the first thread may have ended before the others."""
        return self.state == ZOMBIE and self.threads <= 1


def descendants(root: int, seen: Mapping[int, Process] | None = None) -> set[int]:
    """Ids of all processes below ``root``."""
    seen = processes() if seen is None else seen
    below, grown = {root}, True
    while grown:
        more = {pid for pid, process in seen.items() if process.parent in below} - below
        grown = bool(more)
        below |= more
    return below - {root}


def processes() -> dict[int, Process]:
    """All processes that can be seen, by id."""
    found = {}
    for name in os.listdir("/proc") if LINUX else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
                found[int(name)] = Process(int(fields[1]), fields[0].decode(), int(fields[17]))
    return found
