"""Retrieval: passages, encoders and search indexes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolenv.errors import ConfigError
from toolenv.retrieval.base import Passage, Retriever

if TYPE_CHECKING:
    from toolenv.data.world.wording import Wording
    from toolenv.retrieval.index import add_to_index, build_index, open_index

__all__ = [
    "RETRIEVERS",
    "Passage",
    "Retriever",
    "add_to_index",
    "build_index",
    "corpus_retriever",
    "default_retriever",
    "make_retriever",
    "open_index",
]

RETRIEVERS = ("bm25", "faiss", "hybrid")
"""Names that ``make_retriever`` knows."""


def make_retriever(spec: str | Retriever, passages: Sequence[Passage]) -> Retriever:
    """The retriever of this name over the passages; or the retriever itself.

    Args:
        spec: ``"faiss"`` (vectors), ``"bm25"`` (words), ``"hybrid"`` (both), or a ``Retriever``.
        passages: The corpus; not used where ``spec`` is a retriever.

    Raises:
        ConfigError: Another name.
        MissingExtraError: What the retriever needs is not installed.

    Example:
        >>> corpus = [Passage("a", "Lyon", "A city."), Passage("b", "Rhone", "A river.")]
        >>> make_retriever("bm25", corpus).search(["river"], k=1)[0][0].id
        'b'
    """
    if not isinstance(spec, str):
        return spec
    match spec:
        case "faiss":
            from toolenv.retrieval.index import FaissRetriever

            return FaissRetriever(passages)
        case "bm25":
            from toolenv.retrieval.bm25 import BM25Retriever

            return BM25Retriever(passages)
        case "hybrid":
            from toolenv.retrieval.bm25 import BM25Retriever
            from toolenv.retrieval.hybrid import HybridRetriever
            from toolenv.retrieval.index import FaissRetriever

            return HybridRetriever(FaissRetriever(passages), BM25Retriever(passages))
    raise ConfigError(f"unknown retriever {spec!r}; choose one of {', '.join(RETRIEVERS)}, or pass a Retriever")


def corpus_retriever(spec: str, corpus: str | Path) -> Retriever:
    """The retriever of this name over a corpus: one for the whole process, until the file changes.

    Its index is opened where it was built before, by ``toolenv index build`` or by an earlier call, and built where it
    was not, which is said on stderr. A small file that has none is searched as ``make_retriever`` does.

    Args:
        spec: ``"faiss"``, ``"bm25"`` or ``"hybrid"``; for the first two a hybrid index serves as well.
        corpus: A file, or the name of a corpus that was fetched (see ``read_corpus``).

    Raises:
        ConfigError: Another name.
        DataError: The corpus cannot be read, or was not fetched.
        MissingExtraError: What the retriever needs is not installed.
        RetrieverError: The index cannot be built.
    """
    from toolenv.retrieval.corpus import CORPORA

    if isinstance(corpus, str) and corpus in CORPORA:
        return _retriever_over(spec, corpus, None)
    path = Path(corpus).absolute()
    try:
        status = path.stat()
    except OSError:
        status = None  # reading it says what is wrong
    return _retriever_over(spec, path, (status.st_mtime_ns, status.st_size) if status else None)


@lru_cache(maxsize=4)
def _retriever_over(spec: str, corpus: str | Path, version: tuple[int, int] | None) -> Retriever:
    from toolenv.retrieval.corpus import corpus_path, read_corpus
    from toolenv.retrieval.index import build_index, open_index
    from toolenv.retrieval.index.build import built_index, is_small

    for built in dict.fromkeys((spec, "hybrid")):  # a hybrid index has what the others need
        if spec in RETRIEVERS and (folder := built_index(corpus, built)):
            return open_index(folder, retriever=spec)
    if isinstance(corpus, Path) and is_small(corpus):
        return make_retriever(spec, tuple(read_corpus(corpus)))
    if isinstance(corpus, str):
        corpus_path(corpus)  # to make an environment is no request to fetch
    return open_index(build_index(corpus, retriever=spec))


def default_retriever(spec: str = "faiss", wording: Wording = "all") -> Retriever:
    """The retriever of this name over the bundled encyclopaedia: one a wording for the whole process."""
    return _bundled_retriever(spec, wording)


@lru_cache(maxsize=3 * len(RETRIEVERS))
def _bundled_retriever(spec: str, wording: Wording) -> Retriever:
    from toolenv.data.world import load_world

    return make_retriever(spec, load_world(wording).passages)


def __getattr__(name: str) -> Any:
    """What builds and opens indexes is imported when it is asked for, with all that it needs."""
    if name in ("add_to_index", "build_index", "open_index"):
        from toolenv.retrieval import index

        return getattr(index, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
