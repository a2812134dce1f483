"""Batches of token sequences: of one length, or of about one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

MIN_TOKENS = 32
"""Matrices of fewer rows are multiplied in another order on a CPU, so that the last bit of a vector changes."""


def batches(lengths: Sequence[int], size: int, *, one_length: bool) -> Iterator[list[int]]:
    """Rows of each batch, in the order of their lengths.

    Args:
        lengths: Tokens of each row.
        size: Most rows of a batch.
        one_length: Whether a batch holds rows of one length only, so that it needs no padding.

    Example:
        >>> list(batches([3, 2, 3, 3], 2, one_length=True)), list(batches([3, 2, 3, 3], 2, one_length=False))
        ([[1], [0, 2], [3]], [[1, 0], [2, 3]])
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batch and (len(batch) == size or (one_length and lengths[row] != lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def repeated(batch: list[T], length: int) -> list[T]:
    """The rows of a batch, again and again up to ``MIN_TOKENS`` tokens of them, for the same bits in any batch.

    Example:
        >>> len(repeated(["a query of ten tokens"], 10)), len(repeated(["a long one"], 200))
        (4, 1)
    """
    return batch * -(-MIN_TOKENS // (len(batch) * length))
