"""Passages on disk: read where they lie, found by row, id and title; never all in memory."""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import RetrieverError
from toolenv.retrieval.base import Passage
from toolenv.retrieval.index.store_files import (
    HEADER,
    ROWS,
    TEXTS,
    TITLES,
    read_facts,
    title_number,
    write_store,
)

_GUESS_BYTES = 2_048  # most records are shorter, so one read brings header and text


class PassageStore(Sequence[Passage]):
    """The passages of an index, in the order of their ids: row r is the r-th smallest id.

    Nothing is loaded: passages are read from the disk when asked for, and the tables that say where they lie are
    memory-mapped, so that processes share them. Threads may share a store. Two stores are equal when they hold the
    same passages; so are a store and a list of passages in the order of ids.

    Args:
        folder: Where ``build`` wrote it.

    Attributes:
        folder: The same.
        sha256: Of the passages, whatever their order was; see ``passages_sha256``.

    Raises:
        DataError: No store is there, or one of its files has another size than was written down.

    Example:
        >>> import tempfile
        >>> corpus = [Passage("b", "Rhone", "A river."), Passage("a", "Lyon", "A city."), Passage("c", "lyon", "Yarn.")]
        >>> store = PassageStore.build(corpus, tempfile.mkdtemp())
        >>> [passage.id for passage in store]
        ['a', 'b', 'c']
        >>> store.rows_of_title("Lyon").tolist(), store.rows_of_title("LYON").tolist(), store.row_of("b")
        ([0], [0, 2], 1)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        facts = read_facts(self.folder)
        self.sha256: str = facts["sha256"]
        self._count: int = facts["passages"]
        try:
            self._texts = _File(self.folder / TEXTS)
            self._offsets = _mapped(self.folder / ROWS, 0, self._count)
            self._titled: int = facts["titled"]
            self._title_numbers = _mapped(self.folder / TITLES, 0, self._titled)
            self._title_rows = _mapped(self.folder / TITLES, 8 * self._titled, self._titled)
        except OSError as error:
            raise RetrieverError(f"{self.folder}: the passages cannot be opened: {error}") from error

    @classmethod
    def build(
        cls, passages: Iterable[Passage], folder: str | Path, progress: Callable[[int], None] | None = None
    ) -> PassageStore:
        """Write passages to a folder, one at a time, and open it.

        Of each passage about 40 bytes and its id stay in memory, and about 120 in the end, while ids are sorted.

        Args:
            passages: In any order.
            folder: Made where it is missing; a store in it is replaced.
            progress: Told now and then how many passages are written.

        Raises:
            DataError: No passage, or two with one id.
            RetrieverError: The disk does not take them.
        """
        write_store(passages, Path(folder), progress)
        return cls(folder)

    @classmethod
    def open(cls, folder: str | Path) -> PassageStore:
        """The store in a folder; as the constructor."""
        return cls(folder)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, row: int) -> Passage: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[Passage, ...]: ...
    def __getitem__(self, row: int | slice) -> Passage | tuple[Passage, ...]:
        if isinstance(row, slice):
            return tuple(self[r] for r in range(*row.indices(self._count)))
        place = int(row)
        if not -self._count <= place < self._count:
            raise IndexError(f"there is no row {row}; the store has {self._count}")
        return self._read(int(self._offsets[place]))

    def rows_of_title(self, title: str) -> NDArray[np.int64]:
        """Rows of the passages with this title, in their order; where there is none, those that differ in case only."""
        number = np.uint64(title_number(title))
        first, end = (int(np.searchsorted(self._title_numbers, number, side)) for side in ("left", "right"))
        rows = self._title_rows[first:end].astype(np.int64)
        titles = [self[row].title for row in rows]
        folded = title.casefold()
        same = [row for row, found in zip(rows, titles, strict=True) if found == title]
        alike = [row for row, found in zip(rows, titles, strict=True) if found.casefold() == folded]
        return np.array(same or alike, np.int64)

    def row_of(self, id: str) -> int:
        """The row of a passage.

        Raises:
            KeyError: No passage has this id.
        """
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            if self[middle].id < id:
                low = middle + 1
            else:
                high = middle
        if low == self._count or self[low].id != id:
            raise KeyError(id)
        return low

    def in_file_order(self) -> Iterator[tuple[int, Passage]]:
        """All rows with their passages, in the order in which they were given to ``build``: fast on any disk."""
        for row in np.argsort(self._offsets, kind="stable").tolist():
            yield row, self[row]

    def _read(self, offset: int) -> Passage:
        try:
            data = self._texts.read(offset, _GUESS_BYTES)
            sizes = HEADER.unpack_from(data)
            end = HEADER.size + sum(sizes)
            if len(data) < end:
                data = self._texts.read(offset, end)
            if len(data) < end:
                raise ValueError(f"it ends {end - len(data)} bytes early")
            parts, start = [], HEADER.size
            for size in sizes:
                parts.append(data[start : start + size].decode("utf-8", "surrogatepass"))
                start += size
        except (struct.error, ValueError, OSError) as error:
            raise RetrieverError(
                f"{self.folder / TEXTS}: no whole passage at byte {offset}: {error}; run: toolenv index verify"
            ) from error
        return Passage(*parts)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PassageStore):
            return self.sha256 == other.sha256
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self.folder, self.sha256)

    def __deepcopy__(self, memo: dict[int, Any]) -> PassageStore:
        return self

    def __repr__(self) -> str:
        return f"PassageStore({self._count} passages in {self.folder})"


class _File:
    """A file that threads read from at once."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._descriptor, count, offset)


def _mapped(path: Path, offset: int, count: int) -> NDArray[np.uint64]:
    if count == 0:
        return np.empty(0, np.uint64)  # nothing cannot be mapped
    return np.memmap(path, np.dtype("<u8"), "r", offset, (count,))


def _opened_again(folder: Path, sha256: str) -> PassageStore:
    """What a pickled store becomes in another process."""
    store = PassageStore(folder)
    if store.sha256 != sha256:
        raise RetrieverError(f"{folder}: holds other passages than when this was pickled; open the index anew")
    return store
