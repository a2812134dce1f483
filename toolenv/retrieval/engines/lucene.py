"""What Elasticsearch and OpenSearch have in common: both are Lucene behind nearly one interface."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from toolenv.errors import RetrieverError
from toolenv.retrieval.base import Hit, Passage
from toolenv.retrieval.encoders import Encoder
from toolenv.retrieval.engines.base import EngineRetriever, Fields

BM25 = {"type": "BM25", "k1": 0.9, "b": 0.4}
"""As ``BM25Retriever`` has it."""
CREATED, EXISTS = 201, 409


class LuceneRetriever(EngineRetriever):
    """BM25 over title and text as if they were one field; or, with an encoder, the nearest vectors."""

    def __init__(
        self, client: Any, index: str, encoder: Encoder | None, fields: Fields, max_batch: int, engine: str
    ) -> None:
        super().__init__(client, index, fields, max_batch)
        self.encoder = encoder
        self.scores = f"{engine} {'bm25' if encoder is None else 'knn'}"

    def _search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        if self.encoder is None:
            bodies = [{"query": self._words_query(query)} for query in queries]
        else:
            bodies = [self._vector_query(vector.tolist(), k) for vector in self.encoder.encode(queries, "query")]
        lines: list[Mapping[str, Any]] = []
        for body in bodies:
            lines += [{"index": self.name}, {**body, "size": k, "_source": self.fields.names()}]
        answer = self._msearch(lines)
        responses = answer.get("responses")
        if not isinstance(responses, list):
            raise RetrieverError(f"{self!r}: the engine's answer has no list of responses: {str(answer)[:200]}")
        return [self._hits(response) for response in responses]

    def _words_query(self, query: str) -> dict[str, Any]:
        fields = [name for name in (self.fields.title, self.fields.text) if name]
        return {"multi_match": {"query": query, "fields": fields, "type": "cross_fields"}}

    def _hits(self, response: Mapping[str, Any]) -> list[Hit]:
        """What one search found.

        Raises:
            RetrieverError: It failed, or some of the engine's shards did: then passages may be missing.
        """
        shards = response.get("_shards") or {}
        if "error" in response:
            raise RetrieverError(f"{self!r}: the search failed: {str(response['error'])[:500]}")
        if response.get("timed_out") or shards.get("failed"):
            raise RetrieverError(
                f"{self!r}: only a part was searched: {shards.get('failed', 0)} of {shards.get('total', '?')} shards "
                f"failed, timed out: {bool(response.get('timed_out'))}; {str(shards.get('failures', ''))[:300]}"
            )
        try:
            return [
                Hit(self.fields.passage(hit["_source"], hit["_id"]), float(hit["_score"]))
                for hit in response["hits"]["hits"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise RetrieverError(f"{self!r}: the engine's answer is not as it should be: {error!r}") from error

    def _make(self) -> None:
        properties: dict[str, Any] = {name: {"type": "text"} for name in (self.fields.title, self.fields.text) if name}
        if self.fields.id:
            properties[self.fields.id] = {"type": "keyword"}
        settings: dict[str, Any] = {"index": {"similarity": {"default": BM25}}}
        if self.encoder is not None:
            vector, more = self._vector_field(self.encoder.dimension)
            properties[self.fields.vector] = vector
            settings["index"] |= more
        if not self._ask(lambda: self.client.indices.exists(index=self.name)):
            self._create({"settings": settings, "mappings": {"properties": properties}})

    def _finish(self) -> None:
        self._ask(lambda: self.client.indices.refresh(index=self.name))

    def _present(self, ids: Sequence[str]) -> set[str]:
        return {str(doc["_id"]) for doc in self._mget(ids)["docs"] if doc.get("found")}

    def _add(self, passages: Sequence[Passage]) -> None:
        records = [self.fields.record(passage) for passage in passages]
        if self.encoder is not None:
            vectors = self.encoder.encode([passage.contents for passage in passages], "passage")
            for record, vector in zip(records, vectors, strict=True):
                record[self.fields.vector] = vector.tolist()
        lines: list[Mapping[str, Any]] = []
        for passage, record in zip(passages, records, strict=True):
            lines += [{"create": {"_id": passage.id}}, record]
        for item in self._bulk(lines)["items"]:
            created = item["create"]
            if created["status"] not in (CREATED, EXISTS):
                reason = str(created.get("error"))[:500]
                raise RetrieverError(f"{self!r}: the engine did not take the passage {created.get('_id')!r}: {reason}")

    @abstractmethod
    def _vector_query(self, vector: list[float], k: int) -> dict[str, Any]:
        """The body of a search for the nearest vectors."""

    @abstractmethod
    def _vector_field(self, dimension: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """How a field of vectors is declared, and the settings that the index needs for it."""

    @abstractmethod
    def _msearch(self, lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]: ...

    @abstractmethod
    def _create(self, body: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def _mget(self, ids: Sequence[str]) -> Mapping[str, Any]: ...

    @abstractmethod
    def _bulk(self, lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]: ...
