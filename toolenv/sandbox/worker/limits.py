"""What a call may use."""

from __future__ import annotations

import math
import resource

from .messages import Settings
from .rights import LINUX

OPEN_FILES = 64


def set_limits(settings: Settings, timeout_s: float | None) -> None:
    """Limits of one call, for the child and all that it starts.

    Args:
        settings: Those of the worker.
        timeout_s: Wall-clock limit, in seconds, beyond which there is no processor time either.
    """
    memory = settings["memory_bytes"]
    limits = {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": None if timeout_s is None else math.ceil(timeout_s) + 1,
        "RLIMIT_FSIZE": settings["max_file_bytes"],
        "RLIMIT_NOFILE": OPEN_FILES,
        # DATA gives a MemoryError; AS is wider, since each thread reserves far more than it uses.
        "RLIMIT_DATA": memory,
        "RLIMIT_AS": 4 * memory,
        "RLIMIT_NPROC": settings["max_processes"],
    }
    for name, value in limits.items():
        if value is None:
            continue
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (ValueError, OSError):
            if LINUX:  # macOS refuses some of them
                raise
