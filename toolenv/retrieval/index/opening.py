"""Opening an index: a look at what belongs together, then memory maps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolenv.errors import ConfigError, DataError, RetrieverError
from toolenv.retrieval.bm25 import BM25Retriever
from toolenv.retrieval.corpus import corpus_path
from toolenv.retrieval.encoders import Encoder, make_encoder
from toolenv.retrieval.hybrid import HybridRetriever
from toolenv.retrieval.index.choose import Choice
from toolenv.retrieval.index.dense import DenseIndex
from toolenv.retrieval.index.manifest import BM25_FOLDER, FAISS_FILE, MANIFEST, CorpusFile, Manifest, read_manifest
from toolenv.retrieval.index.places import found_index
from toolenv.retrieval.index.store import PassageStore
from toolenv.retrieval.index.vectors import open_vectors

if TYPE_CHECKING:
    from toolenv.retrieval.index.faiss import FaissRetriever

VECTOR_TYPES: dict[str, type[np.floating]] = {"vectors.f16": np.float16, "vectors.f32": np.float32}


@dataclass(frozen=True, slots=True)
class Parts:
    """What an index folder holds, open.

    Attributes:
        folder: Where it is.
        manifest: What it says of itself.
        store: Its passages.
        dense: Its vectors; ``None`` for a BM25 index.
        bm25: Its words; ``None`` for an index of vectors alone.
    """

    folder: Path
    manifest: Manifest
    store: PassageStore
    dense: DenseIndex | None
    bm25: BM25Retriever | None


def open_index(
    index: str | Path,
    *,
    encoder: str | Encoder | None = None,
    corpus: str | Path | None = None,
    retriever: str | None = None,
) -> FaissRetriever | BM25Retriever | HybridRetriever:
    """Open an index that ``build_index`` or ``toolenv index build`` made.

    Nothing is loaded: files are memory-mapped, and the encoder's weights are read at the first query. Without an
    encoder of your own, a process gets the same retriever each time, until the index changes.

    Args:
        index: A folder; or the name of an index in ``$TOOLENV_CACHE/indexes``, or of a corpus that has one there, such
            as ``"wikipedia-2006"``.
        encoder: The encoder of queries, or what ``make_encoder`` takes; ``None``: the one that built the index.
        corpus: The corpus that the index should be of: a file, or the name of one that was fetched.
        retriever: ``"faiss"`` or ``"bm25"``: use that part of a hybrid index alone; ``None``: all that was built.

    Returns:
        A ``FaissRetriever``, ``BM25Retriever`` or ``HybridRetriever``.

    Raises:
        ConfigError: The encoder is another than the one that made the vectors (names both), or the index does not
            have what ``retriever`` needs.
        DataError: There is no index, one of its files was cut short, or the corpus is another one or was edited.
        MissingExtraError: What the index needs is not installed.
        RetrieverError: A file cannot be read.
    """
    folder = found_index(index)
    if corpus is not None:
        check_corpus(folder, read_manifest(folder), corpus)
    if encoder is not None:
        return retriever_of(open_parts(folder), encoder, retriever)
    try:
        status = (folder / MANIFEST).stat()
    except OSError:
        read_manifest(folder)  # says why there is none
        raise
    return _opened(folder.absolute(), (status.st_ino, status.st_mtime_ns), retriever)


@lru_cache(maxsize=8)
def _opened(
    folder: Path, version: tuple[int, int], retriever: str | None
) -> FaissRetriever | BM25Retriever | HybridRetriever:
    """One retriever for the whole process, so that all environments make one batch of their queries."""
    return retriever_of(open_parts(folder), None, retriever)


def open_parts(folder: Path) -> Parts:
    """Map the files of an index.

    Raises:
        DataError: It is no index, or a file was cut short.
        RetrieverError: A file cannot be read.
        MissingExtraError: What the index needs is not installed.
    """
    while True:
        manifest = read_manifest(folder)
        try:
            parts = _opened_as(folder, manifest)
        except (DataError, RetrieverError):
            if read_manifest(folder) == manifest:
                raise
            continue
        if read_manifest(folder) == manifest:  # else another index took its place, and files of both may be open
            return parts


def _opened_as(folder: Path, manifest: Manifest) -> Parts:
    """The files of an index that says this of itself."""
    manifest.check_sizes(folder)
    store = PassageStore(folder)
    if store.sha256 != manifest.passages_sha256:
        raise DataError(
            f"{folder}: its passages are others than the index was built of (sha256 {store.sha256[:12]}, built of "
            f"{manifest.passages_sha256[:12]}); build the index again"
        )
    dense = bm25 = None
    if manifest.encoder is not None and manifest.dense is not None:
        vectors = open_vectors(
            folder / manifest.vectors, len(store), manifest.encoder.dimension, VECTOR_TYPES[manifest.vectors]
        )
        dense = DenseIndex(folder / FAISS_FILE, vectors, Choice.from_record(manifest.dense))
    if manifest.bm25 is not None:
        bm25 = BM25Retriever.open(folder / BM25_FOLDER, store)
    return Parts(folder, manifest, store, dense, bm25)


def retriever_of(
    parts: Parts, encoder: str | Encoder | None, part: str | None = None
) -> FaissRetriever | BM25Retriever | HybridRetriever:
    """The retriever over an index that is open, or over one part of it.

    Raises:
        ConfigError: The encoder is another than the one that made the vectors, or the index lacks the part.
        MissingExtraError: What the encoder needs is not installed.
    """
    from toolenv.retrieval.index.faiss import FaissRetriever

    built, identity = parts.manifest.asked.retriever, parts.manifest.identity
    wanted = part or built
    if wanted != built and (wanted not in ("faiss", "bm25") or built != "hybrid"):
        raise ConfigError(f"{parts.folder}: was built with retriever={built!r}, and cannot serve as {wanted!r}")
    retriever: FaissRetriever | BM25Retriever | HybridRetriever
    if parts.dense is None or wanted == "bm25":
        assert parts.bm25 is not None  # a manifest has one or both
        retriever = parts.bm25
    else:
        made = encoder_of(parts.folder, parts.manifest, encoder)
        retriever = dense = FaissRetriever.over(parts.store, made, parts.dense, parts.folder, identity)
        if parts.bm25 is not None and wanted == "hybrid":
            dense.identity, parts.bm25.identity = _part(identity, "faiss"), _part(identity, "bm25")
            retriever = HybridRetriever(dense, parts.bm25)
    retriever.identity = identity if wanted == built else _part(identity, wanted)
    return retriever


def _part(identity: str, retriever: str) -> str:
    """What a part of a hybrid index is told from the whole by."""
    return hashlib.sha256(f"{identity} {retriever}".encode()).hexdigest()


def encoder_of(folder: Path, manifest: Manifest, encoder: str | Encoder | None = None) -> Encoder:
    """The encoder of an index, looked at.

    Raises:
        ConfigError: It is another than the one that made the vectors, or cannot be made.
        MissingExtraError: What it needs is not installed.
    """
    built = manifest.encoder
    assert built is not None  # the index has vectors
    if encoder is None and not built.spec:
        raise ConfigError(
            f"{folder}: its encoder {built.name!r} cannot be made by name; give it: open_index(..., encoder=ENCODER)"
        )
    made = make_encoder(built.spec if encoder is None else encoder)
    if made.name != built.name:
        what = "its encoder is now" if encoder is None else "the encoder given is"
        raise ConfigError(
            f"{folder}: was built with the encoder {built.name!r}, and {what} {made.name!r}; vectors of two encoders "
            "cannot be compared: use the one it was built with, or build an index with the other"
        )
    return made


def check_corpus(folder: Path, manifest: Manifest, corpus: str | Path) -> None:
    """Refuse a corpus that the index was not built of.

    Raises:
        DataError: It is another one, or was edited since.
    """
    path = corpus_path(corpus)
    same_place = [known for known in manifest.corpora if _is_of(known, corpus, path)]
    if any(known.is_same(path) for known in same_place or manifest.corpora):
        return
    if same_place:
        raise DataError(
            f"the corpus {path} was edited after the index {folder} was built of it ({path.stat().st_size:,} bytes "
            f"now, {same_place[0].bytes:,} then); build the index again (toolenv index build)"
        )
    of = ", ".join(known.path for known in manifest.corpora) or "passages that were given in memory"
    raise DataError(f"the index {folder} was built of {of}, not of {path}; open the index of that corpus")


def _is_of(known: CorpusFile, corpus: str | Path, path: Path) -> bool:
    return known.path == str(path.absolute()) or known.name == str(corpus)
