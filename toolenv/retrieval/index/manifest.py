"""What an index folder says of itself: which corpus, encoder and kind it was made of, and what each file must be."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolenv.errors import DataError
from toolenv.retrieval.index.store_files import check_size

VERSION = 1
MANIFEST = "manifest.json"
FAISS_FILE = "index.faiss"
BM25_FOLDER = "bm25"
BUILDING = ".building"
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file that passages of an index come from, as it was.

    Attributes:
        name: As it was given: a name that ``toolenv fetch`` knows, or the path.
        path: Where it was, absolute.
        sha256: Of its bytes.
        bytes: Its size.
        mtime_ns: When it was last changed.
    """

    name: str
    path: str
    sha256: str
    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, name: str | Path, path: Path) -> CorpusFile:
        """Read a file through.

        Raises:
            DataError: It cannot be read.
        """
        try:
            status = path.stat()
            sha256 = file_sha256(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        return cls(str(name), str(path.absolute()), sha256, status.st_size, status.st_mtime_ns)

    def is_same(self, path: Path) -> bool:
        """Whether a file holds what this one held; one with the same size and time of change is taken at its word.

        Raises:
            DataError: It cannot be read.
        """
        try:
            status = path.stat()
            if status.st_size != self.bytes:
                return False
            if str(path.absolute()) == self.path and status.st_mtime_ns == self.mtime_ns:
                return True
            return file_sha256(path) == self.sha256
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Asked:
    """What a build was asked for.

    Attributes:
        retriever: ``"bm25"``, ``"faiss"`` or ``"hybrid"``.
        kind: A kind of FAISS index, or ``"auto"``.
        recall: Part of the 3 nearest passages that a search should find.
        memory_bytes: Memory that the FAISS index may take; ``None``: what the machine has to spare.
    """

    retriever: str = "hybrid"
    kind: str = "auto"
    recall: float = 0.95
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class EncoderRecord:
    """The encoder of an index.

    Attributes:
        spec: What ``make_encoder`` makes it of again; empty where it cannot.
        name: Its name, which holds a fingerprint of its weights.
        dimension: Length of its vectors.
    """

    spec: str
    name: str
    dimension: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index folder says of itself.

    Attributes:
        corpora: The files it was made of, those added later behind; none where passages were given in memory.
        passages: How many it holds.
        passages_sha256: What tells them from others; see ``passages_sha256``.
        asked: What the build was asked for.
        encoder: Who made the vectors; ``None`` for a BM25 index.
        vectors: Name of the file of vectors; empty for a BM25 index.
        dense: What was chosen: ``Choice.record()``; ``None`` for a BM25 index.
        recall: What was measured on a sample against comparing with every vector; ``None`` for a BM25 index.
        bm25: Settings of BM25; ``None`` for an index of vectors alone.
        files: Bytes and sha256 of each file.
        versions: Versions of what built it.
        version: Version of this record.
    """

    corpora: tuple[CorpusFile, ...]
    passages: int
    passages_sha256: str
    asked: Asked
    encoder: EncoderRecord | None
    vectors: str
    dense: dict[str, Any] | None
    recall: dict[str, Any] | None
    bm25: dict[str, float] | None
    files: dict[str, dict[str, Any]]
    versions: dict[str, str] = field(default_factory=dict)
    version: int = VERSION

    @property
    def identity(self) -> str:
        """What two indexes that answer alike have in common."""
        parts = [self.passages_sha256, self.asked.retriever, self.encoder and self.encoder.name, self.dense, self.bm25]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write it into a folder, in one step."""
        aside = folder / f"{MANIFEST}.new"
        with aside.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, folder / MANIFEST)

    def check_sizes(self, folder: Path) -> None:
        """Refuse a folder with a file that was cut short or is gone.

        Raises:
            DataError: There is one; names it and both sizes.
        """
        for name, facts in self.files.items():
            check_size(folder / name, int(facts["bytes"]))


def read_manifest(folder: Path) -> Manifest:
    """What a folder says of itself.

    Raises:
        DataError: It is no index, an index that was not finished, or one of a newer version.
    """
    path = folder / MANIFEST
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(_why_none(folder)) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}; build the index again (toolenv index build)") from error
    version = record.get("version") if isinstance(record, dict) else None
    if not isinstance(version, int) or version < 1:
        raise DataError(f"{folder} is no search index of toolenv: {MANIFEST} has no version")
    if version != VERSION:
        age = "newer" if version > VERSION else "older"
        raise DataError(
            f"{folder}: an index of version {version}, {age} than the {VERSION} that this toolenv reads; "
            f"{'update toolenv' if version > VERSION else 'build it again (toolenv index build)'}"
        )
    try:
        encoder = record["encoder"]
        return Manifest(
            **{
                **record,
                "corpora": tuple(CorpusFile(**corpus) for corpus in record["corpora"]),
                "asked": Asked(**record["asked"]),
                "encoder": None if encoder is None else EncoderRecord(**encoder),
            }
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: was edited or damaged: {error}; build the index again") from error


def _why_none(folder: Path) -> str:
    if folder.with_name(folder.name + BUILDING).is_dir() or folder.name.endswith(BUILDING):
        return f"{folder}: an index that is not finished; run the same toolenv index build again, and it goes on"
    if not folder.exists():
        return f"there is no index {str(folder)!r}; toolenv index build makes one, toolenv index info lists them"
    if folder.is_file():
        return f"{folder} is a file, not the folder of an index; toolenv index build makes one of a corpus file"
    return f"{folder} is no search index of toolenv: it holds no {MANIFEST}"


def file_sha256(path: Path) -> str:
    """Of the bytes of a file.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
