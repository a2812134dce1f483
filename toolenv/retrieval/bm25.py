"""Lexical retrieval: BM25 over words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.extras import require
from toolenv.retrieval.base import Passage, best, check_k, in_order

MAX_QUERY_CHARS = 4_000
_WORD = re.compile(r"\w+")


class BM25Retriever:
    """BM25 (Lucene's variant) over the words of title and text, built in memory.

    Passages that share no word with the query are not found.

    Args:
        passages: The corpus.
        k1: How fast a word's further occurrences stop counting.
        b: How much long passages are held back.

    Raises:
        MissingExtraError: bm25s is not installed.
        DataError: No passage, or two with one id.

    Source:
        k1 0.9, b 0.4: Pyserini's defaults for Wikipedia.

    Example:
        >>> corpus = [Passage("a", "Lyon", "A city on the Rhone."), Passage("b", "Rhone", "A river.")]
        >>> [[p.id for p in found] for found in BM25Retriever(corpus).search(["which river?", "Paris"], k=1)]
        [['b'], []]
    """

    def __init__(self, passages: Iterable[Passage], k1: float = 0.9, b: float = 0.4) -> None:
        self.passages = in_order(passages)
        self._index = require("bm25s", "search").BM25(k1=k1, b=b)
        self._index.index([words(passage.contents) for passage in self.passages], show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Find passages; see ``Retriever``."""
        check_k(k)
        all_scores = [self._scores(query) for query in queries]
        rows = [_highest(scores, k) for scores in all_scores]
        return [best(self.passages, r, scores[r], k) for r, scores in zip(rows, all_scores, strict=True)]

    def propose(self, queries: Sequence[str], k: int) -> list[NDArray[np.int64]]:
        """Rows of the ``k`` best passages a query, and of those that tie with the last of them."""
        return [_highest(self._scores(query), k) for query in queries]

    def score(self, queries: Sequence[str], rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        """BM25 scores of the given rows; 0 where no word is shared."""
        return [self._scores(query)[r] for query, r in zip(queries, rows, strict=True)]

    def _scores(self, query: str) -> NDArray[np.float64]:
        """Scores of all passages, ``(N,)``."""
        known: list[int] = self._index.get_tokens_ids(words(query[:MAX_QUERY_CHARS]))
        if not known:
            return np.zeros(len(self.passages))
        scores: NDArray[np.float64] = self._index.get_scores_from_ids(known).astype(np.float64)
        return scores

    def __deepcopy__(self, memo: dict[int, Any]) -> BM25Retriever:
        return self

    def __repr__(self) -> str:
        return f"BM25Retriever({len(self.passages)} passages)"


def words(text: str) -> list[str]:
    """Lower-case words of a text.

    Example:
        >>> words("The Rhône, 812 km")
        ['the', 'rhône', '812', 'km']
    """
    return _WORD.findall(text.lower())


def _highest(scores: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Rows of the ``k`` highest scores above 0, with all that tie with the last."""
    if k < len(scores):
        threshold = np.partition(scores, -k)[-k]
        return np.flatnonzero((scores > 0) & (scores >= threshold))
    return np.flatnonzero(scores > 0)
