"""Search indexes: folders that hold passages, vectors and what finds them; built once, then memory-mapped."""

from __future__ import annotations

from toolenv.retrieval.index.build import add_to_index, build_index
from toolenv.retrieval.index.faiss import FaissRetriever
from toolenv.retrieval.index.info import index_info
from toolenv.retrieval.index.opening import open_index
from toolenv.retrieval.index.places import cache_folder
from toolenv.retrieval.index.store import PassageStore
from toolenv.retrieval.index.verify import verify_index

__all__ = [
    "FaissRetriever",
    "PassageStore",
    "add_to_index",
    "build_index",
    "cache_folder",
    "index_info",
    "open_index",
    "verify_index",
]
