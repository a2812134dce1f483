"""Retrieval: passages, encoders and search indexes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from toolenv.errors import ConfigError
from toolenv.retrieval.base import Passage, Retriever

RETRIEVERS = ("bm25", "faiss", "hybrid")


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

    Args:
        spec: As for ``make_retriever``.
        corpus: A file, or the name of a corpus that was fetched (see ``read_corpus``).

    Raises:
        ConfigError: Another name.
        DataError: The corpus cannot be read, or was not fetched.
        MissingExtraError: What the retriever needs is not installed.
    """
    from toolenv.retrieval.corpus import corpus_path

    path = corpus_path(corpus).absolute()
    try:
        status = path.stat()
    except OSError:
        status = None  # reading it says what is wrong
    return _retriever_over(spec, path, (status.st_mtime_ns, status.st_size) if status else None)


@lru_cache(maxsize=4)
def _retriever_over(spec: str, path: Path, version: tuple[int, int] | None) -> Retriever:
    from toolenv.retrieval.corpus import read_corpus

    return make_retriever(spec, tuple(read_corpus(path)))


@lru_cache(maxsize=len(RETRIEVERS))
def default_retriever(spec: str = "faiss") -> Retriever:
    """The retriever of this name over the bundled encyclopaedia: one for the whole process."""
    from toolenv.data.world import load_world

    return make_retriever(spec, load_world().passages)
