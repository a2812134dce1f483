"""Dense retrieval: an exact FAISS index, built once into a cache and memory-mapped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import RetrieverError
from toolenv.extras import require
from toolenv.retrieval.base import Passage, best, check_k, in_order
from toolenv.retrieval.encoders import Encoder, MiniLMEncoder

INDEX_VERSION = 1
CHUNK = 256  # passages encoded between two steps of the progress line
MARGIN = 16  # extra candidates, so that ties at place k are broken by id and not by chance


def cache_folder() -> Path:
    """Where built indexes are kept: ``$TOOLENV_CACHE``, else ``~/.cache/toolenv``."""
    return Path(os.environ.get("TOOLENV_CACHE") or Path.home() / ".cache" / "toolenv")


class FaissRetriever:
    """Inner product of unit vectors over all passages (``IndexFlatIP``).

    The index is built on first use into ``cache``, in a folder named after the corpus and the encoder, and
    memory-mapped from then on: processes on one machine share its pages. It is written aside and renamed, so that a
    build that was stopped leaves nothing that could be opened.

    Args:
        passages: The corpus.
        encoder: The encoder; ``None``: ``MiniLMEncoder``.
        cache: Folder of the built indexes; ``None``: ``cache_folder()``.

    Attributes:
        num_searches: How many FAISS searches were made.

    Raises:
        MissingExtraError: FAISS or the encoder's packages are not installed.
        DataError: No passage, or two with one id.
        RetrieverError: The index cannot be written or read.
    """

    def __init__(
        self, passages: Iterable[Passage], encoder: Encoder | None = None, cache: str | Path | None = None
    ) -> None:
        self._faiss = require("faiss", "search")
        self.passages = in_order(passages)
        self.encoder: Encoder = encoder if encoder is not None else MiniLMEncoder()
        self.num_searches = 0
        manifest = {
            "version": INDEX_VERSION,
            "corpus_sha256": corpus_hash(self.passages),
            "passages": len(self.passages),
            "encoder": self.encoder.name,
            "dimension": self.encoder.dimension,
        }
        key = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(cache if cache is not None else cache_folder()) / f"faiss-{key}"
        try:
            self._index = self._open_or_build(manifest)
        except (OSError, RuntimeError) as error:
            raise RetrieverError(f"cannot use the search index in {self.folder}: {error}") from error

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Find passages: one encoder batch and one FAISS search for all queries; see ``Retriever``."""
        check_k(k)
        if not queries:
            return []
        rows = self.propose(queries, k + MARGIN)
        scores = self.score(queries, rows)
        return [best(self.passages, r, s, k) for r, s in zip(rows, scores, strict=True)]

    def propose(self, queries: Sequence[str], k: int) -> list[NDArray[np.int64]]:
        """Rows of the ``min(k, N)`` nearest passages a query, by one FAISS search."""
        vectors = self._encode(queries)
        self.num_searches += 1
        try:
            _, rows = self._index.search(vectors, min(k, len(self.passages)))
        except RuntimeError as error:
            raise RetrieverError(f"the search for {len(queries)} queries failed: {error}") from error
        return list(rows)

    def score(self, queries: Sequence[str], rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        """Inner products, summed in float64 one pair at a time: FAISS's own differ by 1e-7 from batch to batch."""
        vectors = self._encode(queries).astype(np.float64)
        near = [self._index.reconstruct_batch(r).astype(np.float64) for r in rows]
        return [(n * vector).sum(axis=-1) for n, vector in zip(near, vectors, strict=True)]

    def _encode(self, queries: Sequence[str]) -> NDArray[np.float32]:
        try:
            return self.encoder.encode(queries, "query")
        except RuntimeError as error:
            raise RetrieverError(f"the encoder failed on {len(queries)} queries: {error}") from error

    def _open_or_build(self, manifest: dict[str, Any]) -> Any:
        """The memory-mapped index; built where there is none, or one that does not match its manifest."""
        if not self._is_complete(manifest):
            with _locked(self.folder.with_suffix(".lock")):
                if not self._is_complete(manifest):
                    self._build(manifest)
        return self._faiss.read_index(str(self.folder / "index.faiss"), self._faiss.IO_FLAG_MMAP_IFC)

    def _is_complete(self, manifest: dict[str, Any]) -> bool:
        try:
            stored = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
            size = (self.folder / "index.faiss").stat().st_size
        except (OSError, ValueError):
            return False
        return bool(stored == {**manifest, "bytes": size})

    def _build(self, manifest: dict[str, Any]) -> None:
        index = self._faiss.IndexFlatIP(self.encoder.dimension)
        index.add(self._encode_passages())
        aside = Path(tempfile.mkdtemp(prefix=".building-", dir=self.folder.parent))
        try:
            self._faiss.write_index(index, str(aside / "index.faiss"))
            size = (aside / "index.faiss").stat().st_size
            (aside / "manifest.json").write_text(json.dumps({**manifest, "bytes": size}, indent=1), encoding="utf-8")
            shutil.rmtree(self.folder, ignore_errors=True)
            aside.rename(self.folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _encode_passages(self) -> NDArray[np.float32]:
        """Vectors ``(N, D)``, made in chunks of texts of similar length."""
        texts = [passage.contents for passage in self.passages]
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        vectors = np.empty((len(texts), self.encoder.dimension), np.float32)
        with progress_line(f"search index: {len(texts)} passages, {self.encoder.name}", len(texts)) as progress:
            for start in range(0, len(order), CHUNK):
                rows = order[start : start + CHUNK]
                vectors[rows] = self.encoder.encode([texts[row] for row in rows], "passage")
                progress(start + len(rows))
        return vectors

    def __deepcopy__(self, memo: dict[int, Any]) -> FaissRetriever:
        return self

    def __repr__(self) -> str:
        return f"FaissRetriever({len(self.passages)} passages, {self.encoder.name})"


def corpus_hash(passages: Iterable[Passage]) -> str:
    """SHA-256 of ids, titles and texts, in order.

    Example:
        >>> a, b = Passage("1", "x", "yz"), Passage("1", "xy", "z")
        >>> corpus_hash([a]) == corpus_hash([b])
        False
    """
    digest = hashlib.sha256()
    for passage in passages:
        digest.update(json.dumps([passage.id, passage.title, passage.text]).encode() + b"\n")
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that of several processes one builds and the others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def progress_line(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A line on stderr that counts up to ``total``; only its start and end where stderr is no terminal."""
    live = sys.stderr.isatty()

    def show(done: int) -> None:
        if live:
            print(f"\r{label}: {100 * done // total:3d} %", end="", file=sys.stderr, flush=True)

    print(f"building {label}", file=sys.stderr, flush=True)
    yield show
    print(f"{chr(13) if live else ''}{label}: built", file=sys.stderr, flush=True)
