"""Search in OpenSearch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolenv.extras import require
from toolenv.retrieval.encoders import Encoder, make_encoder
from toolenv.retrieval.engines.base import Fields
from toolenv.retrieval.engines.lucene import LuceneRetriever


class OpenSearchRetriever(LuceneRetriever):
    """Search an index of an OpenSearch that you run: its BM25 or, with an encoder, its nearest vectors.

    What ``ElasticsearchRetriever`` promises holds here, too. The scores are OpenSearch's own.

    Args:
        client: Address, or an ``opensearchpy.OpenSearch`` of your own, for passwords and the like.
        index: Name of the index.
        encoder: What makes a query's vector, as for ``make_encoder``; ``None``: BM25.
        fields: Where records hold title, text, id and vector.
        timeout_s: Longest wait for an answer, for an address.
        max_batch: Most queries of a request.

    Raises:
        ConfigError: Numbers out of range.
        MissingExtraError: The extra ``opensearch`` is not installed.

    Example:
        >>> retriever = OpenSearchRetriever("http://localhost:9200", "wikipedia", fields=Fields(title="heading"))
        >>> retriever
        OpenSearchRetriever('wikipedia', opensearch bm25)
    """

    def __init__(
        self,
        client: Any,
        index: str,
        *,
        encoder: str | Path | Encoder | None = None,
        fields: Fields | None = None,
        timeout_s: float = 60.0,
        max_batch: int = 64,
    ) -> None:
        require("opensearchpy", "opensearch")
        self.timeout_s = timeout_s
        made = None if encoder is None else make_encoder(encoder)
        super().__init__(client, index, made, fields or Fields(), max_batch, "opensearch")

    def _connect(self, url: str) -> Any:
        opensearchpy = require("opensearchpy", "opensearch")
        return opensearchpy.OpenSearch(url, timeout=self.timeout_s, max_retries=3, retry_on_timeout=True)

    def _vector_query(self, vector: list[float], k: int) -> dict[str, Any]:
        return {"query": {"knn": {self.fields.vector: {"vector": vector, "k": k}}}}

    def _vector_field(self, dimension: int) -> tuple[dict[str, Any], dict[str, Any]]:
        method = {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"}
        return {"type": "knn_vector", "dimension": dimension, "method": method}, {"knn": True}

    def _msearch(self, lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return self._ask(lambda: self.client.msearch(body=lines))

    def _create(self, body: Mapping[str, Any]) -> None:
        self._ask(lambda: self.client.indices.create(index=self.name, body=body))

    def _mget(self, ids: Sequence[str]) -> Mapping[str, Any]:
        return self._ask(lambda: self.client.mget(index=self.name, body={"ids": ids}, params={"_source": "false"}))

    def _bulk(self, lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return self._ask(lambda: self.client.bulk(index=self.name, body=lines))

    def _failures(self) -> tuple[type[Exception], ...]:
        return (require("opensearchpy", "opensearch").OpenSearchException,)
