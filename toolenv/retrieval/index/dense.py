"""Dense search: candidates by FAISS, exact scores from the vectors on disk; a query's answer is its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import ConfigError, RetrieverError
from toolenv.extras import require
from toolenv.retrieval.index.choose import Choice
from toolenv.retrieval.index.kinds import kind_of, lists_in
from toolenv.retrieval.index.training import needs_no_file
from toolenv.retrieval.index.vectors import VectorFile, Vectors

MARGIN = 16  # extra candidates of an exact index: ties at place k are then broken by row and not by chance

QUERY_BITS = 3  # a dimension of a query, by RaBitQ, signed: a tenth less time than FAISS's 4 unsigned ones, as good
TOGETHER = 8  # queries in one call of FAISS, where it answers each alike: a fifth less time than one by one
MOST_EXTRA = 32  # candidates of a lossy index beyond the k asked for: three times k, and no more than these


class DenseIndex:
    """A FAISS index of vectors, and the vectors themselves.

    The same query gets the same candidates and scores alone, in any batch and in any process. An index that compares
    with every vector takes all queries at once, and offers more than ``k`` rows: what its arithmetic, which differs by
    1e-7 from batch to batch, orders wrongly stays among them. The others take each query for itself, or a few where
    FAISS looks at one after the other, on as many threads as there are cores. Scores are summed in float64 from the
    vectors, which are read from disk where they are mapped.

    Args:
        path: The FAISS index, from ``train_and_add``.
        vectors: The vectors ``(N, D)`` it was made from, in memory or mapped.
        choice: What the index is.
        threads: Queries that are searched at once; ``None``: one a core that this process may use.

    Attributes:
        settings: How far a search looks (see ``Choice.settings``); change it with ``tune``.
        num_searches: How many times ``nearest`` was called.

    Raises:
        RetrieverError: The file is missing, cut short, or holds other vectors.
        MissingExtraError: FAISS is not installed.

    Example:
        >>> import tempfile
        >>> from toolenv.retrieval.index.choose import choose
        >>> from toolenv.retrieval.index.training import train_and_add
        >>> vectors = np.eye(4, dtype=np.float16)
        >>> choice = choose(4, 4, memory_bytes=10**6)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "index.faiss"
        ...     train_and_add(choice, vectors, path, progress=False)
        ...     index = DenseIndex(path, vectors, choice)
        ...     rows = index.nearest(np.array([[0, 1, 0, 0]], np.float32), 1)
        ...     scores = index.scores(np.array([[0, 1, 0, 0]], np.float32), rows)
        >>> int(rows[0][scores[0].argmax()])
        1
    """

    def __init__(self, path: Path, vectors: Vectors, choice: Choice, *, threads: int | None = None) -> None:
        self._faiss = require("faiss", "search")
        self.path, self.vectors, self.choice = path, vectors, choice
        self.settings = dict(choice.settings)
        self.num_searches = 0
        self._kind = kind_of(choice.kind, choice.dimension)
        self._index = self._open()
        self._params: Any = None
        self._file = VectorFile(vectors if self._index is not None else np.asarray(vectors))  # all of it is read anyway
        self._threads = threads or len(os.sched_getaffinity(0))
        self._pool: ThreadPoolExecutor | None = None
        self._pool_of = 0
        self._making_pool = threading.Lock()
        self._apply_settings()

    def __len__(self) -> int:
        return len(self.vectors)

    def tune(self, settings: Mapping[str, int]) -> None:
        """Change how far a search looks: more of ``nprobe``, ``depth`` or ``ef_search`` finds more and takes longer.

        Raises:
            ConfigError: A setting that this kind does not have, or one below 1.
        """
        for name, value in settings.items():
            if name not in self.choice.settings:
                has = ", ".join(self.choice.settings) or "none"
                raise ConfigError(f"an index of kind {self.choice.kind!r} has no setting {name!r}; it has: {has}")
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}")
        self.settings = self.settings | dict(settings)
        self._apply_settings()

    def nearest(self, queries: NDArray[np.float32], k: int) -> list[NDArray[np.int64]]:
        """Candidates for the ``k`` nearest vectors of every query ``(B, D)``: ``min(k, N)`` rows or more, in any order.

        An index with lists may find fewer where the lists it looks into hold fewer.

        Raises:
            RetrieverError: A query holds what is no finite number, has another dimension, or FAISS fails.
        """
        queries = self._checked(queries)
        self.num_searches += 1
        if not len(queries):
            return []
        try:
            if self._kind.exact:
                return list(self._all_at_once(queries, min(len(self), k + MARGIN)))
            depth = min(len(self), max(self.settings["depth"], k + min(3 * k, MOST_EXTRA)))
            size = min(TOGETHER, -(-len(queries) // self._threads)) if self._kind.alike else 1
            parts = [queries[start : start + size] for start in range(0, len(queries), size)]
            return [rows for some in self._workers().map(lambda part: self._some(part, depth), parts) for rows in some]
        except RuntimeError as error:
            raise RetrieverError(f"the search for {len(queries)} queries in {self.path} failed: {error}") from error

    def scores(self, queries: NDArray[np.float32], rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        """Inner products of every query with its rows; a pair's does not depend on the other pairs.

        Raises:
            RetrieverError: The vectors cannot be read, or a query is no vector of this index.
        """
        wide = self._checked(queries).astype(np.float64)
        pairs = list(zip(rows, wide, strict=True))
        try:
            if self._kind.exact:
                return [self._products(pair) for pair in pairs]
            return list(self._workers().map(self._products, pairs))  # one thread waits for the disk, and another reads
        except OSError as error:
            raise RetrieverError(f"the vectors of {self.path} cannot be read: {error}") from error

    def _products(self, pair: tuple[NDArray[np.int64], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Inner products of one query with its rows, summed one by one."""
        rows, query = pair
        products: NDArray[np.float64] = (self._file.read(rows) * query).sum(axis=-1)
        return products

    def _all_at_once(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        if self._index is not None:
            return np.asarray(self._index.search(queries, k)[1])
        metric = self._faiss.METRIC_INNER_PRODUCT
        return np.asarray(self._faiss.knn(queries, np.asarray(self.vectors), k, metric=metric)[1])

    def _some(self, queries: NDArray[np.float32], depth: int) -> list[NDArray[np.int64]]:
        """Candidates of some queries; the disk is told at once which vectors will be wanted."""
        found = [self._offered(rows) for rows in self._index.search(queries, depth, params=self._params)[1]]
        for rows in found:
            self._file.expect(rows)
        return found

    def _offered(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """FAISS fills up with -1 what it did not find."""
        return rows[rows >= 0]

    def _checked(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.choice.dimension:
            raise RetrieverError(
                f"query vectors must be (B, {self.choice.dimension}) for this index; got {queries.shape}"
            )
        if not np.isfinite(queries).all():
            raise RetrieverError("a query's vector holds a value that is no finite number; the encoder is broken")
        return queries

    def _open(self) -> Any:
        """The mapped index; ``None`` where the vectors themselves are it."""
        faiss, choice = self._faiss, self.choice
        if self.vectors.shape != (choice.passages, choice.dimension):
            raise RetrieverError(
                f"the vectors of {self.path} are {self.vectors.shape[0]} of {self.vectors.shape[1]} dimensions, and "
                f"its manifest says {choice.passages} of {choice.dimension}; build the index again"
            )
        if needs_no_file(choice, self.vectors):
            return None
        try:
            flags = faiss.IO_FLAG_MMAP if lists_in(choice.factory) else faiss.IO_FLAG_MMAP_IFC
            index = faiss.read_index(str(self.path), flags)
        except RuntimeError as error:
            raise RetrieverError(f"{self.path} cannot be opened: {error}; build the index again") from error
        if (index.ntotal, index.d) != self.vectors.shape:
            raise RetrieverError(
                f"{self.path} holds {index.ntotal} vectors of {index.d} dimensions, and its vectors are "
                f"{self.vectors.shape[0]} of {self.vectors.shape[1]}; build the index again"
            )
        return index

    def _apply_settings(self) -> None:
        if self._index is None:
            return
        lists = self._faiss.try_extract_index_ivf(self._index)
        graph = self._faiss.downcast_index(lists.quantizer if lists else self._index)
        if hasattr(lists, "qb"):
            self._params = self._faiss.IVFRaBitQSearchParameters()
            self._params.nprobe, self._params.qb, self._params.centered = self.settings["nprobe"], QUERY_BITS, True
        if lists:
            lists.nprobe = self.settings["nprobe"]
            stored = self._faiss.downcast_InvertedLists(lists.invlists)
            if hasattr(stored, "prefetch_nthread"):
                stored.prefetch_nthread = 0  # else every search starts 32 threads that touch the lists before it does
        if hasattr(graph, "hnsw"):
            graph.hnsw.efSearch = self.settings["nprobe"] if lists else self.settings["ef_search"]

    def _workers(self) -> ThreadPoolExecutor:
        """The pool of this process: one that was made before a fork has no threads in the child."""
        with self._making_pool:
            if self._pool is None or self._pool_of != os.getpid():
                self._pool_of = os.getpid()
                self._pool = ThreadPoolExecutor(self._threads, "search", self._faiss.omp_set_num_threads, (1,))
            return self._pool

    def __deepcopy__(self, memo: dict[int, Any]) -> DenseIndex:
        return self
