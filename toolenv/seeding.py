"""Independent random streams from one seed."""

from __future__ import annotations

import zlib

import numpy as np


def rng(seed: int, *path: int | str) -> np.random.Generator:
    """A generator that ``seed`` and ``path`` name, independent of every other path.

    A seed added to an index is not enough: neighbouring seeds then share draws. ``SeedSequence`` mixes them.

    Args:
        seed: Any integer from 0.
        path: What the stream is for, such as ``("shuffle", epoch)``.

    Example:
        >>> bool(rng(7, "tasks", 1).random() == rng(7, "tasks", 1).random())
        True
        >>> bool(rng(7, "tasks", 1).random() == rng(7, "tasks", 2).random())
        False
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_spawn_key(path)))


def derive(seed: int, *path: int | str) -> int:
    """A 63-bit seed that ``seed`` and ``path`` name, for libraries that take an integer.

    Example:
        >>> derive(7, "sampler", 0) == derive(7, "sampler", 0)
        True
    """
    state = np.random.SeedSequence(seed, spawn_key=_spawn_key(path)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def _spawn_key(path: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path)
