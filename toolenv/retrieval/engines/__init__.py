"""Search in an engine that you run: Elasticsearch, OpenSearch or Qdrant, through their official clients."""

from __future__ import annotations

from toolenv.retrieval.engines.elastic import ElasticsearchRetriever
from toolenv.retrieval.engines.opensearch import OpenSearchRetriever
from toolenv.retrieval.engines.qdrant import QdrantRetriever

__all__ = ["ElasticsearchRetriever", "OpenSearchRetriever", "QdrantRetriever"]
