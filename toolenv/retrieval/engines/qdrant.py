"""Search in Qdrant."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolenv.errors import ConfigError
from toolenv.extras import require
from toolenv.http import key_in
from toolenv.retrieval.base import Hit, Passage
from toolenv.retrieval.encoders import Encoder, make_encoder
from toolenv.retrieval.engines.base import EngineRetriever, Fields

IDS = uuid.UUID("6d4c1f0e-52f3-4b0f-9f7e-0a4f6f1f8f5a")
"""Under this name passages' ids are made into those that Qdrant takes."""


class QdrantRetriever(EngineRetriever):
    """Search a collection of a Qdrant that you run: inner products of unit vectors.

    Passages that tie are in the order of their ids, as far as 16 places behind the ``k``-th.

    Args:
        client: Address, or a ``qdrant_client.QdrantClient`` of your own.
        collection: Name of the collection; its distance must be ``Dot`` or ``Cosine``.
        encoder: What makes a query's vector, as for ``make_encoder``.
        fields: Where payloads hold title, text and id; ``vector`` is the vector's name, ``""`` for the only one.
        exact: Whether every vector is looked at, which is slower.
        api_key_env: Name of the environment variable that holds the API key, for an address.
        timeout_s: Longest wait for an answer, for an address.
        max_batch: Most queries of a request.

    Raises:
        ConfigError: An environment variable that is not set, or numbers out of range; when it searches, a collection of
            another dimension or distance.
        MissingExtraError: The extra ``qdrant`` is not installed.

    Example:
        >>> from qdrant_client import QdrantClient
        >>> retriever = QdrantRetriever(QdrantClient(":memory:"), "tiny")
        >>> passages = [Passage("a", "Lyon", "A city on the Rhone."), Passage("b", "Neon", "A noble gas.")]
        >>> retriever.load(passages, progress=False)
        2
        >>> retriever.search(["what glows in lamps?"], k=1)[0][0].title
        'Neon'
    """

    scores = "inner product"

    def __init__(
        self,
        client: Any,
        collection: str,
        encoder: str | Path | Encoder = "minilm",
        *,
        fields: Fields | None = None,
        exact: bool = False,
        api_key_env: str | None = None,
        timeout_s: float = 60.0,
        max_batch: int = 64,
    ) -> None:
        require("qdrant_client", "qdrant")
        self._key, self.timeout_s = key_in(api_key_env), timeout_s
        super().__init__(client, collection, fields or Fields(id="id", vector=""), max_batch)
        self.encoder = make_encoder(encoder)
        self.exact = exact
        self._is_checked = False

    def _connect(self, url: str) -> Any:
        client = require("qdrant_client", "qdrant").QdrantClient
        timeout_s = max(1, round(self.timeout_s))
        return client(url=url, api_key=self._key, timeout=timeout_s, check_compatibility=False)

    def _search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self._check()
        models = require("qdrant_client.models", "qdrant")
        asked = [
            models.QueryRequest(
                query=vector.tolist(),
                using=self.fields.vector or None,
                limit=k,
                with_payload=self.fields.names(),
                params=models.SearchParams(exact=self.exact),
            )
            for vector in self.encoder.encode(queries, "query")
        ]
        answers = self._ask(lambda: self.client.query_batch_points(self.name, asked))
        return [
            [Hit(self.fields.passage(point.payload or {}, point.id), float(point.score)) for point in answer.points]
            for answer in answers
        ]

    def _check(self) -> None:
        """Refuse a collection that this encoder's vectors do not belong into."""
        if self._is_checked:
            return
        vectors = self._ask(lambda: self.client.get_collection(self.name)).config.params.vectors
        if isinstance(vectors, dict):
            if self.fields.vector not in vectors:
                raise ConfigError(
                    f"the collection {self.name!r} has the vectors {sorted(vectors)}, not {self.fields.vector!r}; "
                    "say which: fields=Fields(vector=...)"
                )
            vectors = vectors[self.fields.vector]
        distance = getattr(vectors.distance, "value", vectors.distance)
        if vectors.size != self.encoder.dimension or distance not in ("Dot", "Cosine"):
            raise ConfigError(
                f"the collection {self.name!r} has vectors of {vectors.size} dimensions with the distance {distance}; "
                f"{self.encoder.name!r} makes {self.encoder.dimension}, for Dot or Cosine"
            )
        self._is_checked = True

    def _make(self) -> None:
        models = require("qdrant_client.models", "qdrant")
        if self._ask(lambda: self.client.collection_exists(self.name)):
            self._check()
            return
        params = models.VectorParams(size=self.encoder.dimension, distance=models.Distance.DOT)
        named = {self.fields.vector: params} if self.fields.vector else params
        self._ask(lambda: self.client.create_collection(self.name, vectors_config=named))

    def _present(self, ids: Sequence[str]) -> set[str]:
        points = {_point_id(id): id for id in ids}
        found = self._ask(lambda: self.client.retrieve(self.name, list(points), with_payload=False))
        return {points[str(point.id)] for point in found}

    def _add(self, passages: Sequence[Passage]) -> None:
        models = require("qdrant_client.models", "qdrant")
        vectors = self.encoder.encode([passage.contents for passage in passages], "passage").tolist()
        points = [
            models.PointStruct(
                id=_point_id(passage.id),
                vector={self.fields.vector: vector} if self.fields.vector else vector,
                payload=self.fields.record(passage),
            )
            for passage, vector in zip(passages, vectors, strict=True)
        ]
        self._ask(lambda: self.client.upsert(self.name, points))

    def _finish(self) -> None:
        """Nothing: Qdrant finds what it was given."""

    def _failures(self) -> tuple[type[Exception], ...]:
        # Without a server, an unknown collection is a ValueError.
        return require("qdrant_client.http.exceptions", "qdrant").ApiException, ValueError


def _point_id(id: str) -> str:
    """Qdrant's id of a passage: it takes numbers and UUIDs alone."""
    return str(uuid.uuid5(IDS, id))
