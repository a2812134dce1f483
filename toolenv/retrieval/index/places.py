"""Where indexes are kept, and who may write there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree

from toolenv.errors import DataError
from toolenv.retrieval import RETRIEVERS
from toolenv.retrieval.corpus import CORPORA
from toolenv.retrieval.index.manifest import BUILDING, MANIFEST

_OLD = ".old"


def cache_folder() -> Path:
    """Where built indexes are kept: ``$TOOLENV_CACHE``, else ``~/.cache/toolenv``."""
    return Path(os.environ.get("TOOLENV_CACHE") or Path.home() / ".cache" / "toolenv")


def indexes_folder() -> Path:
    """Where indexes are built that were given no folder."""
    return cache_folder() / "indexes"


def default_place(corpus: str | Path, retriever: str, encoder: str, kind: str) -> Path:
    """Where the index of a corpus is built if no folder is named.

    Args:
        corpus: A file, or a name that ``toolenv fetch`` knows.
        retriever: ``"bm25"``, ``"faiss"`` or ``"hybrid"``.
        encoder: What ``make_encoder`` takes, or the name of an encoder.
        kind: A kind of FAISS index.

    Example:
        >>> default_place("wikipedia-2006", "hybrid", "minilm", "auto").name
        'wikipedia-2006-hybrid-minilm-auto'
    """
    if str(corpus) in CORPORA:
        name = str(corpus)
    else:
        path = Path(corpus).absolute()
        name = f"{_plain(path.name.split('.')[0])}-{_short(str(path))}"
    parts = [name, retriever] if retriever == "bm25" else [name, retriever, _plain(encoder), _plain(kind)]
    return indexes_folder() / "-".join(parts)


def found_index(index: str | Path) -> Path:
    """The folder of an index.

    Args:
        index: A folder; the name of one in ``indexes_folder()``; or the name of a corpus that has one index there.

    Raises:
        DataError: None of these, or a corpus that has several; says which indexes there are.
    """
    folder = Path(index)
    for place in (folder, indexes_folder() / folder):
        _recover(place)
    if folder.is_dir() or folder.with_name(folder.name + BUILDING).is_dir() or len(folder.parts) != 1:
        return folder
    here = indexes_folder()
    if (here / folder).is_dir() or (here / f"{folder}{BUILDING}").is_dir():
        return here / folder
    names = sorted(path.parent.name for path in here.glob(f"*/{MANIFEST}") if not path.parent.name.endswith(BUILDING))
    usual = default_place(str(index), "hybrid", "minilm", "auto").name
    of_it = re.compile(rf"{re.escape(str(index))}(-[0-9a-f]{{8}})?-({'|'.join(RETRIEVERS)})\b")
    of_corpus = [name for name in names if of_it.match(name)]
    if usual in of_corpus or len(of_corpus) == 1:
        return here / (usual if usual in of_corpus else of_corpus[0])
    if of_corpus:
        these = ", ".join(of_corpus)
        raise DataError(f"{str(index)!r} has {len(of_corpus)} indexes: {these}; name one of them in full")
    known = f"there are {', '.join(names)}" if names else f"none was built in {here} yet"
    raise DataError(f"there is no index {str(index)!r}; {known}; make one with: toolenv index build CORPUS")


@contextmanager
def one_builder(folder: Path, *, say: bool) -> Iterator[None]:
    """Hold the lock of an index folder, so that of several processes one builds and the others wait.

    Raises:
        OSError: The lock file cannot be written.
    """
    lock = folder.with_name(folder.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if say:
                print(f"another process builds {folder}; waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        finish_swap(folder)
        yield


def put_in_place(building: Path, folder: Path) -> None:
    """Move a finished index to its place; what opened the one that stood there goes on with it.

    Raises:
        OSError: A folder cannot be moved.
    """
    old = folder.with_name(folder.name + _OLD)
    if folder.exists():
        os.rename(folder, old)
    os.rename(building, folder)
    rmtree(old, ignore_errors=True)


def finish_swap(folder: Path) -> None:
    """Finish what a kill within ``put_in_place`` left half done."""
    old, building = folder.with_name(folder.name + _OLD), folder.with_name(folder.name + BUILDING)
    if old.exists() and not folder.exists():
        os.rename(building if (building / MANIFEST).exists() else old, folder)
    if old.exists():
        rmtree(old, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Finish a swap that was cut in two, so that what was built opens again."""
    if folder.name and not folder.exists() and folder.with_name(folder.name + _OLD).is_dir():
        with suppress(OSError), one_builder(folder, say=False):  # where nothing can be written, all stays as it is
            pass


def _plain(text: str) -> str:
    """A text as part of the name of a folder; what cannot stand in one is told apart by a hash."""
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:40]
    return plain if plain == text else f"{plain}-{_short(text)}".strip("-")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
