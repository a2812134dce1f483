"""How often the kernel has ended a process of this container for want of memory."""

from __future__ import annotations

import contextlib

# The files of version 1 and 2 of control groups; both have a line "oom_kill COUNT".
FILES = ("/sys/fs/cgroup/memory/memory.oom_control", "/sys/fs/cgroup/memory.events")


class OutOfMemory:
    """Tells whether it has happened again."""

    def __init__(self) -> None:
        self._count = _count()

    def again(self) -> bool:
        """Whether it is known to have happened since the last question."""
        before, self._count = self._count, _count()
        return before is not None and self._count is not None and self._count > before


def _count() -> int | None:
    for path in FILES:
        with contextlib.suppress(OSError, ValueError), open(path) as file:
            counts = dict(line.split() for line in file)
            return int(counts["oom_kill"]) if "oom_kill" in counts else None
    return None
