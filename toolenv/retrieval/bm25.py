"""Lexical retrieval: BM25 over words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import RetrieverError
from toolenv.retrieval.base import Hit, Passage, check_k, in_order, ranked
from toolenv.retrieval.bm25_build import build_in_memory, build_on_disk, splitter, words
from toolenv.retrieval.postings import Settings, Terms, open_postings

__all__ = ["BM25Retriever", "words"]

MAX_QUERY_CHARS = 4_000


class BM25Retriever:
    """BM25 (Lucene's variant) over the words of title and text.

    Built in memory, or built into a folder (``build``, ``save``) and mapped from there (``open``): the scores are the
    same.
    Passages that share no word with the query are not found.

    Args:
        passages: The corpus.
        k1: How fast a word's further occurrences stop counting.
        b: How much long passages are held back.
        stemmer: A language of Snowball, such as ``"english"``: "rivers" then finds "river". On real questions it found
            2 more paragraphs of 100 among the first 3. Empty: words as they are.

    Attributes:
        scores: ``"bm25"``; comparable over one corpus, since rarity and length are measured in it.

        identity: Two with the same one answer alike; set where it was opened from an index, else empty.

    Raises:
        ConfigError: An unknown stemmer.
        MissingExtraError: bm25s or the stemmer is not installed.
        DataError: No passage, or two with one id.

    Source:
        k1 0.9, b 0.4: Pyserini's defaults for Wikipedia.

    Example:
        >>> corpus = [Passage("a", "Lyon", "A city on the Rhone."), Passage("b", "Rhone", "A river.")]
        >>> [[p.id for p in found] for found in BM25Retriever(corpus).search(["which river?", "Paris"], k=1)]
        [['b'], []]
    """

    scores = "bm25"
    identity: str = ""

    def __init__(self, passages: Iterable[Passage], k1: float = 0.9, b: float = 0.4, stemmer: str = "") -> None:
        self.passages: Sequence[Passage] = in_order(passages)
        self._postings = build_in_memory(self.passages, Settings(k1, b, stemmer=stemmer))
        self._folder: Path | None = None

    @classmethod
    def open(cls, folder: str | Path, passages: Sequence[Passage]) -> BM25Retriever:
        """Map an index that ``save`` or ``build`` wrote: milliseconds, and processes share its pages.

        Args:
            folder: Where it is.
            passages: The passages it was built over, sorted by id; a ``PassageStore``, or any sequence.

        Raises:
            RetrieverError: A file is missing or cut short, or the index was built over other passages.
        """
        postings = open_postings(Path(folder))
        built = postings.settings
        if built.passages != len(passages):
            raise RetrieverError(
                f"the BM25 index in {folder} was built over {built.passages} passages, and the corpus has "
                f"{len(passages)}; open it with its own corpus, or build it again"
            )
        actual = getattr(passages, "sha256", "")
        if built.corpus_sha256 and actual and built.corpus_sha256 != actual:
            raise RetrieverError(
                f"the BM25 index in {folder} was built over other passages, with the sha256 {built.corpus_sha256[:12]} "
                f"where the corpus has {actual[:12]}; open it with its own corpus, or build it again"
            )
        retriever = cls.__new__(cls)
        retriever.passages, retriever._postings, retriever._folder = passages, postings, Path(folder).absolute()
        return retriever

    @staticmethod
    def build(
        passages: Iterable[Passage],
        folder: str | Path,
        *,
        k1: float = 0.9,
        b: float = 0.4,
        stemmer: str = "",
        counted: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Write the index of a corpus that need not fit into memory.

        Args:
            passages: The corpus, sorted by id: a ``PassageStore``, or anything that gives one at a time.
            folder: Where to write; made.
            k1: How fast a word's further occurrences stop counting.
            b: How much long passages are held back.
            stemmer: As for a retriever.
            counted: Told how many passages have been read.

        Raises:
            ConfigError: An unknown stemmer.
            MissingExtraError: bm25s or the stemmer is not installed.
            DataError: No passage.
            OSError: The folder cannot be written, or the disk is full.
        """
        settings = Settings(k1, b, corpus_sha256=getattr(passages, "sha256", ""), stemmer=stemmer)
        build_on_disk(passages, folder, settings, counted)

    def save(self, folder: str | Path) -> None:
        """Write the index into a folder.

        Raises:
            OSError: The folder cannot be written.
        """
        self._postings.save(Path(folder))

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Find passages; see ``Retriever``."""
        return [[hit.passage for hit in hits] for hits in self.search_scored(queries, k)]

    def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Find passages with their scores; see ``ScoredRetriever``."""
        check_k(k)
        hits = []
        for terms in map(self._terms, queries):
            rows = self._postings.top(terms, k)
            hits.append(ranked(self.passages, rows, self._postings.score(terms, rows), k))
        return hits

    def propose(self, queries: Sequence[str], k: int) -> list[NDArray[np.int64]]:
        """Rows of the ``k`` best passages a query, and of those that tie with the last of them."""
        return [self._postings.top(self._terms(query), k) for query in queries]

    def score(self, queries: Sequence[str], rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        """BM25 scores of the given rows; 0 where no word is shared."""
        pairs = zip(queries, rows, strict=True)
        return [self._postings.score(self._terms(query), own) for query, own in pairs]

    def _terms(self, query: str) -> Terms:
        split = splitter(self._postings.settings.stemmer)
        return self._postings.terms(split(query[:MAX_QUERY_CHARS]))

    def __getstate__(self) -> dict[str, Any]:
        """An opened index travels as its folder, and is mapped where it arrives."""
        state = dict(self.__dict__)
        if self._folder is not None:
            del state["_postings"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._folder is not None:
            self._postings = open_postings(self._folder)

    def __deepcopy__(self, memo: dict[int, Any]) -> BM25Retriever:
        return self

    def __repr__(self) -> str:
        return f"BM25Retriever({len(self.passages)} passages)"
