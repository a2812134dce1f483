"""A cache of queries: in memory, and on disk on request."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolenv.errors import ConfigError, RetrieverError
from toolenv.retrieval.base import Hit, Passage, Retriever, ScoredRetriever, check_k
from toolenv.retrieval.query_file import QueryFile


class CachedRetriever:
    """Answers a query that it has seen without asking the retriever again.

    The retriever is asked once for all queries of a call that are new, each once. What fails is not kept. All else that
    the retriever has, such as ``passages`` and ``scores``, is handed on as it is. Threads may share it.

    Args:
        retriever: Finds passages.
        size: How many queries are kept in memory: those that were used last.
        path: A file that keeps up to a million queries for later runs, and that processes on this machine may share;
            ``None``: none. It must not lie on a network file system.
        identity: Names what the retriever finds, in the file: another index must have another one. ``None``: the
            retriever's own ``identity``, which those have that ``open_index`` gives.

    Attributes:
        num_asked: How many queries the retriever was asked.

    Raises:
        ConfigError: A size below 1, a file for a retriever without an identity, or shards of which dead ones are
            skipped: what was found without them would be kept when they are back.

    Example:
        >>> from toolenv.retrieval import make_retriever
        >>> corpus = [Passage("a", "Lyon", "A city."), Passage("b", "Rhone", "A river.")]
        >>> cached = CachedRetriever(make_retriever("bm25", corpus))
        >>> [cached.search(["river", "city", "river"], k=1)[0][0].id for _ in range(10)][-1], cached.num_asked
        ('b', 2)
    """

    def __init__(
        self, retriever: Retriever, size: int = 10_000, path: str | Path | None = None, *, identity: str | None = None
    ) -> None:
        if size < 1:
            raise ConfigError(f"size must be at least 1, the queries that are kept; got {size!r}")
        if getattr(retriever, "on_dead", "raise") == "skip":
            raise ConfigError(
                f"{retriever!r} skips shards that are dead, and a cache would keep what was found without them; "
                "cache the shards, or give on_dead='raise'"
            )
        self.retriever = retriever
        self.num_asked = 0
        self._size, self._path, self._given_identity = size, path, identity
        self._kept: OrderedDict[tuple[str, int], tuple[Hit, ...]] = OrderedDict()
        self._lock = threading.Lock()
        self._file: QueryFile | None = None
        if path is not None:
            self._file_identity = identity or getattr(retriever, "identity", "")
            if not self._file_identity:
                raise ConfigError(
                    f"{retriever!r} has no identity by which {path} could tell its answers from another index's; "
                    "give identity=, a string that you change with the index"
                )
            self._file = QueryFile(path)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Find passages; see ``Retriever``."""
        return [[hit.passage for hit in hits] for hits in self._find(queries, k)]

    def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Find passages with their scores.

        Raises:
            ConfigError: The retriever gives no scores.
        """
        if not isinstance(self.retriever, ScoredRetriever):
            raise ConfigError(f"{self.retriever!r} gives no scores")
        return [list(hits) for hits in self._find(queries, k)]

    def _find(self, queries: Sequence[str], k: int) -> list[tuple[Hit, ...]]:
        check_k(k)
        found = self._known(queries, k)
        new = [query for query in dict.fromkeys(queries) if query not in found]
        if new:
            asked = dict(zip(new, self._ask(new, k), strict=True))
            found |= asked
            self._keep(asked, k)
        return [found[query] for query in queries]

    def _known(self, queries: Sequence[str], k: int) -> dict[str, tuple[Hit, ...]]:
        """What is kept of these queries, in memory or in the file."""
        found = {}
        with self._lock:
            for query in dict.fromkeys(queries):
                if (query, k) in self._kept:
                    self._kept.move_to_end((query, k))
                    found[query] = self._kept[query, k]
        missing = [query for query in dict.fromkeys(queries) if query not in found]
        if self._file is not None and missing:
            keys = [self._key(query, k) for query in missing]
            stored = self._file.get(keys)
            read = {query: _hits(stored[key]) for query, key in zip(missing, keys, strict=True) if key in stored}
            sound = {query: hits for query, hits in read.items() if hits is not None}
            self._remember(sound, k)
            found |= sound
        return found

    def _ask(self, queries: Sequence[str], k: int) -> list[tuple[Hit, ...]]:
        with self._lock:
            self.num_asked += len(queries)
        if isinstance(self.retriever, ScoredRetriever):
            answers = [tuple(hits) for hits in self.retriever.search_scored(queries, k)]
        else:
            # The score is not shown to anyone: search_scored refuses.
            answers = [tuple(Hit(passage, 0.0) for passage in found) for found in self.retriever.search(queries, k)]
        if len(answers) != len(queries):
            raise RetrieverError(f"{self.retriever!r} gave {len(answers)} answers to {len(queries)} queries")
        return answers

    def _keep(self, asked: dict[str, tuple[Hit, ...]], k: int) -> None:
        self._remember(asked, k)
        if self._file is not None:
            self._file.put({self._key(query, k): _text(hits) for query, hits in asked.items()})

    def _remember(self, answers: dict[str, tuple[Hit, ...]], k: int) -> None:
        with self._lock:
            for query, hits in answers.items():
                self._kept[query, k] = hits
                self._kept.move_to_end((query, k))
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)

    def _key(self, query: str, k: int) -> bytes:
        return hashlib.sha256(json.dumps([self._file_identity, query, int(k)]).encode()).digest()

    def __getattr__(self, name: str) -> Any:
        """What only the retriever has."""
        if name.startswith("_") or name == "retriever":
            raise AttributeError(name)
        return getattr(self.retriever, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> CachedRetriever:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (self.retriever, self._size, self._path, self._given_identity)

    def __repr__(self) -> str:
        return f"CachedRetriever({self.retriever!r})"


def _made_again(retriever: Retriever, size: int, path: str | Path | None, identity: str | None) -> CachedRetriever:
    """In another process: with the file, if any, and an empty memory."""
    return CachedRetriever(retriever, size, path, identity=identity)


def _text(hits: Sequence[Hit]) -> str:
    return json.dumps([[hit.passage.id, hit.passage.title, hit.passage.text, hit.score] for hit in hits])


def _hits(text: str) -> tuple[Hit, ...] | None:
    """What ``_text`` wrote; ``None`` where the disk changed it."""
    try:
        return tuple(Hit(Passage(id, title, body), score) for id, title, body, score in json.loads(text))
    except (ValueError, TypeError):
        return None
