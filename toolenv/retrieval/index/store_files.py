"""The files of a passage store, and how they are written: one pass over the passages, then a sort of their ids.

Three files and a record of facts:

- ``passages.bin``: a record a passage, in the order in which they came: three lengths, then id, title and text.
- ``passages.rows``: where each record begins, in the order of ids.
- ``passages.titles``: numbers of the titles, sorted, then the row of each: what finds the passages of a title.
- ``passages.json``: how many, how many bytes, and the sha256; written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import DataError, RetrieverError
from toolenv.retrieval.base import Passage

VERSION = 1
TEXTS, ROWS, TITLES, FACTS = "passages.bin", "passages.rows", "passages.titles", "passages.json"
FILES = (TEXTS, ROWS, TITLES, FACTS)
HEADER = struct.Struct("<III")
_BUFFER_BYTES = 1 << 20
_TELL_EVERY = 1_000
_SHA256_ENDS = 1 << 256
_STEP = 7  # bytes of an id that are compared at once


def write_store(passages: Iterable[Passage], folder: Path, progress: Callable[[int], None] | None) -> None:
    """Write the files; see ``PassageStore.build``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FACTS).unlink(missing_ok=True)
        written = _Written()
        with (folder / TEXTS).open("wb", _BUFFER_BYTES) as file:
            for passage in passages:
                file.write(written.add(passage))
                if progress is not None and len(written.offsets) % _TELL_EVERY == 0:
                    progress(len(written.offsets))
            _flush(file)
        if not written.offsets:
            raise DataError("the corpus is empty; it needs at least one passage")
        _write_tables(written, folder)
    except OSError as error:
        raise RetrieverError(f"{folder}: the passages cannot be written: {error}; make room, and call again") from error


def read_facts(folder: Path) -> dict[str, Any]:
    """What was written down of a store.

    Raises:
        DataError: No store is there, or one of its files has another size.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        sizes = {name: int(count) for name, count in facts["bytes"].items()}
        version, _ = facts["version"], (facts["passages"], facts["titled"], facts["sha256"])
    except FileNotFoundError as error:
        raise DataError(f"{folder}: holds no stored passages ({FACTS} is missing)") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / FACTS}: cannot be read: {error!r}") from error
    if version != VERSION:
        raise DataError(f"{folder}: passages of version {version}; this toolenv reads version {VERSION}")
    for name, count in sizes.items():
        check_size(folder / name, count)
    return facts


def check_size(path: Path, expected: int) -> None:
    """Refuse a file of an index that was cut short, or is gone.

    Raises:
        DataError: Its size is another.
    """
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise DataError(
            f"{path}: is missing, and should have {expected:,} bytes; build the index again (toolenv index build)"
        ) from None
    if found != expected:
        state = "cut short" if found < expected else "longer than it was"
        raise DataError(
            f"{path}: is {state}: {found:,} bytes, expected {expected:,}; toolenv index verify looks at every file, "
            "toolenv index build makes the index again"
        )


def passages_sha256(passages: Iterable[Passage]) -> str:
    """What tells one set of passages from another: the sum of their sha256, whatever their order.

    Example:
        >>> a, b = Passage("1", "x", "yz"), Passage("2", "xy", "z")
        >>> passages_sha256([a, b]) == passages_sha256([b, a]) != passages_sha256([a])
        True
    """
    return _hex(sum(int.from_bytes(hashlib.sha256(_record(*_parts(p))).digest(), "big") for p in passages))


def title_number(title: str) -> int:
    """A number that titles have in common if they differ in case only."""
    digest = hashlib.blake2b(title.casefold().encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def in_order_of_ids(
    ids: NDArray[np.uint8], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[int, int] | None]:
    """Sort ids that lie one after the other in an array of bytes.

    UTF-8 sorts as Python sorts strings. Seven bytes of each id and how many are left, at most 8, make a number; ids
    with the same number are told apart by their next seven bytes.

    Args:
        ids: Bytes of all ids.
        ends: Where each ends, ``(N,)``.

    Returns:
        The order ``(N,)``; and two places that hold the same id, if there are such.

    Example:
        >>> in_order_of_ids(np.frombuffer(b"bab", np.uint8), np.array([1, 2, 3]))
        (array([1, 0, 2]), (0, 2))
    """
    ids = ids if len(ids) else np.zeros(1, np.uint8)  # the empty id alone
    starts = np.concatenate([[0], ends[:-1]])
    order = np.arange(len(ends))
    places = np.arange(len(ends))  # of the order, whose ids are not told apart yet
    groups = np.zeros(len(ends), np.int64)  # ids that are alike so far
    depth = 0
    while len(places):
        chosen = order[places]
        numbers = _numbers(ids, starts[chosen] + depth, ends[chosen])
        by_number = np.lexsort((numbers, groups))
        order[places], numbers = chosen[by_number], numbers[by_number]
        same = (numbers[1:] == numbers[:-1]) & (groups[1:] == groups[:-1])
        twice = np.flatnonzero(same & (numbers[1:] % 256 <= _STEP))
        if len(twice):
            first, second = sorted(order[places[twice[0] : twice[0] + 2]].tolist())
            return order, (first, second)
        tied = np.zeros(len(places), bool)
        tied[1:] |= same
        tied[:-1] |= same
        groups = np.concatenate([[0], np.cumsum(~same)])[tied]
        places = places[tied]
        depth += _STEP
    return order, None


def _numbers(ids: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Seven bytes of each id as a number, and in its last byte how many bytes were left, at most 8."""
    numbers = np.zeros(len(starts), np.uint64)
    for place in range(_STEP):
        at = starts + place
        numbers |= np.where(at < ends, ids[np.minimum(at, len(ids) - 1)], 0).astype(np.uint64)
        numbers <<= np.uint64(8)
    numbers |= np.clip(ends - starts, 0, _STEP + 1).astype(np.uint64)
    return numbers


class _Written:
    """What is kept of the passages that were written: where they lie, their ids, numbers of their titles, a sum."""

    def __init__(self) -> None:
        self.offsets, self.id_ends, self.titles = array("q"), array("q"), array("Q")
        self.ids = bytearray()
        self.titled = array("q")
        self.bytes = self.sum = 0
        self._title: tuple[str, int] = "", title_number("")

    def add(self, passage: Passage) -> bytes:
        """Note a passage; returns its record."""
        parts = _parts(passage)
        record = _record(*parts)
        self.ids += parts[0]
        self.id_ends.append(len(self.ids))
        if passage.title:
            if passage.title != self._title[0]:  # passages of an article mostly stand together
                self._title = passage.title, title_number(passage.title)
            self.titles.append(self._title[1])
            self.titled.append(len(self.offsets))
        self.offsets.append(self.bytes)
        self.bytes += len(record)
        self.sum = (self.sum + int.from_bytes(hashlib.sha256(record).digest(), "big")) % _SHA256_ENDS
        return record

    def id_at(self, number: int) -> str:
        start = self.id_ends[number - 1] if number else 0
        return self.ids[start : self.id_ends[number]].decode("utf-8", "surrogatepass")


def _write_tables(written: _Written, folder: Path) -> None:
    order, twice = in_order_of_ids(np.frombuffer(written.ids, np.uint8), np.frombuffer(written.id_ends, np.int64))
    if twice is not None:
        first, second = twice
        raise DataError(
            f"the corpus holds the passage id {written.id_at(first)!r} twice, as passages number {first + 1:,} and "
            f"{second + 1:,}; ids must be unique"
        )
    _write(folder / ROWS, np.frombuffer(written.offsets, np.int64)[order])
    rows = np.empty_like(order)
    rows[order] = np.arange(len(order))
    titles, titled = np.frombuffer(written.titles, np.uint64), rows[np.frombuffer(written.titled, np.int64)]
    by_title = np.lexsort((titled, titles))
    _write(folder / TITLES, titles[by_title], titled[by_title])
    facts = {
        "version": VERSION,
        "passages": len(order),
        "titled": len(titles),
        "sha256": _hex(written.sum),
        "bytes": {name: (folder / name).stat().st_size for name in (TEXTS, ROWS, TITLES)},
    }
    aside = folder / f"{FACTS}.new"
    aside.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    os.replace(aside, folder / FACTS)


def _write(path: Path, *columns: NDArray[Any]) -> None:
    with path.open("wb") as file:
        for column in columns:
            column.astype("<u8").tofile(file)
        _flush(file)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _parts(passage: Passage) -> tuple[bytes, bytes, bytes]:
    id, title, text = (part.encode("utf-8", "surrogatepass") for part in (passage.id, passage.title, passage.text))
    return id, title, text


def _record(id: bytes, title: bytes, text: bytes) -> bytes:
    return HEADER.pack(len(id), len(title), len(text)) + id + title + text


def _hex(number: int) -> str:
    return f"{number % _SHA256_ENDS:064x}"
