"""Search indexes: folders that hold passages, vectors and what finds them; built once, then memory-mapped."""

from __future__ import annotations

from toolenv.retrieval.index.faiss import FaissRetriever, cache_folder
from toolenv.retrieval.index.store import PassageStore

__all__ = ["FaissRetriever", "PassageStore", "cache_folder"]
