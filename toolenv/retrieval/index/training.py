"""Making the FAISS index from vectors on disk, in bounded memory."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import DataError, RetrieverError
from toolenv.extras import require
from toolenv.progress import Progress
from toolenv.retrieval.index.choose import Choice
from toolenv.retrieval.index.kinds import lists_in
from toolenv.retrieval.index.vectors import VectorFile, Vectors, check_finite, chunks
from toolenv.seeding import derive, rng

ADDED_AT_ONCE = 16_384
VECTORS_A_LIST = 40  # for training; FAISS warns below 39
ROUNDS = 10  # of the clustering
LEAST_SAMPLE = 65_536
KEEP_EVERY_S = 600.0
CONSTRUCTION = 80  # neighbours looked at when a vector is put into a graph


def train_and_add(
    choice: Choice,
    vectors: Vectors,
    path: Path,
    *,
    progress: bool = True,
    seed: int = 0,
) -> None:
    """Make the index of ``vectors`` and write it to ``path``, whole or not at all.

    The lists are learnt from a sample. What is learnt, and every ten minutes what was added, is kept beside ``path``
    in a file ending in ``.part``; a call that was killed goes on from there if it is made again in the same way, with
    the same vectors: whoever has others removes it.
    Memory: the sample, and the index itself.

    Args:
        choice: What to make.
        vectors: ``(N, D)``, in memory or mapped.
        path: The file to write; none is written for ``flat`` over float32, which searches the vectors themselves.
        progress: Whether to say on stderr how far the work is.
        seed: Of the sample and of the clustering.

    Raises:
        DataError: The vectors do not fit the choice, hold what is no finite number, or are too few for the kind.
        RetrieverError: The index cannot be made or written, as on a full disk.
        MissingExtraError: FAISS is not installed.
    """
    if vectors.shape != (choice.passages, choice.dimension):
        raise DataError(
            f"the vectors are {vectors.shape[0]} of {vectors.shape[1]} dimensions; "
            f"the index was chosen for {choice.passages} of {choice.dimension}"
        )
    if needs_no_file(choice, vectors):
        return
    faiss = require("faiss", "search")
    said = Progress(f"indexing {choice.factory}", len(vectors)) if progress else None
    part = _part(choice, path, seed)
    try:
        index = _resumed(faiss, part) or _trained(faiss, choice, vectors, part, seed)
        _add(faiss, index, vectors, part, said)
        faiss.write_index(index, str(part))
        _rename(part, path)
    except (OSError, RuntimeError, MemoryError) as error:
        raise RetrieverError(
            f"the index cannot be made at {path}: {error}; make room where the disk or memory is full, and call again"
        ) from error
    if said:
        said.close(f"{len(vectors):,} vectors, {path.stat().st_size / len(vectors):.0f} bytes each")


def needs_no_file(choice: Choice, vectors: Vectors) -> bool:
    """Whether the vectors themselves are the index."""
    return choice.kind == "flat" and vectors.dtype == np.float32


def _part(choice: Choice, path: Path, seed: int) -> Path:
    """Where the work is kept: another choice or seed has another name."""
    key = hashlib.sha256(f"{choice.factory} {choice.passages} {choice.dimension} {seed}".encode()).hexdigest()[:8]
    return path.with_name(f"{path.name}.{key}.part")


def _resumed(faiss: Any, part: Path) -> Any:
    """What an earlier call left, or ``None``."""
    if not part.is_file():
        return None
    try:
        return faiss.read_index(str(part))
    except RuntimeError:  # killed while it wrote: begin again
        return None


def _trained(faiss: Any, choice: Choice, vectors: Vectors, part: Path, seed: int) -> Any:
    """An empty index that has learnt its lists and codes from a sample."""
    index = faiss.index_factory(choice.dimension, choice.factory, faiss.METRIC_INNER_PRODUCT)
    _prepare(faiss, index, seed)
    if not index.is_trained:
        sample = _sample(vectors, max(LEAST_SAMPLE, VECTORS_A_LIST * lists_in(choice.factory)), seed)
        try:
            index.train(sample)
        except RuntimeError as error:
            raise DataError(
                f"an index {choice.factory} cannot be made of {len(vectors):,} vectors: {error}; choose another kind"
            ) from error
        _keep(faiss, index, part)
    return index


def _prepare(faiss: Any, index: Any, seed: int) -> None:
    """Settings that FAISS takes before it learns."""
    lists = faiss.try_extract_index_ivf(index)
    graph = faiss.downcast_index(lists.quantizer if lists else index)
    if lists:
        lists.cp.seed = derive(seed, "lists") % 2**31
        lists.cp.niter = ROUNDS
    if hasattr(graph, "hnsw"):
        graph.hnsw.efConstruction = CONSTRUCTION
        graph.hnsw.efSearch = CONSTRUCTION  # also decides which list a vector is put into


def _sample(vectors: Vectors, size: int, seed: int) -> NDArray[np.float32]:
    """Vectors to learn from, in the order of rows so that a disk is read forwards."""
    rows = np.arange(len(vectors))
    if size < len(vectors):
        rows = np.sort(rng(seed, "index sample").choice(len(vectors), size, replace=False, shuffle=False))
    sample = VectorFile(vectors).read(rows).astype(np.float32)
    check_finite(sample)
    return sample


def _add(faiss: Any, index: Any, vectors: Vectors, part: Path, said: Progress | None) -> None:
    kept = time.monotonic()
    if said and index.ntotal:
        said.start_at(index.ntotal)
    for start, chunk in chunks(vectors, ADDED_AT_ONCE, index.ntotal):
        index.add(chunk)
        if said:
            said.show(start + len(chunk))
        if time.monotonic() - kept > KEEP_EVERY_S:
            _keep(faiss, index, part)
            kept = time.monotonic()


def _keep(faiss: Any, index: Any, part: Path) -> None:
    aside = part.with_name(f"{part.name}.new")
    faiss.write_index(index, str(aside))
    _rename(aside, part)


def _rename(aside: Path, path: Path) -> None:
    """Put a file in its place, once it is on the disk."""
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)
