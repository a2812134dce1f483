"""One build of an index: its steps, which are kept as they are done, and what they need of the disk."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from toolenv.errors import ConfigError, DataError, RetrieverError
from toolenv.progress import Progress
from toolenv.retrieval.base import Passage
from toolenv.retrieval.bm25 import BM25Retriever
from toolenv.retrieval.encoders import Encoder
from toolenv.retrieval.index.choose import Choice, choose
from toolenv.retrieval.index.dense import DenseIndex
from toolenv.retrieval.index.encoding import CHUNK, Known, encode_passages
from toolenv.retrieval.index.manifest import (
    BM25_FOLDER,
    BUILDING,
    FAISS_FILE,
    MANIFEST,
    Asked,
    CorpusFile,
    EncoderRecord,
    Manifest,
    file_sha256,
    read_manifest,
)
from toolenv.retrieval.index.opening import VECTOR_TYPES
from toolenv.retrieval.index.places import put_in_place
from toolenv.retrieval.index.recall import measure_recall
from toolenv.retrieval.index.steps import Steps
from toolenv.retrieval.index.store import PassageStore
from toolenv.retrieval.index.store_files import FACTS, FILES
from toolenv.retrieval.index.training import train_and_add
from toolenv.retrieval.index.vectors import open_vectors

STEPS = "steps.json"
K1, B = 0.9, 0.4
BM25_BYTES_A_PASSAGE = 1_250  # of 100 words: 610 stay, and as much again is taken while they are counted
ROW_BYTES_A_PASSAGE = 36  # of the tables of the store
LIBRARIES = ("toolenv", "faiss-cpu", "bm25s", "numpy", "transformers", "torch")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the passages of an index come from.

    Attributes:
        passages: Gives them.
        corpora: The files that they stand in.
        key: The same for the same passages.
        about: How many there are, about.
        text_bytes: How long they are together, about.
    """

    passages: Callable[[], Iterable[Passage]]
    corpora: tuple[CorpusFile, ...]
    key: str
    about: int
    text_bytes: int


class Job:
    """One call of ``build_index`` or ``add_to_index`` that has something to do.

    Args:
        folder: Where the index will stand.
        source: Its passages.
        asked: What it will be.
        encoder: Makes its vectors; ``None`` for a BM25 index.
        progress: Whether to say on stderr what is done.
        brief: Say nothing but how far the encoder is.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        asked: Asked,
        encoder: Encoder | None,
        progress: bool,
        brief: bool = False,
    ) -> None:
        self.folder, self.source, self.asked, self.encoder = folder, source, asked, encoder
        self.encoding_said, self.progress = progress, progress and not brief
        self.building = folder.with_name(folder.name + BUILDING)
        self.old = _standing(folder, source)
        self.steps = Steps(self.building / STEPS)

    def run(self) -> Path:
        """Do what was not done yet, and put the index in its place."""
        self._say(f"building {self.folder}: about {self.source.about:,} passages")
        self._check_room()
        self.building.mkdir(parents=True, exist_ok=True)
        self.steps.read()
        store = self._store()
        choice = dense_recall = None
        if self.encoder is not None:
            choice = choose(
                len(store), self.encoder.dimension, kind=self.asked.kind, memory_bytes=self.asked.memory_bytes,
                recall=self.asked.recall,
            )  # fmt: skip
            self._say(f"index {choice.kind} ({choice.factory}): {choice.why}")
            choice, dense_recall = self._dense(store, self.encoder, choice)
        if self.asked.retriever != "faiss":
            self._bm25(store)
        check_unchanged(self.source.corpora)
        self._finish(store, choice, dense_recall)
        return self.folder

    def _store(self) -> PassageStore:
        key = [self.source.key]
        if self.steps.has("passages", key) and _is_store(self.building):
            store = PassageStore(self.building)
            self._say(f"going on: {len(store):,} passages are stored")
            return store
        self.steps.clear()
        said = self._progress("storing passages", self.source.about)
        shown = (lambda done: said.show(done, f"{done:,} passages")) if said else None
        store = PassageStore.build(self.source.passages(), self.building, shown)
        if said:
            said.close(f"{len(store):,}")
        self.steps.finish("passages", key)
        return store

    def _dense(self, store: PassageStore, encoder: Encoder, choice: Choice) -> tuple[Choice, dict[str, Any]]:
        """Vectors and the FAISS index; the choice with settings that reach the recall, and what was measured."""
        name = vectors_file(choice)
        path, dtype = self.building / name, VECTOR_TYPES[name]
        self._encode(store, encoder, path, dtype)
        vectors = open_vectors(path, len(store), encoder.dimension, dtype)
        key = [store.sha256, encoder.name, choice.record()]
        if not self.steps.has("dense", key):
            if not self.steps.has("dense begun", key):  # what was begun is of other vectors
                for rest in self.building.glob(f"{FAISS_FILE}*"):
                    rest.unlink()
                self.steps.finish("dense begun", key)
            train_and_add(choice, vectors, self.building / FAISS_FILE, progress=self.progress)
            self.steps.finish("dense", key)
        index = DenseIndex(self.building / FAISS_FILE, vectors, choice)
        recall = measure_recall(index, vectors, reach=self.asked.recall, progress=self.progress)
        self._say(f"recall@3 of {recall['sample']} queries, against every vector compared: {recall['recall@3']:.3f}")
        if recall["recall@3"] < self.asked.recall:
            self._say(f"that is less than the {self.asked.recall:g} asked for; another --kind may find more")
        return replace(choice, settings=recall["settings"]), recall

    def _encode(self, store: PassageStore, encoder: Encoder, path: Path, dtype: type[np.floating]) -> None:
        label = f"search index: encoding {len(store):,} passages with {encoder.name}"
        said = Progress(label, len(store)) if self.encoding_said else None

        def started_at(rows: int) -> None:
            if rows:
                self._say(f"going on: {rows:,} of {len(store):,} passages are encoded")

        begun = False

        def show(done: int) -> None:
            nonlocal begun
            if said and not begun:
                said.start_at(done)  # the first call of the encoder loads its model
            elif said:
                said.show(done, f"{done:,} of {len(store):,}")
            begun = True

        self._say(f"encoding with {encoder.name}: the first figure comes after {min(CHUNK, len(store)):,} passages")
        known = self._known(store, encoder)
        encode_passages(store, encoder, path, dtype, known=known, started_at=started_at, done=show)
        if said:
            said.close("done")

    def _known(self, store: PassageStore, encoder: Encoder) -> Known | None:
        """The vectors of an index that stands in the folder, where its encoder is the same."""
        old = self.old
        if old is None or old.encoder is None or old.encoder.name != encoder.name:
            return None
        try:
            old.check_sizes(self.folder)
            before = PassageStore(self.folder)
            vectors = open_vectors(self.folder / old.vectors, len(before), encoder.dimension, VECTOR_TYPES[old.vectors])
        except DataError:
            return None  # a damaged index is built anew
        rows = same_passages(before, store)
        self._say(f"{int((rows >= 0).sum()):,} of {len(store):,} passages were encoded before")
        return Known(vectors, rows)

    def _bm25(self, store: PassageStore) -> None:
        key = [store.sha256, K1, B]
        if self.steps.has("bm25", key):
            return
        said = self._progress("counting words", len(store))
        counted = said.show if said else lambda done: None
        shutil.rmtree(self.building / BM25_FOLDER, ignore_errors=True)
        BM25Retriever.build(store, self.building / BM25_FOLDER, k1=K1, b=B, counted=counted)
        if said:
            said.close(f"{len(store):,} passages")
        self.steps.finish("bm25", key)

    def _finish(self, store: PassageStore, choice: Choice | None, recall: dict[str, Any] | None) -> None:
        """Hash the files, write the manifest, and put the folder in its place."""
        kept = {STEPS, f"{vectors_file(choice)}.json"} if choice else {STEPS}  # for the case of a kill in what follows
        self._remove_rest(choice, kept)
        names = sorted(str(path.relative_to(self.building)) for path in self.building.rglob("*") if path.is_file())
        files: dict[str, dict[str, Any]] = {}
        said = self._progress("checking files", len(names))
        for name in (name for name in names if name not in kept):
            path = self.building / name
            _to_disk(path)
            files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            if said:
                said.show(len(files), name)
        if said:
            said.close(f"{len(files)} hashed")
        encoder = self.encoder
        manifest = Manifest(
            corpora=self.source.corpora,
            passages=len(store),
            passages_sha256=store.sha256,
            asked=self.asked,
            encoder=None if encoder is None else EncoderRecord(encoder.spec, encoder.name, encoder.dimension),
            vectors=vectors_file(choice) if choice else "",
            dense=choice.record() if choice else None,
            recall=recall,
            bm25=None if self.asked.retriever == "faiss" else {"k1": K1, "b": B},
            files=files,
            versions=_versions(),
        )
        manifest.write(self.building)
        put_in_place(self.building, self.folder)
        for name in kept:
            (self.folder / name).unlink(missing_ok=True)
        total = sum(facts["bytes"] for facts in files.values())
        self._say(f"built {self.folder}: {len(store):,} passages, {size(total)}")

    def _remove_rest(self, choice: Choice | None, kept: set[str]) -> None:
        """Remove what a call with other settings left."""
        wanted = {*FILES, BM25_FOLDER, FAISS_FILE, *kept} | ({vectors_file(choice)} if choice else set())
        if self.asked.retriever == "faiss":
            wanted.discard(BM25_FOLDER)
        if choice is None:
            wanted.discard(FAISS_FILE)
        for path in self.building.iterdir():
            if path.name not in wanted:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _check_room(self) -> None:
        """Refuse to begin what the disk has no room for.

        Raises:
            RetrieverError: It has not; says what the index will take.
        """
        about = self.source.about
        needs = {"passages": self.source.text_bytes + about * ROW_BYTES_A_PASSAGE}
        if self.encoder is not None:
            choice = choose(
                max(1, about), self.encoder.dimension, kind=self.asked.kind, memory_bytes=self.asked.memory_bytes,
                recall=self.asked.recall,
            )  # fmt: skip
            width = np.dtype(VECTOR_TYPES[vectors_file(choice)]).itemsize
            needs["vectors"] = about * self.encoder.dimension * width
            needs["index"] = 0 if choice.kind == "flat" else int(about * choice.bytes_per_passage)
        if self.asked.retriever != "faiss":
            needs["words"] = about * BM25_BYTES_A_PASSAGE
        here = _nearest_there(self.folder)
        free = shutil.disk_usage(here).free + _bytes_in(self.building)
        if sum(needs.values()) > free:
            parts = ", ".join(f"{name} {size(count)}" for name, count in needs.items())
            raise RetrieverError(
                f"no room for the index {self.folder}: about {size(sum(needs.values()))} are needed ({parts}), and "
                f"{size(free)} are free; name a folder on another disk, or make room"
            )

    def _progress(self, label: str, total: float) -> Progress | None:
        return Progress(label, total) if self.progress else None

    def _say(self, text: str) -> None:
        if self.progress:
            print(text, file=sys.stderr, flush=True)


def vectors_file(choice: Choice) -> str:
    """The file of vectors: exact where they are few, so that the search is; half as long else."""
    return "vectors.f32" if choice.kind == "flat" else "vectors.f16"


def same_passages(before: PassageStore, now: PassageStore) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each row of ``now`` the row of ``before`` that holds the same passage, or -1.

    Example:
        >>> import tempfile
        >>> a, b, c = (Passage(letter, "", letter) for letter in "abc")
        >>> before = PassageStore.build([a, c], tempfile.mkdtemp())
        >>> same_passages(before, PassageStore.build([a, b, c], tempfile.mkdtemp())).tolist()
        [0, -1, 1]
    """
    if before == now:
        return np.arange(len(now))
    rows = np.full(len(now), -1, np.int64)
    known = enumerate(before)
    place, passage = next(known)
    for row, wanted in enumerate(now):
        while passage.id < wanted.id:
            following = next(known, None)
            if following is None:
                return rows
            place, passage = following
        if passage == wanted:
            rows[row] = place
    return rows


def check_unchanged(corpora: Iterable[CorpusFile]) -> None:
    """Refuse to go on with a corpus that was edited since the build began.

    Raises:
        DataError: One was; names it.
    """
    for corpus in corpora:
        if not corpus.is_same(Path(corpus.path)):
            raise DataError(
                f"the corpus {corpus.path} was edited while its index was built; call again to build the index of "
                "what it holds now (passages that did not change are not encoded again where an index stands)"
            )


def _standing(folder: Path, source: Source) -> Manifest | None:
    """The index that stands in the folder, and will give way.

    Raises:
        ConfigError: It is of another corpus, or no index.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        found = read_manifest(folder)
    except DataError as error:
        if (folder / MANIFEST).exists() or (folder / FACTS).exists():
            return None  # an index that was damaged
        raise ConfigError(f"{folder} holds something else than an index; name another folder") from error
    before = [corpus.path for corpus in found.corpora]
    if before != [corpus.path for corpus in source.corpora][: len(before)]:
        of = ", ".join(before)
        raise ConfigError(f"{folder} holds an index of {of}; name another folder, or remove it")
    return found


def _is_store(folder: Path) -> bool:
    try:
        PassageStore(folder)
    except (DataError, RetrieverError):
        return False
    return True


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _nearest_there(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def size(count: float) -> str:
    """Bytes as people read them.

    Example:
        >>> size(1_500), size(73_000_000), size(5.5e9)
        ('1.5 kB', '73.0 MB', '5.5 GB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} bytes"
