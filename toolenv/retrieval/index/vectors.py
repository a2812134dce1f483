"""The vectors of an index on disk: a row a passage, read by rows without holding them in memory."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import DataError

Vectors = NDArray[Any]
"""``(N, D)``, float16 or float32, in memory or mapped from a file."""


def create_vectors(path: Path, rows: int, dimension: int, dtype: type[np.floating] = np.float16) -> Vectors:
    """A file for ``rows`` vectors, mapped for writing; one of that size that is there is opened as it is.

    Raises:
        OSError: The disk is full, or the file cannot be written.
    """
    size = rows * dimension * np.dtype(dtype).itemsize
    with path.open("r+b" if path.exists() else "w+b") as file:
        if os.fstat(file.fileno()).st_size != size:
            file.truncate(0)
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is met now, and not as a signal in the middle
    return np.memmap(path, dtype, "r+", shape=(rows, dimension))


def open_vectors(path: Path, rows: int, dimension: int, dtype: type[np.floating] = np.float16) -> Vectors:
    """The vectors of a built index, mapped for reading.

    Raises:
        DataError: The file is not there, or has another size.
    """
    expected = rows * dimension * np.dtype(dtype).itemsize
    size = path.stat().st_size if path.is_file() else -1
    if size != expected:
        seen = "does not exist" if size < 0 else f"has {size} bytes"
        raise DataError(
            f"{path} {seen}; {rows} vectors of {dimension} dimensions take {expected}; build the index again"
        )
    return np.memmap(path, dtype, "r", shape=(rows, dimension))


def chunks(vectors: Vectors, size: int, first: int = 0) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The vectors from row ``first`` on as float32, ``size`` at a time, each part with its first row.

    Pages of the file are let go of as they are passed, so that reading a large file holds one chunk of it.

    Raises:
        DataError: A vector holds what is no finite number.
    """
    file = VectorFile(vectors)
    for start in range(first, len(vectors), size):
        chunk = file.read(slice(start, start + size)).astype(np.float32, copy=False)
        check_finite(chunk, start)
        yield start, chunk
        file.forget(start, len(chunk))


def check_finite(vectors: NDArray[np.floating], first_row: int = 0) -> None:
    """Refuse NaN and infinities, which no distance can order.

    Raises:
        DataError: A vector holds one; the message has its row.
    """
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = first_row + int(np.argmin(finite))
        raise DataError(f"vector {row} holds a value that is no finite number; the encoder that made it is broken")


class VectorFile:
    """Rows of vectors, read by offset where they are a mapped file.

    A read of scattered rows through the map would fault page after page, and bring in neighbours that nobody asked for;
    a read by offset takes the pages it needs, and ``expect`` asks the disk for many of them at once.

    Args:
        vectors: In memory or mapped.

    Example:
        >>> file = VectorFile(np.eye(3, dtype=np.float16))
        >>> file.read(np.array([2, 0])).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self._row_bytes = vectors.shape[1] * vectors.dtype.itemsize
        self._file, self._name = -1, ""
        if isinstance(vectors, np.memmap) and vectors.filename is not None and vectors.flags.c_contiguous:
            self._offset, self._name = vectors.offset, str(vectors.filename)
            self._file = os.open(vectors.filename, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)

    def expect(self, rows: NDArray[np.int64]) -> None:
        """Have the disk fetch these rows, without waiting for them."""
        if self._file >= 0:
            for row in rows.tolist():
                start = self._offset + row * self._row_bytes
                os.posix_fadvise(self._file, start, self._row_bytes, os.POSIX_FADV_WILLNEED)

    def read(self, rows: NDArray[np.int64] | slice) -> Vectors:
        """The given rows.

        Raises:
            OSError: The file was cut short, or cannot be read.
        """
        if self._file < 0:
            return np.asarray(self.vectors[rows])
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self.vectors))
            return self._at(start, stop - start)
        out = np.empty((len(rows), self.vectors.shape[1]), self.vectors.dtype)
        room = out.reshape(-1).view(np.uint8).data
        size = self._row_bytes
        for place, row in enumerate(rows.tolist()):
            if os.preadv(self._file, [room[place * size : (place + 1) * size]], self._offset + row * size) != size:
                raise OSError(f"{self._name} ends before row {row + 1}")
        return out

    def forget(self, start: int, rows: int) -> None:
        """Let go of the cached pages of a stretch that was read once."""
        if self._file >= 0:
            os.posix_fadvise(
                self._file, self._offset + start * self._row_bytes, rows * self._row_bytes, os.POSIX_FADV_DONTNEED
            )

    def _at(self, row: int, count: int) -> Vectors:
        size = count * self._row_bytes
        start = self._offset + row * self._row_bytes
        parts = []
        while size > 0:  # a read returns at most 2 GB
            part = os.pread(self._file, size, start)
            if not part:
                raise OSError(f"{self._name} ends before row {row + count}")
            parts.append(part)
            size, start = size - len(part), start + len(part)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return np.frombuffer(data, self.vectors.dtype).reshape(count, -1)
