"""What every search has in common: passages, and the protocol of a retriever."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text that a search can find.

    Attributes:
        id: Unique and stable within its corpus.
        title: Title, which may be empty.
        text: The text itself, without the title.

    Example:
        >>> Passage("p1", "Lyon", "Lyon is a city in France.").title
        'Lyon'
    """

    id: str
    title: str
    text: str

    @property
    def contents(self) -> str:
        """Title and text, as they are indexed."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@runtime_checkable
class Retriever(Protocol):
    """What the search environment needs of a search index, or of a server that has one."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Find passages for all queries at once.

        The same query over the same corpus finds the same passages, alone and in any batch.

        Args:
            queries: Any strings.
            k: Most passages for one query, at least 1.

        Returns:
            One list a query: best first, at most ``k``.

        Raises:
            RetrieverError: The index or the server could not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found.

    Attributes:
        passage: The passage.
        score: How well it fits; higher is better.
    """

    passage: Passage
    score: float


@runtime_checkable
class ScoredRetriever(Retriever, Protocol):
    """A retriever that says how well each passage fits.

    Attributes:
        scores: What a score is: ``"inner product"``, ``"bm25"``, ... Two retrievers that say the same measure alike, so
            that their passages can be merged; one that says ``""`` measures each query on a scale of its own.
    """

    scores: str

    def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Find passages as ``search`` does, with their scores; ties in the order of ids."""
        ...


@runtime_checkable
class LocalRetriever(Retriever, Protocol):
    """A retriever whose passages are here, numbered: what ``HybridRetriever`` joins."""

    @property
    def passages(self) -> Sequence[Passage]:
        """The corpus, sorted by id; a row is a position in it."""
        ...

    def propose(self, queries: Sequence[str], k: int) -> list[NDArray[np.int64]]:
        """Rows of about the ``k`` best passages a query, in any order."""
        ...

    def score(self, queries: Sequence[str], rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        """Scores of the given rows, one array a query; a pair's score does not depend on the other pairs."""
        ...


DECIMALS = 6  # scores that differ by less are ties, which the id breaks


def best(passages: Sequence[Passage], rows: NDArray[np.int64], scores: NDArray[np.float64], k: int) -> list[Passage]:
    """The ``k`` passages with the highest scores; ties in the order of rows.

    Example:
        >>> corpus = [Passage("a", "", "x"), Passage("b", "", "y"), Passage("c", "", "z")]
        >>> [p.id for p in best(corpus, np.array([2, 1, 0]), np.array([0.5, 0.9, 0.5]), 2)]
        ['b', 'a']
    """
    return [hit.passage for hit in ranked(passages, rows, scores, k)]


def ranked(passages: Sequence[Passage], rows: NDArray[np.int64], scores: NDArray[np.float64], k: int) -> list[Hit]:
    """As ``best``, with the scores.

    Example:
        >>> corpus = [Passage("a", "", "x"), Passage("b", "", "y")]
        >>> [(hit.passage.id, hit.score) for hit in ranked(corpus, np.array([0, 1]), np.array([0.5, 0.9]), 2)]
        [('b', 0.9), ('a', 0.5)]
    """
    order = np.lexsort((rows, -np.round(scores, DECIMALS)))[:k]
    return [Hit(passages[row], score) for row, score in zip(rows[order].tolist(), scores[order].tolist(), strict=True)]


def clean_text(text: str, limit: int) -> str:
    r"""Text that every tokeniser takes: no lone surrogates, no NUL, at most ``limit`` characters.

    Example:
        >>> clean_text("a\x00b\ud800c", 10)
        'a b?c'
    """
    return text[:limit].replace("\x00", " ").encode("utf-8", "replace").decode("utf-8")


def in_order(passages: Iterable[Passage]) -> tuple[Passage, ...]:
    """The passages sorted by id, so that the row of a passage breaks ties as its id does.

    Raises:
        DataError: No passage, or two passages with one id.

    Example:
        >>> [p.id for p in in_order([Passage("b", "", "x"), Passage("a", "", "y")])]
        ['a', 'b']
    """
    ordered = tuple(sorted(passages, key=lambda passage: passage.id))
    if not ordered:
        raise DataError("the corpus is empty; it needs at least one passage")
    for first, second in pairwise(ordered):
        if first.id == second.id:
            raise DataError(f"the corpus holds the passage id {first.id!r} twice; ids must be unique")
    return ordered


def check_k(k: int) -> None:
    """Refuse what is no number of passages of at least 1.

    Raises:
        ConfigError: ``k`` is below 1, or no whole number.
    """
    if not isinstance(k, Integral) or isinstance(k, bool) or int(k) < 1:
        raise ConfigError(f"k must be at least 1, the whole number of passages for a query; got {k!r}")
