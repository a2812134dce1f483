"""Builds what BM25 searches, in memory or on disk, in memory that grows with the words and not with the passages."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import ConfigError, DataError
from toolenv.extras import require
from toolenv.retrieval.base import Passage
from toolenv.retrieval.postings import Postings, Settings, begin, write_settings

CHUNK = 50_000
"""Passages whose words are counted and placed at a time; about 6 KB of memory for each."""
_WORD = re.compile(r"\w+")

Make = Callable[[str, int, Any], NDArray[Any]]
"""Makes an array: name, length and type."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """Words of a chunk of passages, each passage's once: with how often it has them, and how many there are."""

    words: NDArray[np.int32]
    times: NDArray[np.int32]
    distinct: NDArray[np.int32]
    lengths: NDArray[np.int64]


def words(text: str) -> list[str]:
    """Lower-case words of a text.

    Example:
        >>> words("The Rhône, 812 km")
        ['the', 'rhône', '812', 'km']
    """
    return _WORD.findall(text.lower())


def splitter(stemmer: str) -> Callable[[str], list[str]]:
    """What splits a text into words, and cuts each to its stem where a language is named. Of use to one thread.

    Args:
        stemmer: A language that Snowball has, such as ``"english"``; empty: words as they are.

    Raises:
        ConfigError: Another language.
        MissingExtraError: PyStemmer is not installed.

    Example:
        >>> splitter("english")("Two rivers flowing")
        ['two', 'river', 'flow']
    """
    if not stemmer:
        return words
    module = require("Stemmer", "search")
    if stemmer not in module.algorithms():
        raise ConfigError(f"unknown stemmer {stemmer!r}; choose one of {', '.join(module.algorithms())}, or none: ''")
    stem: Callable[[list[str]], list[str]] = module.Stemmer(stemmer).stemWords
    return lambda text: stem(words(text))


def build_in_memory(passages: Iterable[Passage], settings: Settings) -> Postings:
    """Count all words and score all passages.

    Args:
        passages: The corpus, in the order of ids.
        settings: What to build; the number of passages is counted.

    Raises:
        ConfigError: An unknown stemmer.
        MissingExtraError: bm25s or the stemmer is not installed.
        DataError: No passage.
    """
    vocabulary: dict[str, int] = {}
    chunks = list(_count(passages, splitter(settings.stemmer), vocabulary, lambda done: None))
    return _place(chunks, vocabulary, settings, lambda _, n, kind: np.zeros(n, kind))


def build_on_disk(
    passages: Iterable[Passage],
    folder: str | Path,
    settings: Settings,
    counted: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the index of a corpus that need not fit into memory; ``BM25Retriever.open`` opens it.

    The files are the same, to the last byte, as those that ``BM25Retriever(passages).save(folder)`` writes. On the way
    the folder takes as much room again.

    Args:
        passages: The corpus, in the order of ids.
        folder: Where to write; made.
        settings: What to build; the number of passages is counted.
        counted: Told how many passages have been read.

    Raises:
        ConfigError: An unknown stemmer.
        MissingExtraError: bm25s or the stemmer is not installed.
        DataError: No passage.
        OSError: The folder cannot be written, or the disk is full.
    """
    folder = Path(folder)
    begin(folder)
    spill = folder / "counted"
    shutil.rmtree(spill, ignore_errors=True)
    spill.mkdir()
    try:
        vocabulary: dict[str, int] = {}
        paths: list[Path] = []
        for chunk in _count(passages, splitter(settings.stemmer), vocabulary, counted):
            paths.append(spill / f"{len(paths)}.npz")
            np.savez(paths[-1], words=chunk.words, times=chunk.times, distinct=chunk.distinct, lengths=chunk.lengths)
        made = _place(_Spilled(paths), vocabulary, settings, lambda *of: _mapped(folder, *of))
        write_settings(made.settings, folder)
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _mapped(folder: Path, name: str, length: int, kind: Any) -> NDArray[Any]:
    """A new array on disk, with its room taken: a map that the disk has no room for would end the process."""
    path = folder / f"{name}.npy"
    if not length:  # nothing can be mapped
        np.save(path, np.zeros(0, kind))
        return np.zeros(0, kind)
    array = np.lib.format.open_memmap(path, "w+", dtype=kind, shape=(length,))
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


class _Spilled:
    """Chunks on disk, read anew each time."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __iter__(self) -> Iterator[_Counted]:
        for path in self._paths:
            with np.load(path) as file:
                yield _Counted(**file)


def _count(
    passages: Iterable[Passage],
    split: Callable[[str], list[str]],
    vocabulary: dict[str, int],
    counted: Callable[[int], None],
) -> Iterator[_Counted]:
    """Words of the passages, chunk by chunk; new words are added to the vocabulary."""
    base, rest = 0, iter(passages)
    while chunk := list(islice(rest, CHUNK)):
        found: list[NDArray[np.int32]] = []
        for passage in chunk:
            numbers = [vocabulary.setdefault(word, len(vocabulary)) for word in split(passage.contents)]
            found.append(np.array(numbers, np.int32))
        lengths = np.array([len(numbers) for numbers in found])
        keys = np.repeat(np.arange(len(found), dtype=np.int64), lengths) << 32 | np.concatenate(found)
        unique, times = np.unique(keys, return_counts=True)
        distinct = np.bincount(unique >> 32, minlength=len(found)).astype(np.int32)
        yield _Counted((unique & 0xFFFFFFFF).astype(np.int32), times.astype(np.int32), distinct, lengths)
        base += len(chunk)
        counted(base)


def _place(chunks: Iterable[_Counted], vocabulary: dict[str, int], settings: Settings, make: Make) -> Postings:
    """Score each passage for each of its words, and put the scores where the word's begin."""
    ordered = sorted(vocabulary)
    new_number = np.empty(len(ordered), np.int32)
    new_number[[vocabulary[word] for word in ordered]] = np.arange(len(ordered), dtype=np.int32)
    passages_with, lengths = np.zeros(len(ordered), np.int64), 0
    passages = 0
    for chunk in chunks:
        passages_with += np.bincount(new_number[chunk.words], minlength=len(ordered))
        passages, lengths = passages + len(chunk.lengths), lengths + int(chunk.lengths.sum())
    if not passages:
        raise DataError("the corpus is empty; it needs at least one passage")
    settings = replace(settings, passages=passages)

    encoded = [word.encode() for word in ordered]
    word_starts = _store(make, "word_starts", np.cumsum([0, *map(len, encoded)]), np.int64)
    letters = _store(make, "words", np.frombuffer(b"".join(encoded), np.uint8), np.uint8)
    starts = _store(make, "starts", np.concatenate([[0], np.cumsum(passages_with)]), np.int64)
    total = int(starts[-1])
    scores, rows = make("scores", total, np.float32), make("rows", total, np.int32)
    peaks = make("peaks", len(ordered), np.float32)

    score = _scorer(settings, passages_with, lengths / passages)
    free, base = np.array(starts[:-1]), 0
    for chunk in chunks:
        numbers = new_number[chunk.words]
        order = np.argsort(numbers, kind="stable")
        numbers = numbers[order]
        here, firsts, counts = np.unique(numbers, return_index=True, return_counts=True)
        places = np.repeat(free[here] - firsts, counts) + np.arange(len(numbers))
        free[here] += counts
        here_from = np.arange(base, base + len(chunk.lengths), dtype=np.int32)
        own = np.repeat(here_from, chunk.distinct)[order]
        values = score(chunk.times[order], chunk.lengths[own - base], numbers)
        scores[places], rows[places] = values, own
        if len(values):
            peaks[here] = np.maximum(peaks[here], np.maximum.reduceat(values, firsts))
        base += len(chunk.lengths)
    return Postings(settings, scores, rows, starts, peaks, letters, word_starts)


def _store(make: Make, name: str, values: NDArray[Any], kind: Any) -> NDArray[Any]:
    array = make(name, len(values), kind)
    array[:] = values
    return array


def _scorer(
    settings: Settings, passages_with: NDArray[np.int64], mean_length: float
) -> Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[np.float32]]:
    """Scores of occurrences, by bm25s's own formulas."""
    formulas = require("bm25s.scoring", "search")
    weight, saturate = formulas._select_idf_scorer("lucene"), formulas._select_tfc_scorer("lucene")
    rarity = np.array([weight(count, settings.passages) for count in passages_with.tolist()], np.float32)

    def score(times: NDArray[Any], lengths: NDArray[Any], numbers: NDArray[Any]) -> NDArray[np.float32]:
        saturated: NDArray[np.float64] = saturate(times, lengths, mean_length, settings.k1, settings.b)
        values: NDArray[np.float32] = (rarity[numbers] * saturated).astype(np.float32)
        return values

    return score
