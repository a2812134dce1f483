"""Vectors to measure indexes with: those of real passages, and as many more as asked for, made like them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolenv.progress import Progress
from toolenv.retrieval.index.recall import flat_nearest
from toolenv.retrieval.index.vectors import Vectors, create_vectors, open_vectors
from toolenv.seeding import rng

AT_ONCE = 16_384
PAIRS_FROM = 8_192  # passages whose near neighbours give the differences
NEIGHBOURS = 10  # how near: one of so many nearest
MOVE = 0.8  # the nearness of real passages at 10k, 20k and 41k, continued to 1M, is about what this gives at 1M


def grown(real: Vectors, rows: int, path: Path, seed: int = 0) -> Vectors:
    """``rows`` unit vectors in the file ``path``: the real ones, then copies of them moved as neighbours differ.

    A copy is its source plus ``MOVE`` times the difference between two other passages that are neighbours, scaled back
    to length 1: it moves in directions in which real passages differ, and about as far. (Noise that is alike in all
    directions makes vectors that no text has; nearer copies are duplicates.) ``nearness`` tells how lifelike that is.
    """
    dimension = real.shape[1]
    done = path.with_suffix(".done")
    if done.is_file() and done.read_text(encoding="ascii") == f"{len(real)} {rows} {seed} {MOVE}":
        return open_vectors(path, rows, dimension)
    path.unlink(missing_ok=True)
    vectors = create_vectors(path, rows, dimension)
    first, second = _neighbours(real, seed)
    draw = rng(seed, "grown vectors")
    said = Progress("making vectors", rows)
    for start in range(0, rows, AT_ONCE):
        stop = min(rows, start + AT_ONCE)
        take = np.arange(start, stop)
        made = np.asarray(real[take % len(real)], np.float32)
        pair = draw.integers(len(first), size=len(take))
        sign = np.where(draw.random(len(take)) < 0.5, 1, -1)[:, None]
        moved = made + MOVE * sign * (first[pair] - second[pair])
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        vectors[start:stop] = np.where((take < len(real))[:, None], made, moved)
        said.show(stop)
    del vectors
    done.write_text(f"{len(real)} {rows} {seed} {MOVE}", encoding="ascii")
    said.close(f"{rows:,}, {min(rows, len(real)):,} of them real")
    return open_vectors(path, rows, dimension)


def _neighbours(real: Vectors, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pairs of neighbouring passages."""
    draw = rng(seed, "neighbours")
    rows = np.sort(draw.choice(len(real), min(PAIRS_FROM, len(real)), replace=False))
    first = np.asarray(real[rows], np.float32)
    near, _ = flat_nearest(real, first, NEIGHBOURS + 1)
    chosen = near[np.arange(len(rows)), draw.integers(1, near.shape[1], size=len(rows))]
    return first, np.asarray(real[chosen], np.float32)


def nearness(vectors: Vectors, sample: int = 500, seed: int = 0) -> dict[str, float]:
    """Inner product of a sample of vectors with the nearest and the tenth nearest other one: percentiles."""
    rows = np.sort(rng(seed, "nearness").choice(len(vectors), min(sample, len(vectors)), replace=False))
    _, scores = flat_nearest(vectors, np.asarray(vectors[rows], np.float32), 11)
    return {
        f"{name} {percent} %": round(float(np.percentile(scores[:, place], percent)), 3)
        for name, place in (("nearest", 1), ("tenth", 10))
        for percent in (10, 50, 90)
    }
