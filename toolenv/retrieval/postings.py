"""The words of a corpus and the scores of its passages for each: arrays that are mapped from disk."""

from __future__ import annotations

import bisect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import RetrieverError

POSTINGS_VERSION = 1
BLOCKS = (1 << 12, 1 << 14, 1 << 16, 1 << 18)
"""Passages whose scores are summed at a time, first to last: what a query allocates does not grow with the corpus, and
the bar that most words stay below is found in a small part of it."""
SLACK = 2e-6
"""Scores this close may tie once they are rounded (see ``base.DECIMALS``)."""
ARRAYS = ("scores", "rows", "starts", "peaks", "words", "word_starts")
"""The fields of ``Postings`` that are arrays; each is a file ``<name>.npy``."""
_SETTINGS = "settings.json"

Terms = list[tuple[int, int]]
"""Numbers of known words with how often each occurs, in the order of the query."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a stored index was built with.

    Attributes:
        k1: How fast a word's further occurrences stop counting.
        b: How much long passages are held back.
        passages: How many passages it has.
        corpus_sha256: Which passages; empty where that is not known.
        stemmer: Language whose rules cut the words to their stems; empty: none.
    """

    k1: float
    b: float
    passages: int = 0
    corpus_sha256: str = ""
    stemmer: str = ""


@dataclass(frozen=True, slots=True)
class Postings:
    """Passages by word. Words stand in the order of their bytes, passages of a word in the order of rows.

    Attributes:
        settings: What it was built with.
        scores: Score of a passage for a word, float32, one after the other for all words.
        rows: The passages of these scores, int32.
        starts: Where each word's passages begin in both, and where the last one's end.
        peaks: Highest score of each word.
        words: All words, joined, in UTF-8.
        word_starts: Where each word begins in them, and where the last one ends.
    """

    settings: Settings
    scores: NDArray[np.float32]
    rows: NDArray[np.int32]
    starts: NDArray[np.int64]
    peaks: NDArray[np.float32]
    words: NDArray[np.uint8]
    word_starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.peaks)

    def __getitem__(self, number: int) -> bytes:
        """The word of this number."""
        return self.words[int(self.word_starts[number]) : int(self.word_starts[number + 1])].tobytes()

    def terms(self, words: Sequence[str]) -> Terms:
        """The words that the corpus has, each once."""
        counts: dict[int, int] = {}
        known: dict[str, int] = {}
        for word in words:
            number = known[word] if word in known else known.setdefault(word, self._number(word))
            if number >= 0:
                counts[number] = counts.get(number, 0) + 1
        return list(counts.items())

    def score(self, terms: Terms, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Sums of the terms' scores for the given rows, in float64 and in the order of the query."""
        wanted = rows.astype(np.int32)  # as the stored ones: else numpy would copy these
        total = np.zeros(len(rows))
        for number, count in terms:
            total += count * self._lookup(number, wanted)
        return total

    def top(self, terms: Terms, k: int) -> NDArray[np.int64]:
        """Rows of the ``k`` highest sums above 0 and of all that may tie with the last, in any order.

        Block by block of passages, the ``k`` best so far give a bar. The words whose highest scores together stay
        below it lift no passage over it that has none of the other words: only the others' passages are gone through,
        and the frequent words are looked up for what is left of them.

        Source: H. Turtle, J. Flood: Query evaluation: strategies and optimizations (1995), "max-score".
        """
        if not terms:
            return np.empty(0, np.int64)
        peaks = np.array([count * float(self.peaks[number]) for number, count in terms])
        order = np.argsort(-peaks, kind="stable")
        ordered = [terms[i] for i in order]
        beyond = np.append(np.cumsum(peaks[order][::-1])[::-1], 0.0)  # what the terms from the i-th on can add
        edges = _edges(self.settings.passages)
        bounds = [self._bounds(number, edges) for number, _ in ordered]
        found, sums, bar = np.empty(0, np.int64), np.empty(0), 0.0
        for block in range(len(edges) - 1):
            first = int(np.count_nonzero(beyond >= bar - SLACK)) if bar > 0 else len(ordered)
            first = min(first, len(ordered))
            summed = self._sum(ordered[:first], [b[block : block + 2] for b in bounds[:first]], int(edges[block]))
            rows = np.flatnonzero(summed > max(0.0, bar - SLACK - beyond[first]))
            sums_here = summed[rows]
            rows += edges[block]
            for term in range(first, len(ordered)):
                number, count = ordered[term]
                sums_here = sums_here + count * self._lookup(number, rows.astype(np.int32))
                kept = sums_here + beyond[term + 1] >= bar - SLACK
                rows, sums_here = rows[kept], sums_here[kept]
            found, sums = np.concatenate([found, rows]), np.concatenate([sums, sums_here])
            if len(found) > k:
                bar = float(np.partition(sums, -k)[-k])
                kept = sums >= bar - SLACK
                found, sums = found[kept], sums[kept]
        return found

    def _sum(self, terms: Terms, bounds: Sequence[NDArray[np.int64]], base: int) -> NDArray[np.float64]:
        """Sums of the terms' scores for all passages of a block."""
        pieces = [(slice(int(bound[0]), int(bound[1])), count) for (_, count), bound in zip(terms, bounds, strict=True)]
        rows = np.concatenate([self.rows[piece] for piece, _ in pieces])
        scores = np.concatenate([count * self.scores[piece].astype(np.float64) for piece, count in pieces])
        total: NDArray[np.float64] = np.bincount(rows - np.int32(base), weights=scores).astype(np.float64, copy=False)
        return total

    def _bounds(self, number: int, edges: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the blocks begin among a word's passages."""
        start, end = int(self.starts[number]), int(self.starts[number + 1])
        return start + np.searchsorted(self.rows[start:end], edges.astype(np.int32))

    def _lookup(self, number: int, rows: NDArray[np.int32]) -> NDArray[np.float64]:
        """A word's scores for the given rows; 0 where a passage lacks it."""
        start, end = int(self.starts[number]), int(self.starts[number + 1])
        places = np.minimum(np.searchsorted(self.rows[start:end], rows), end - start - 1) + start
        return np.where(self.rows[places] == rows, self.scores[places], 0.0).astype(np.float64)

    def _number(self, word: str) -> int:
        """Number of a word, -1 where the corpus lacks it."""
        wanted = word.encode()
        place = bisect.bisect_left(self, wanted)
        return place if place < len(self) and self[place] == wanted else -1

    def save(self, folder: Path) -> None:
        """Write all files into a folder, which is made.

        Raises:
            OSError: The folder cannot be written.
        """
        begin(folder)
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        write_settings(self.settings, folder)


def _edges(passages: int) -> NDArray[np.int64]:
    """Where the blocks of passages begin, and where the last one ends."""
    first = np.cumsum([0, *BLOCKS])
    edges = np.concatenate([first, np.arange(first[-1], passages + BLOCKS[-1], BLOCKS[-1])])
    return np.unique(edges.clip(max=passages))


def begin(folder: Path) -> None:
    """Make a folder for an index; one that stood there does not open any more."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SETTINGS).unlink(missing_ok=True)


def write_settings(settings: Settings, folder: Path) -> None:
    """Write down what an index was built with: the last file, without which it does not open."""
    record = {"version": POSTINGS_VERSION, **{name: getattr(settings, name) for name in Settings.__slots__}}
    (folder / _SETTINGS).write_text(json.dumps(record, indent=1), encoding="utf-8")


def open_postings(folder: Path) -> Postings:
    """Map what was saved.

    Raises:
        RetrieverError: A file is missing, cut short, of another version, or does not fit the others.
    """
    try:
        record = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        if record.pop("version") != POSTINGS_VERSION:
            raise ValueError("it is of another version")
        settings = Settings(**record)
        arrays: dict[str, Any] = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ARRAYS}
        postings = Postings(settings, **arrays)
        _check_sizes(postings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RetrieverError(f"cannot use the BM25 index in {folder}: {error}; build it again") from error
    return postings


def _check_sizes(postings: Postings) -> None:
    """Raise ``ValueError`` where the files do not belong together."""
    sizes = {name: len(getattr(postings, name)) for name in ARRAYS}
    total, words = int(postings.starts[-1]), len(postings)
    due = {"scores": total, "rows": total, "starts": words + 1, "peaks": words, "word_starts": words + 1}
    due["words"] = int(postings.word_starts[-1])
    if sizes != due:
        raise ValueError(f"its files do not fit together: they have {sizes} entries where {due} are due")
