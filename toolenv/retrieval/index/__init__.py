"""Search indexes: folders that hold passages, vectors and what finds them; built once, then memory-mapped."""

from __future__ import annotations

from toolenv.retrieval.index.build import add_to_index, build_index
from toolenv.retrieval.index.faiss import FaissRetriever
from toolenv.retrieval.index.opening import open_index
from toolenv.retrieval.index.places import cache_folder
from toolenv.retrieval.index.store import PassageStore

__all__ = ["FaissRetriever", "PassageStore", "add_to_index", "build_index", "cache_folder", "open_index"]
