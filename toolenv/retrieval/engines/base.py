"""What searches in engines have in common: connections, fields, the order of what is found, and loading."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from toolenv.errors import ConfigError, RetrieverError
from toolenv.progress import Progress
from toolenv.retrieval.base import Hit, Passage, check_k, clean_text
from toolenv.retrieval.search_r1 import in_order_of_scores

T = TypeVar("T")

MAX_QUERY_CHARS = 2_000
"""An engine refuses a query of more words than its limit, which is 1,024 in older ones."""
MARGIN = 16  # extra passages, so that ties at place k are broken by id
CHUNK = 512  # passages that are loaded at once


@dataclass(frozen=True, slots=True)
class Fields:
    """Where an engine's records hold what a passage is made of.

    Attributes:
        text: Field of the text.
        title: Field of the title; ``""``: records have none.
        id: Field of the id; ``""``: the record's own id.
        vector: Field, or name, of the vector.
    """

    text: str = "text"
    title: str = "title"
    id: str = ""
    vector: str = "vector"

    def names(self) -> list[str]:
        """The fields that a search has to bring."""
        return [name for name in (self.id, self.title, self.text) if name]

    def passage(self, record: Mapping[str, Any], own_id: object) -> Passage:
        """The passage in a record.

        Raises:
            RetrieverError: A field is missing, or holds no text.
        """
        identity = record.get(self.id) if self.id else own_id
        title, text = record.get(self.title, "") if self.title else "", record.get(self.text)
        if identity is None or not isinstance(title or "", str) or not isinstance(text, str):
            raise RetrieverError(
                f"the record {own_id!r} is no passage by the fields {self.names()}: it has {sorted(record)}; "
                "name the fields of yours"
            )
        return Passage(str(identity), title or "", text)

    def record(self, passage: Passage) -> dict[str, Any]:
        """A passage as a record."""
        values = {self.id: passage.id, self.title: passage.title, self.text: passage.text}
        return {name: value for name, value in values.items() if name}


class EngineRetriever(ABC):
    """Search in an engine; see its subclasses.

    Attributes:
        scores: What a score is; see ``ScoredRetriever``.
    """

    scores: str

    def __init__(self, client: Any, name: str, fields: Fields, max_batch: int) -> None:
        if not name or max_batch < 1:
            raise ConfigError(
                f"the engine's index must have a name, and max_batch be at least 1; got {name!r}, {max_batch!r}"
            )
        self.name, self.fields, self.max_batch = name, fields, max_batch
        self._source = client
        self._clients: dict[int, Any] = {}  # by process

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Find passages; see ``Retriever``."""
        return [[hit.passage for hit in hits] for hits in self.search_scored(queries, k)]

    def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Find passages with their scores; see ``ScoredRetriever``.

        Raises:
            RetrieverError: The engine does not answer, fails, or has searched only a part.
        """
        check_k(k)
        found: list[list[Hit]] = []
        for start in range(0, len(queries), self.max_batch):
            batch = [clean_text(query, MAX_QUERY_CHARS) for query in queries[start : start + self.max_batch]]
            hits = self._search(batch, k + MARGIN)
            if len(hits) != len(batch):
                raise RetrieverError(f"{self!r} found {len(hits)} lists for {len(batch)} queries")
            found += hits
        return [in_order_of_scores(hits)[:k] for hits in found]

    def load(self, passages: Iterable[Passage], *, progress: bool = True) -> int:
        """Put passages into the engine, for which an index is made where there is none.

        Passages whose ids are there already are left as they are: what was stopped goes on where it was.

        Args:
            passages: The corpus, read as a stream.
            progress: Whether to say on stderr how far it is.

        Returns:
            How many passages were new.

        Raises:
            RetrieverError: The engine does not answer, or does not take them.
        """
        self._make()
        line = Progress(f"loading {self.name}", len(passages) if isinstance(passages, Sequence) else 0)
        rest = iter(passages)
        done = added = 0
        while chunk := list(islice(rest, CHUNK)):
            present = self._present([passage.id for passage in chunk])
            new = [passage for passage in chunk if passage.id not in present]
            if new:
                self._add(new)
            done, added = done + len(chunk), added + len(new)
            if progress:
                line.show(done, f"{done:,} passages")
        self._finish()
        if progress:
            line.close(f"{done:,} passages, {added:,} of them new")
        return added

    @abstractmethod
    def _connect(self, url: str) -> Any:
        """A client of the engine at an address."""

    @abstractmethod
    def _search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The ``k`` best of each query, in the engine's order."""

    @abstractmethod
    def _make(self) -> None:
        """Make the engine's index where there is none."""

    @abstractmethod
    def _present(self, ids: Sequence[str]) -> set[str]:
        """Which passages are there."""

    @abstractmethod
    def _add(self, passages: Sequence[Passage]) -> None:
        """Put passages there."""

    @abstractmethod
    def _finish(self) -> None:
        """Let searches find what was put there."""

    @abstractmethod
    def _failures(self) -> tuple[type[Exception], ...]:
        """What the engine's client raises where the engine does not answer as asked."""

    def _ask(self, call: Callable[[], T]) -> T:
        """Ask the engine.

        Raises:
            RetrieverError: It did not answer.
        """
        try:
            return call()
        except self._failures() as error:
            raise RetrieverError(f"{self!r}: {type(error).__name__}: {error}") from error

    @property
    def client(self) -> Any:
        """The engine's client; where an address was given, one for each process."""
        if not isinstance(self._source, str):
            return self._source
        client = self._clients.get(os.getpid())
        return client if client is not None else self._clients.setdefault(os.getpid(), self._connect(self._source))

    def __deepcopy__(self, memo: dict[int, Any]) -> EngineRetriever:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_clients": {}}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.scores})"
