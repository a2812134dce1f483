"""What a call may use."""

from __future__ import annotations

import math
import resource

from .messages import Settings
from .rights import LINUX

OPEN_FILES = 64


def set_limits(settings: Settings) -> None:
    """Limits of one call, for the child and all that it starts; all but that of processor time."""
    memory = settings["memory_bytes"]
    limits = {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": settings["max_file_bytes"],
        "RLIMIT_NOFILE": OPEN_FILES,
        # DATA gives a MemoryError; AS is wider, since each thread reserves far more than it uses.
        "RLIMIT_DATA": memory,
        "RLIMIT_AS": 4 * memory,
        "RLIMIT_NPROC": settings["max_processes"],
    }
    for name, value in limits.items():
        if value is not None:
            limit(name, value)


def limit(name: str, value: int) -> None:
    """Set a limit of this process, for good."""
    try:
        resource.setrlimit(getattr(resource, name), (value, value))
    except (ValueError, OSError):
        if LINUX:  # macOS refuses some of them
            raise


def cpu_seconds(timeout_s: float) -> int:
    """Processor time that a call may use: where it has used that much, its time is over, too."""
    return math.ceil(timeout_s) + 1
