"""Search in Elasticsearch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolenv.extras import require
from toolenv.http import key_in
from toolenv.retrieval.encoders import Encoder, make_encoder
from toolenv.retrieval.engines.base import Fields
from toolenv.retrieval.engines.lucene import LuceneRetriever


class ElasticsearchRetriever(LuceneRetriever):
    """Search an index of an Elasticsearch that you run: its BM25 or, with an encoder, its nearest vectors.

    Words are looked for in title and text as if they were one field. Passages that tie are in the order of their ids,
    as far as 16 places behind the ``k``-th. A search that a part of the engine's shards did not answer is a
    ``RetrieverError``. The scores are Elasticsearch's own.

    Args:
        client: Address, or an ``elasticsearch.Elasticsearch`` of your own.
        index: Name of the index.
        encoder: What makes a query's vector, as for ``make_encoder``; ``None``: BM25.
        fields: Where records hold title, text, id and vector.
        api_key_env: Name of the environment variable that holds the API key, for an address.
        timeout_s: Longest wait for an answer, for an address.
        max_batch: Most queries of a request.

    Raises:
        ConfigError: An environment variable that is not set, or numbers out of range.
        MissingExtraError: The extra ``elastic`` is not installed.

    Example:
        >>> retriever = ElasticsearchRetriever("http://localhost:9200", "wikipedia")
        >>> retriever
        ElasticsearchRetriever('wikipedia', elasticsearch bm25)
    """

    def __init__(
        self,
        client: Any,
        index: str,
        *,
        encoder: str | Path | Encoder | None = None,
        fields: Fields | None = None,
        api_key_env: str | None = None,
        timeout_s: float = 60.0,
        max_batch: int = 64,
    ) -> None:
        require("elasticsearch", "elastic")
        self._key, self.timeout_s = key_in(api_key_env), timeout_s
        made = None if encoder is None else make_encoder(encoder)
        super().__init__(client, index, made, fields or Fields(), max_batch, "elasticsearch")

    def _connect(self, url: str) -> Any:
        elasticsearch = require("elasticsearch", "elastic")
        return elasticsearch.Elasticsearch(
            url, api_key=self._key, request_timeout=self.timeout_s, max_retries=3, retry_on_timeout=True
        )

    def _vector_query(self, vector: list[float], k: int) -> dict[str, Any]:
        candidates = min(10_000, max(100, 2 * k))
        return {"knn": {"field": self.fields.vector, "query_vector": vector, "k": k, "num_candidates": candidates}}

    def _vector_field(self, dimension: int) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"type": "dense_vector", "dims": dimension, "index": True, "similarity": "cosine"}, {}

    def _msearch(self, lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return self._ask(lambda: self.client.msearch(searches=lines))

    def _create(self, body: Mapping[str, Any]) -> None:
        settings, mappings = body["settings"], body["mappings"]
        self._ask(lambda: self.client.indices.create(index=self.name, settings=settings, mappings=mappings))

    def _mget(self, ids: Sequence[str]) -> Mapping[str, Any]:
        return self._ask(lambda: self.client.mget(index=self.name, ids=ids, source=False))

    def _bulk(self, lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return self._ask(lambda: self.client.bulk(index=self.name, operations=lines))

    def _failures(self) -> tuple[type[Exception], ...]:
        elasticsearch = require("elasticsearch", "elastic")
        return elasticsearch.ApiError, elasticsearch.TransportError
