"""What an index finds of what comparing with every vector would find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import ConfigError
from toolenv.progress import Progress
from toolenv.retrieval.base import DECIMALS
from toolenv.retrieval.index.dense import DenseIndex
from toolenv.retrieval.index.vectors import VectorFile, Vectors, chunks
from toolenv.seeding import rng

AT_ONCE = 16_384
SAMPLE = 200
CUTS = (1, 3, 5)


def measure_recall(
    index: DenseIndex,
    vectors: Vectors,
    sample: int = SAMPLE,
    *,
    queries: NDArray[np.float32] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Recall at 1, 3 and 5 against Flat over the same vectors, which are read once from front to back.

    Without ``queries``, passages stand in for them: a sample's own vectors, each moved half-way to another passage near
    it, so that a query is no copy of what it should find.

    Args:
        index: The index.
        vectors: The vectors ``(N, D)`` it was made from.
        sample: How many queries.
        queries: Vectors of real questions ``(M, D)``, to draw the sample from.
        seed: Of the sample.
        progress: Whether to say on stderr how far the reading is.

    Returns:
        ``recall@1``, ``recall@3``, ``recall@5``, ``sample``, ``queries`` (what they were), ``seed`` and ``settings``.

    Raises:
        ConfigError: ``sample`` is below 1.
        RetrieverError: The index cannot be searched.
    """
    if sample < 1:
        raise ConfigError(f"sample must be at least 1, a number of queries; got {sample}")
    asked = _drawn(index, sample, queries, seed)
    truth, _ = flat_nearest(vectors, asked, max(CUTS), progress=progress)
    found = ranked(index, asked, max(CUTS))
    result: dict[str, Any] = {f"recall@{k}": recall_at(found, truth, k) for k in CUTS}
    kind = "made from passages" if queries is None else "given"
    return result | {"sample": len(asked), "queries": kind, "seed": seed, "settings": dict(index.settings)}


def recall_at(found: Sequence[NDArray[np.int64]], truth: NDArray[np.int64], k: int) -> float:
    """Part of the true ``k`` nearest that are among the ``k`` found, over all queries.

    Example:
        >>> recall_at([np.array([4, 7, 1])], np.array([[4, 1, 9]]), 3)
        0.6666666666666666
    """
    hits = sum(len(np.intersect1d(near[:k], true[:k])) for near, true in zip(found, truth, strict=True))
    return hits / sum(min(k, len(true)) for true in truth)


def ranked(index: DenseIndex, queries: NDArray[np.float32], k: int) -> list[NDArray[np.int64]]:
    """The ``k`` nearest rows of every query, best first, as a search answers."""
    rows = index.nearest(queries, k)
    return [
        r[np.lexsort((r, -np.round(s, DECIMALS)))][:k] for r, s in zip(rows, index.scores(queries, rows), strict=True)
    ]


def flat_nearest(
    vectors: Vectors, queries: NDArray[np.float32], k: int, *, progress: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows ``(M, min(k, N))`` of the nearest vectors, and their inner products, by comparing with every one."""
    said = Progress("comparing with every vector", len(vectors)) if progress else None
    k = min(k, len(vectors))
    rows = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for start, chunk in chunks(vectors, AT_ONCE):
        products = queries @ chunk.T
        near = np.argpartition(-products, min(k, len(chunk)) - 1, axis=1)[:, :k]
        rows = np.concatenate([rows, near + start], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(products, near, axis=1)], axis=1)
        keep = np.lexsort((rows, -np.round(scores, DECIMALS)), axis=1)[:, :k]
        rows, scores = np.take_along_axis(rows, keep, axis=1), np.take_along_axis(scores, keep, axis=1)
        if said:
            said.show(start + len(chunk))
    if said:
        said.close(f"{len(queries)} queries, {len(vectors):,} vectors")
    return rows, scores


def _drawn(index: DenseIndex, sample: int, queries: NDArray[np.float32] | None, seed: int) -> NDArray[np.float32]:
    draw = rng(seed, "recall sample")
    if queries is not None:
        rows = draw.choice(len(queries), min(sample, len(queries)), replace=False)
        return np.asarray(queries[rows], np.float32)
    rows = np.sort(draw.choice(len(index), min(sample, len(index)), replace=False))
    own = VectorFile(index.vectors).read(rows).astype(np.float32)
    other = [near[near != row][:2][-1:] for near, row in zip(ranked(index, own, 3), rows, strict=True)]
    neighbours = [index.vectors[near[0]] if len(near) else own[i] for i, near in enumerate(other)]
    moved = own + np.asarray(neighbours, np.float32)
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(moved / np.where(lengths > 0, lengths, 1), np.float32)
