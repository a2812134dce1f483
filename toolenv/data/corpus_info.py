"""``toolenv corpus info``: what a corpus file holds."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolenv.errors import DataError
from toolenv.retrieval.base import Passage
from toolenv.retrieval.corpus import corpus_kind, corpus_path, read_corpus


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """What a corpus file holds.

    Attributes:
        path: The file.
        bytes: Its size.
        kind: Its format.
        passages: How many passages it holds.
        repeated_ids: How many of them have an id that an earlier one has; an index takes none such.
        titles: How many titles they have.
        words: How many words their texts have.
        first: The first of them.
    """

    path: Path
    bytes: int
    kind: str
    passages: int
    repeated_ids: int
    titles: int
    words: int
    first: Passage

    def __str__(self) -> str:
        lines = [
            f"file      {self.path} ({self.bytes / 1e6:,.1f} MB)",
            f"kind      {self.kind}",
            f"passages  {self.passages:,}",
            f"titles    {self.titles:,}",
            f"words     {self.words:,} ({self.words / self.passages:.1f} a passage)",
            f"first     {self.first.id}: {self.first.title or '(no title)'}",
            f"          {self.first.text[:200]}{'...' if len(self.first.text) > 200 else ''}",
        ]
        if self.repeated_ids:
            lines.append(
                f"warning   {self.repeated_ids:,} passages have an id that an earlier one has; ids must be unique"
            )
        return "\n".join(lines)


def corpus_info(corpus: str | Path) -> CorpusInfo:
    """Read a corpus through, and count; of each passage it keeps 16 bytes.

    Args:
        corpus: A file, or the name of a corpus that was fetched.

    Raises:
        DataError: The file cannot be read, holds no passage, or something in it is none.
    """
    path = corpus_path(corpus)
    ids, titles, words = array("Q"), array("Q"), 0
    first: Passage | None = None
    title: str | None = None
    for passage in read_corpus(path):
        first = first or passage
        ids.append(_number(passage.id))
        if passage.title != title:  # passages of an article mostly stand together
            title = passage.title
            titles.append(_number(title))
        words += len(passage.text.split())
    if first is None:
        raise DataError(f"{path}: holds no passage")
    kind, size = corpus_kind(path), path.stat().st_size
    return CorpusInfo(path, size, kind, len(ids), len(ids) - _distinct(ids), _distinct(titles), words, first)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _distinct(numbers: array[int]) -> int:
    return len(np.unique(np.frombuffer(numbers, np.uint64)))
