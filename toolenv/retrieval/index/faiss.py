"""Dense retrieval: vectors of passages, and what finds the nearest of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import RetrieverError
from toolenv.extras import require
from toolenv.retrieval.base import Hit, Passage, check_k, ranked
from toolenv.retrieval.encoders import Encoder, make_encoder
from toolenv.retrieval.forks import one_thread_after_fork
from toolenv.retrieval.index.dense import DenseIndex
from toolenv.retrieval.index.places import cache_folder
from toolenv.retrieval.index.store import PassageStore
from toolenv.retrieval.index.store_files import passages_sha256


class FaissRetriever:
    """Inner product of unit vectors.

    The index is built on first use into ``cache``, in a folder named after the corpus and the encoder, and
    memory-mapped from then on: processes on one machine share its pages. ``open_index`` gives one over an index that
    was built by ``toolenv index build``.

    Args:
        passages: The corpus.
        encoder: The encoder, or what ``make_encoder`` takes; ``None``: all-MiniLM-L6-v2.
        cache: Folder of the built indexes; ``None``: ``cache_folder() / "indexes"``.
        kind: A kind of FAISS index; ``"auto"`` compares with every passage while there are few.

    Attributes:
        passages: The corpus, sorted by id.
        folder: Where its index is.
        identity: Two retrievers with the same one answer alike.
        num_searches: How many FAISS searches were made.

    Raises:
        MissingExtraError: FAISS or the encoder's packages are not installed.
        DataError: No passage, or two with one id.
        RetrieverError: The index cannot be written or read.
    """

    scores = "inner product"

    passages: Sequence[Passage]
    encoder: Encoder
    folder: Path
    identity: str

    def __init__(
        self,
        passages: Iterable[Passage],
        encoder: Encoder | str | None = None,
        cache: str | Path | None = None,
        kind: str = "auto",
    ) -> None:
        from toolenv.retrieval.index.build import build_in_cache
        from toolenv.retrieval.index.opening import open_parts

        require("faiss", "search")
        encoder = make_encoder("minilm" if encoder is None else encoder)
        passages = passages if isinstance(passages, Sequence) else tuple(passages)
        sha256 = passages.sha256 if isinstance(passages, PassageStore) else passages_sha256(passages)
        facts = json.dumps([sha256, len(passages), encoder.name, encoder.dimension, kind])
        key = hashlib.sha256(facts.encode()).hexdigest()[:16]
        here = Path(cache) if cache is not None else cache_folder() / "indexes"
        try:
            folder = build_in_cache(passages, here / f"passages-{key}", encoder, kind)
            parts = open_parts(folder)
        except OSError as error:
            raise RetrieverError(f"cannot use the search index in {here}: {error}") from error
        assert parts.dense is not None  # what was asked for
        self._set(parts.store, encoder, parts.dense, folder, parts.manifest.identity)

    @classmethod
    def over(
        cls, store: PassageStore, encoder: Encoder, dense: DenseIndex, folder: Path, identity: str
    ) -> FaissRetriever:
        """A retriever over the parts of an index that is open."""
        retriever = cls.__new__(cls)
        retriever._set(store, encoder, dense, folder, identity)
        return retriever

    def _set(self, store: PassageStore, encoder: Encoder, dense: DenseIndex, folder: Path, identity: str) -> None:
        one_thread_after_fork(require("faiss", "search").omp_set_num_threads)
        self.passages, self.encoder, self.dense = store, encoder, dense
        self.folder, self.identity, self._built_identity = folder, identity, identity

    @property
    def num_searches(self) -> int:
        """How many FAISS searches were made."""
        return self.dense.num_searches

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Find passages: one encoder batch and one FAISS search for all queries; see ``Retriever``."""
        return [[hit.passage for hit in hits] for hits in self.search_scored(queries, k)]

    def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Find passages and their inner products; see ``ScoredRetriever``."""
        check_k(k)
        if not queries:
            return []
        vectors = self._encode(queries)
        rows = self.dense.nearest(vectors, k)
        scores = self.dense.scores(vectors, rows)
        return [ranked(self.passages, r, s, k) for r, s in zip(rows, scores, strict=True)]

    def propose(self, queries: Sequence[str], k: int) -> list[NDArray[np.int64]]:
        """Rows of at least the ``min(k, N)`` nearest passages a query, by one FAISS search."""
        return self.dense.nearest(self._encode(queries), k) if queries else []

    def score(self, queries: Sequence[str], rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        """Inner products, summed in float64 one pair at a time: they do not depend on the batch."""
        return self.dense.scores(self._encode(queries), rows) if queries else []

    def _encode(self, queries: Sequence[str]) -> NDArray[np.float32]:
        try:
            return self.encoder.encode(queries, "query")
        except RuntimeError as error:
            raise RetrieverError(f"the encoder failed on {len(queries)} queries: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self.folder, self.encoder.spec or self.encoder, self._built_identity, self.identity)

    def __deepcopy__(self, memo: dict[int, Any]) -> FaissRetriever:
        return self

    def __repr__(self) -> str:
        return f"FaissRetriever({len(self.passages)} passages, {self.encoder.name})"


def _opened_again(folder: Path, encoder: Encoder | str, built: str, identity: str) -> FaissRetriever:
    """What a pickled retriever becomes in another process.

    Args:
        folder: Its index.
        encoder: Of queries.
        built: Identity of the index.
        identity: The retriever's own, which is another one where it is a part of a hybrid.

    Raises:
        RetrieverError: Another index stands there now.
    """
    from toolenv.retrieval.index.opening import encoder_of, open_parts

    parts = open_parts(folder)
    if parts.manifest.identity != built or parts.dense is None:
        raise RetrieverError(f"{folder}: holds another index than when this was pickled; open it anew")
    retriever = FaissRetriever.over(
        parts.store, encoder_of(folder, parts.manifest, encoder), parts.dense, folder, parts.manifest.identity
    )
    retriever.identity = identity
    return retriever
