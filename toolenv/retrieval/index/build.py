"""Building an index: passages, vectors, what searches them, words; each step is kept, and a killed build goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

from toolenv.data.assets import fetch, fetched
from toolenv.errors import ConfigError, DataError, RetrieverError
from toolenv.retrieval import RETRIEVERS
from toolenv.retrieval.base import Passage
from toolenv.retrieval.corpus import CORPORA, corpus_path, read_corpus
from toolenv.retrieval.encoders import Encoder, make_encoder
from toolenv.retrieval.index.choose import SMALL
from toolenv.retrieval.index.job import Job, Source, check_unchanged
from toolenv.retrieval.index.kinds import kind_of
from toolenv.retrieval.index.manifest import BUILDING, MANIFEST, Asked, CorpusFile, read_manifest
from toolenv.retrieval.index.opening import encoder_of
from toolenv.retrieval.index.places import default_place, found_index, one_builder
from toolenv.retrieval.index.store import PassageStore
from toolenv.retrieval.index.store_files import TEXTS, passages_sha256

SAMPLED = 500
"""Passages that are read to tell how many a file holds."""
UNPACKED = 3
"""How much larger a packed text is when it is unpacked, about."""


def build_index(
    corpus: str | Path | Iterable[Passage],
    folder: str | Path | None = None,
    *,
    retriever: str = "hybrid",
    encoder: str | Encoder = "minilm",
    kind: str = "auto",
    recall: float = 0.95,
    memory_bytes: int | None = None,
    progress: bool = True,
) -> Path:
    """Build the search index of a corpus, in bounded memory; or find that it is built.

    It is made in ``FOLDER.building`` and renamed when it is whole. A call that was killed goes on from there. Of
    several processes one builds, and the others wait for it. Where an index of the same corpus stands in the folder,
    vectors of passages that did not change are taken from it.

    Args:
        corpus: A corpus file (see ``read_corpus``); the name of one that ``toolenv fetch`` knows, which is fetched
            where it is not there; or passages, which need ``folder``.
        folder: Where to put the index; ``None``: ``$TOOLENV_CACHE/indexes``, under a name of corpus and settings.
        retriever: ``"faiss"`` (vectors), ``"bm25"`` (words) or ``"hybrid"`` (both).
        encoder: The encoder, or what ``make_encoder`` takes.
        kind: A kind of FAISS index, or a factory string; ``"auto"`` chooses by passages, memory and recall.
        recall: Part of the 3 nearest passages that a search should find.
        memory_bytes: Memory that the FAISS index may take; ``None``: a quarter of what the machine has.
        progress: Whether to say on stderr what is done, and how far it is.

    Returns:
        The folder, for ``open_index``.

    Raises:
        ConfigError: Settings that do not fit, or the folder holds something else.
        DataError: The corpus cannot be read, has an id twice, or was edited meanwhile.
        RetrieverError: The disk is full, or the encoder failed; what was done is kept.
        MissingExtraError: What the index needs is not installed.

    Example:
        >>> import tempfile
        >>> corpus = [Passage("a", "Lyon", "A city."), Passage("b", "Rhone", "A river.")]
        >>> index = build_index(corpus, Path(tempfile.mkdtemp()) / "index", retriever="bm25", progress=False)
        >>> from toolenv.retrieval import open_index
        >>> open_index(index).search(["river"], k=1)[0][0].id
        'b'
    """
    asked = Asked(retriever, kind, recall, memory_bytes)
    if retriever not in RETRIEVERS:
        raise ConfigError(f"unknown retriever {retriever!r}; choose one of {', '.join(RETRIEVERS)}")
    if not 0 < recall <= 1:
        raise ConfigError(f"recall must be above 0 and at most 1, a part of the passages to find; got {recall}")
    made = None if retriever == "bm25" else make_encoder(encoder)
    if made is not None and kind != "auto":
        kind_of(kind, made.dimension)  # a kind that does not exist is said before the work begins
    path = None
    if isinstance(corpus, str | Path):
        path = _there(corpus, progress)
        name = encoder if isinstance(encoder, str) else encoder.name
        place = _absolute(folder) if folder is not None else default_place(corpus, retriever, name, kind)
        if _is_built(place, path, asked, made):
            return place
    elif folder is not None:
        place = _absolute(folder)
    else:
        raise ConfigError("passages that are given in memory have no name: say the folder for their index")
    with _alone(place, progress):
        if path is not None and _is_built(place, path, asked, made):  # by the process that this one waited for
            return place
        return Job(place, _of(corpus, progress), asked, made, progress).run()


def built_index(corpus: str | Path, retriever: str) -> Path | None:
    """The index of a corpus in its usual place, with the usual settings, if it was built and the corpus is the same.

    Raises:
        DataError: The corpus is not there.
    """
    place = default_place(corpus, retriever, "minilm", "auto")
    if not (place / MANIFEST).exists():
        return None
    encoder = None if retriever == "bm25" else make_encoder("minilm")
    return place if _is_built(place, corpus_path(corpus), Asked(retriever), encoder) else None


def is_small(path: Path) -> bool:
    """Whether a corpus is so small that searching it needs no index on disk.

    Raises:
        DataError: It cannot be read.
    """
    return _about(path, path.stat().st_size if path.exists() else 0)[0] <= SMALL


def add_to_index(
    index: str | Path,
    corpus: str | Path | Iterable[Passage],
    *,
    encoder: str | Encoder | None = None,
    progress: bool = True,
) -> Path:
    """Add passages to an index, without encoding again what it holds; their ids must be new to it.

    The larger index is made aside and put in place when it is whole: until then, and if the call is killed, the index
    stays as it was. What has it open goes on with the smaller one.

    Args:
        index: As for ``open_index``.
        corpus: As for ``build_index``.
        encoder: As for ``open_index``.
        progress: As for ``build_index``.

    Returns:
        The folder of the index.

    Raises:
        ConfigError: The encoder is another than the one that made the vectors, or cannot be made.
        DataError: There is no index, the corpus cannot be read, or an id of it is in the index already.
        RetrieverError: As for ``build_index``.
        MissingExtraError: What the index needs is not installed.
    """
    folder = found_index(index)
    with _alone(folder, progress):
        manifest = read_manifest(folder)
        manifest.check_sizes(folder)
        old = PassageStore(folder)
        made = None if manifest.encoder is None else encoder_of(folder, manifest, encoder)
        new = _of(corpus, progress)

        def both() -> Iterator[Passage]:
            yield from (passage for _, passage in old.in_file_order())
            yield from new.passages()

        source = Source(
            both, (*manifest.corpora, *new.corpora), f"{old.sha256} {new.key}", len(old) + new.about,
            (folder / TEXTS).stat().st_size + new.text_bytes,
        )  # fmt: skip
        return Job(folder, source, manifest.asked, made, progress).run()


def build_in_cache(passages: Sequence[Passage], folder: Path, encoder: Encoder, kind: str) -> Path:
    """The index of passages in memory, in a folder that is named after them; built where it is not there or damaged.

    Raises:
        DataError: No passage, or two with one id.
        RetrieverError: The index cannot be written, or the encoder failed.
    """
    if not _is_whole(folder, encoder):
        with _alone(folder, say=True):
            if not _is_whole(folder, encoder):
                Job(folder, _of(passages, say=True), Asked("faiss", kind), encoder, progress=True, brief=True).run()
    return folder


def _absolute(folder: str | Path) -> Path:
    """A place that has a name, which "." and ".." have not: what is written beside it is named after it."""
    return Path(os.path.abspath(folder))


def _is_whole(folder: Path, encoder: Encoder | None) -> bool:
    """Whether an index of this encoder stands there, with all its files."""
    try:
        manifest = read_manifest(folder)
        manifest.check_sizes(folder)
    except DataError:
        return False
    return (manifest.encoder and manifest.encoder.name) == (encoder and encoder.name)


def _is_built(folder: Path, path: Path, asked: Asked, encoder: Encoder | None) -> bool:
    """Whether an index of this very file and these settings stands there."""
    if not _is_whole(folder, encoder):
        return False
    found = read_manifest(folder)
    return found.asked == asked and len(found.corpora) == 1 and found.corpora[0].is_same(path)


@contextmanager
def _alone(folder: Path, say: bool) -> Iterator[None]:
    """Be the one that builds in a folder; what the disk refuses is an error that says what was kept."""
    try:
        with one_builder(folder, say=say):
            yield
    except OSError as error:
        raise RetrieverError(
            f"cannot write the search index {folder}: {error}; what was made so far is kept in "
            f"{folder.name}{BUILDING}, and the same call goes on from there"
        ) from error


def _of(corpus: str | Path | Iterable[Passage], say: bool) -> Source:
    """Where the passages come from."""
    if isinstance(corpus, str | Path):
        path = _there(corpus, say)
        file = CorpusFile.of(corpus, path)
        about, text_bytes = _about(path, file.bytes)
        return Source(partial(_read_unchanged, path, file), (file,), file.sha256, about, text_bytes)
    passages = tuple(corpus) if not isinstance(corpus, PassageStore) else corpus
    text_bytes = sum(len(passage.contents) for passage in passages)
    return Source(lambda: passages, (), passages_sha256(passages), len(passages), text_bytes)


def _read_unchanged(path: Path, file: CorpusFile) -> Iterator[Passage]:
    """The passages of a file; an error where it is edited while it is read."""
    yield from read_corpus(path)
    check_unchanged((file,))


def _there(corpus: str | Path, say: bool) -> Path:
    """The file of a corpus, fetched where it is one that can be."""
    if isinstance(corpus, str) and corpus in CORPORA:
        try:
            fetched(corpus)
        except DataError:
            fetch(corpus, say=lambda line: _say(line, say))
    return corpus_path(corpus)


def _about(path: Path, file_bytes: int) -> tuple[int, int]:
    """About how many passages a file holds, and how many bytes they are."""
    unpacked = file_bytes * (UNPACKED if path.suffix == ".gz" else 1)
    sizes = [len(passage.contents.encode("utf-8", "replace")) for passage in islice(read_corpus(path), SAMPLED)]
    if len(sizes) < SAMPLED:
        return len(sizes), sum(sizes)
    return int(unpacked / (sum(sizes) / len(sizes))), unpacked


def _say(text: str, say: bool) -> None:
    if say:
        print(text, file=sys.stderr, flush=True)
