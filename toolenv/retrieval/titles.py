"""Passages by the title of their article."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from toolenv.retrieval.base import Passage

_DIGITS = re.compile(r"(\d+)")


@runtime_checkable
class TitledPassages(Protocol):
    """Passages that are looked up by title or id without reading them all."""

    def __getitem__(self, row: int, /) -> Passage:
        """The passage of a row."""
        ...

    def row_of(self, id: str) -> int:
        """Row of the passage with this id; ``KeyError`` where there is none."""
        ...

    def rows_of_title(self, title: str) -> Sequence[int]:
        """Rows of the passages with this title, else of those whose titles differ from it by upper and lower case."""
        ...


class TitleTable:
    """Passages in memory, by title.

    Example:
        >>> table = TitleTable([Passage("a", "Lyon", "A city."), Passage("b", "LYON", "A ship.")])
        >>> table.rows_of_title("LYON"), table.rows_of_title("lyon"), table.rows_of_title("Paris")
        ([1], [0, 1], [])
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._rows = {passage.id: row for row, passage in enumerate(passages)}
        self._exact: dict[str, list[int]] = {}
        self._folded: dict[str, list[int]] = {}
        for row, passage in enumerate(passages):
            if passage.title:
                self._exact.setdefault(passage.title, []).append(row)
                self._folded.setdefault(passage.title.casefold(), []).append(row)

    def __getitem__(self, row: int, /) -> Passage:
        """The passage of a row."""
        return self._passages[row]

    def row_of(self, id: str) -> int:
        """Row of this id; see ``TitledPassages``."""
        return self._rows[id]

    def rows_of_title(self, title: str) -> Sequence[int]:
        """Rows with this title; see ``TitledPassages``."""
        return self._exact.get(title) or self._folded.get(title.casefold(), [])


def titled_passages(retriever: object) -> TitledPassages | None:
    """The passages of a retriever, by title; ``None`` for one whose passages are elsewhere, such as a server's."""
    passages = getattr(retriever, "passages", None)
    if isinstance(passages, TitledPassages):
        return passages
    return TitleTable(passages) if isinstance(passages, Sequence) else None


def article(passages: TitledPassages, title: str) -> list[Passage]:
    """The passages with a title, as the article reads on; none where there is no such article.

    Numbers in ids count as numbers: ``"12-2"`` comes before ``"12-10"``.

    Example:
        >>> lyon = [Passage(id, "Lyon", "x") for id in ("7-1", "7-10", "7-2")]
        >>> [passage.id for passage in article(TitleTable(lyon), "Lyon")]
        ['7-1', '7-2', '7-10']
    """
    found = [passages[int(row)] for row in passages.rows_of_title(title)]
    return sorted(found, key=lambda passage: (_order(passage.id), passage.id))


def _order(id: str) -> list[tuple[int, str]]:
    """Text and numbers of an id by turns, which compare with those of any other id."""
    parts = _DIGITS.split(id)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
