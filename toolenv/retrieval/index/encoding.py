"""Vectors of all passages, written to disk while they are made; a build that was killed goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import RetrieverError
from toolenv.retrieval.encoders import Encoder
from toolenv.retrieval.index.store import PassageStore
from toolenv.retrieval.index.vectors import Vectors

BLOCK = 2_048
"""Passages that are written at once: what a kill loses at most."""
CHUNK = 512
"""Passages that the encoder gets at once; those of a block come sorted by length."""


@dataclass(frozen=True, slots=True)
class Known:
    """Vectors that need not be made again.

    Attributes:
        vectors: Of other rows, ``(M, D)``.
        rows: For each passage its row in ``vectors``, or -1; ``(N,)``.
    """

    vectors: Vectors
    rows: NDArray[np.int64]


def encode_passages(
    store: PassageStore,
    encoder: Encoder,
    path: Path,
    dtype: type[np.floating],
    *,
    known: Known | None = None,
    started_at: Callable[[int], None] = lambda rows: None,
    done: Callable[[int], None] = lambda rows: None,
) -> None:
    """Write the vectors of a store, a row a passage.

    Beside the file stands how far it is; a call that finds such a record goes on behind it. The blocks are the same
    then, and so are the vectors, if the encoder gives the same for the same texts.

    Args:
        store: The passages.
        encoder: Makes the vectors.
        path: The file to write.
        dtype: Type of the numbers.
        known: Vectors that are copied.
        started_at: Told once how many were there already.
        done: Told now and then how many are there.

    Raises:
        RetrieverError: The encoder failed, or gave what are no vectors.
        OSError: The disk does not take them.
    """
    state = path.with_name(f"{path.name}.json")
    row_bytes = encoder.dimension * np.dtype(dtype).itemsize
    key = [store.sha256, encoder.name, encoder.dimension, np.dtype(dtype).str, BLOCK]
    rows = _rows_done(state, path, key, row_bytes)
    started_at(rows)
    with path.open("r+b" if rows else "wb") as file:
        file.truncate(rows * row_bytes)
        file.seek(rows * row_bytes)
        for start in range(rows, len(store), BLOCK):
            end = min(start + BLOCK, len(store))
            vectors = _block(store, encoder, known, start, end, done)
            file.write(vectors.astype(dtype).tobytes())
            file.flush()
            os.fsync(file.fileno())
            _save(state, key, end)


def _block(
    store: PassageStore, encoder: Encoder, known: Known | None, start: int, end: int, done: Callable[[int], None]
) -> NDArray[np.float32]:
    """Vectors of the rows from ``start`` to ``end``."""
    vectors = np.empty((end - start, encoder.dimension), np.float32)
    new = np.arange(start, end)
    if known is not None:
        sources = known.rows[start:end]
        has = sources >= 0
        vectors[has] = known.vectors[sources[has]]
        new = new[~has]
    texts = [store[row].contents for row in new.tolist()]
    by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    copied = (end - start) - len(new)
    for first in range(0, len(by_length), CHUNK):
        places = by_length[first : first + CHUNK]
        vectors[new[places] - start] = encoded(encoder, [texts[place] for place in places])
        done(start + copied + first + len(places))
    return vectors


def encoded(encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
    """Vectors of passages, looked at.

    Raises:
        RetrieverError: The encoder failed, or gave what are no vectors.
    """
    try:
        vectors = encoder.encode(texts, "passage")
    except RuntimeError as error:
        raise RetrieverError(f"the encoder failed on {len(texts)} passages: {error}") from error
    wanted = (len(texts), encoder.dimension)
    if vectors.shape != wanted or not np.isfinite(vectors).all():
        seen = f"shape {vectors.shape}" if vectors.shape != wanted else "values that are no finite numbers"
        raise RetrieverError(f"the encoder {encoder.name!r} gave {seen} for {len(texts)} passages; wanted {wanted}")
    return vectors


def _rows_done(state: Path, path: Path, key: list[object], row_bytes: int) -> int:
    """How many rows an earlier call wrote; none where there was none, or one over other passages."""
    try:
        record = json.loads(state.read_text(encoding="utf-8"))
        rows = int(record["rows"])
        if record["key"] == key and path.stat().st_size >= rows * row_bytes:
            return rows
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0


def _save(state: Path, key: list[object], rows: int) -> None:
    aside = state.with_name(f"{state.name}.new")
    aside.write_text(json.dumps({"key": key, "rows": rows}), encoding="utf-8")
    os.replace(aside, state)
