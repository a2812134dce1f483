"""Building indexes: what a kill, another process, a full disk or an edited corpus leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.retrieval_fakes import CORPUS, QUERIES, WordEncoder
from toolenv import ConfigError, DataError, RetrieverError
from toolenv.retrieval.base import Passage
from toolenv.retrieval.index import PassageStore, add_to_index, build_index, open_index
from toolenv.retrieval.index.manifest import MANIFEST, read_manifest

pytest.importorskip("faiss")
pytest.importorskip("bm25s")

ROOT = Path(__file__).resolve().parents[1]
MANY = [Passage(f"m{(i * 37) % 90:02d}", f"Title {i // 3}", f"{CORPUS[i % 10].text} number {i}") for i in range(90)]


def write(path: Path, passages: Iterable[Passage] = CORPUS) -> Path:
    lines = [json.dumps({"id": p.id, "title": p.title, "text": p.text}) for p in passages]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def ids(retriever: object, k: int = 3) -> list[list[str]]:
    return [[p.id for p in found] for found in retriever.search(QUERIES, k)]  # type: ignore[attr-defined]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class Slow(WordEncoder):
    """Fails at the given number of texts."""

    def __init__(self, texts: int) -> None:
        super().__init__()
        self.left = texts

    def encode(self, texts: Sequence[str], kind: str = "query") -> NDArray[np.float32]:
        self.left -= len(texts)
        if self.left < 0:
            raise KeyboardInterrupt
        return super().encode(texts, kind)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolenv.retrieval.index.encoding.BLOCK", 16)
    monkeypatch.setattr("toolenv.retrieval.index.encoding.CHUNK", 5)


@pytest.mark.parametrize("retriever", ["faiss", "bm25", "hybrid"])
def test_an_index_answers_as_the_retriever_in_memory(tmp_path: Path, retriever: str) -> None:
    from toolenv.retrieval.bm25 import BM25Retriever
    from toolenv.retrieval.hybrid import HybridRetriever
    from toolenv.retrieval.index import FaissRetriever

    corpus = write(tmp_path / "c.jsonl", CORPUS[::-1])
    folder = build_index(corpus, tmp_path / "index", retriever=retriever, encoder=WordEncoder(), progress=False)
    dense, lexical = FaissRetriever(CORPUS, WordEncoder(), tmp_path / "cache"), BM25Retriever(CORPUS)
    in_memory = {"faiss": dense, "bm25": lexical, "hybrid": HybridRetriever(dense, lexical)}[retriever]
    opened = open_index(folder, encoder=WordEncoder())
    assert ids(opened) == ids(in_memory)
    assert opened.passages == CORPUS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "cache", "index", "index.lock"]


def test_a_build_that_is_there_is_found_and_one_of_other_settings_replaces_it(tmp_path: Path) -> None:
    corpus, folder = write(tmp_path / "c.jsonl", MANY), tmp_path / "index"
    first, second, third = WordEncoder(), WordEncoder(), WordEncoder()
    build_index(corpus, folder, encoder=first, progress=False)
    before = (folder / MANIFEST).stat().st_mtime_ns
    build_index(corpus, folder, encoder=second, progress=False)
    assert (folder / MANIFEST).stat().st_mtime_ns == before
    build_index(corpus, folder, encoder=third, kind="hnsw", progress=False)
    assert read_manifest(folder).asked.kind == "hnsw"
    assert sum(first.batches) == len(MANY)
    assert second.batches == third.batches == []  # vectors are taken from the index that was there


def test_passages_that_were_edited_are_the_only_ones_encoded_again(tmp_path: Path) -> None:
    corpus, folder = write(tmp_path / "c.jsonl", MANY), tmp_path / "index"
    build_index(corpus, folder, encoder=WordEncoder(), progress=False)
    edited = [*MANY[1:-1], Passage(MANY[0].id, "Now", "other words"), Passage("a first", "", "glacier")]
    encoder = WordEncoder()
    build_index(write(corpus, edited), folder, encoder=encoder, progress=False)
    assert sum(encoder.batches) == 2
    fresh = build_index(corpus, tmp_path / "fresh", encoder=WordEncoder(), progress=False)
    assert contents(folder) == contents(fresh)


# Killed ----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys, traceback
from importlib import import_module
from pathlib import Path
from tests.retrieval_fakes import WordEncoder
from toolenv.retrieval.index import build_index, encoding
encoding.BLOCK, encoding.CHUNK = 16, 5
corpus, folders, *points = sys.argv[1:]

def build_until(module, name, calls):
    module, left = import_module(module), int(calls)
    original = getattr(module, name)
    def dying(*args, **kwargs):
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(module, name, dying)
    build_index(corpus, Path(folders) / name, encoder=WordEncoder(), kind="ivf-sq8", progress=False)

for point in points:
    if not (child := os.fork()):
        try:
            build_until(*point.split(":"))
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
POINTS = [
    "toolenv.retrieval.index.store_files:_record:40",
    "toolenv.retrieval.index.encoding:_save:2",
    "toolenv.retrieval.index.training:_add:0",
    "toolenv.retrieval.index.job:measure_recall:0",
    "toolenv.retrieval.bm25:build_on_disk:0",
    "toolenv.retrieval.index.job:file_sha256:3",
    "toolenv.retrieval.index.job:put_in_place:0",
]


def run_program(program: str, *words: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
    )


def test_a_build_that_is_killed_anywhere_goes_on_and_ends_the_same(
    tmp_path: Path, small_blocks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write(tmp_path / "c.jsonl", MANY)
    whole = build_index(corpus, tmp_path / "whole", encoder=WordEncoder(), kind="ivf-sq8", progress=False)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", KILLED, str(corpus), str(tmp_path), *POINTS]
    killed = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert killed.stdout.split() == ["-9"] * len(POINTS), killed.stderr
    for point in POINTS:
        folder = tmp_path / point.split(":")[1]
        encoder = WordEncoder()
        capsys.readouterr()
        build_index(corpus, folder, encoder=encoder, kind="ivf-sq8")
        said = capsys.readouterr().err
        assert contents(folder) == contents(whole), point
        assert not folder.with_name(folder.name + ".building").exists()
        assert not folder.with_name(folder.name + ".old").exists()
        encoded = {"_record": 90, "_save": 58}.get(folder.name, 0)  # two blocks of 16 were kept
        assert sum(encoder.batches) == encoded, point
        if folder.name == "_save":
            assert "going on: 32 of 90 passages are encoded" in said


def test_ctrl_c_keeps_what_was_encoded(tmp_path: Path, small_blocks: None) -> None:
    corpus, folder = write(tmp_path / "c.jsonl", MANY), tmp_path / "index"
    with pytest.raises(KeyboardInterrupt):
        build_index(corpus, folder, encoder=Slow(40), progress=False)
    with pytest.raises(DataError, match="not finished; run the same toolenv index build again"):
        open_index(folder)
    encoder = WordEncoder()
    build_index(corpus, folder, encoder=encoder, progress=False)
    assert sum(encoder.batches) == 90 - 32
    # Another corpus begins anew in what such a call left.
    with pytest.raises(KeyboardInterrupt):
        build_index(corpus, tmp_path / "other", encoder=Slow(40), progress=False)
    other = build_index(
        write(tmp_path / "d.jsonl", MANY[:50]), tmp_path / "other", encoder=(fresh := WordEncoder()), progress=False
    )
    assert sum(fresh.batches) == 50
    assert len(PassageStore(other)) == 50


def test_lists_of_vectors_that_are_no_more_are_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*of: object) -> None:
        raise KeyboardInterrupt

    corpus, folder = write(tmp_path / "c.jsonl", MANY), tmp_path / "index"
    with monkeypatch.context() as patched:
        patched.setattr("toolenv.retrieval.index.training._add", killed)
        with pytest.raises(KeyboardInterrupt):
            build_index(corpus, folder, encoder=WordEncoder(), kind="ivf-sq8", progress=False)
    edited = [Passage(passage.id, passage.title, passage.text[::-1]) for passage in MANY]  # as many as before
    build_index(write(corpus, edited), folder, encoder=WordEncoder(), kind="ivf-sq8", progress=False)
    fresh = build_index(corpus, tmp_path / "fresh", encoder=WordEncoder(), kind="ivf-sq8", progress=False)
    assert contents(folder) == contents(fresh)


def test_a_swap_that_was_cut_in_two_is_finished(tmp_path: Path) -> None:
    corpus, folder = write(tmp_path / "c.jsonl"), tmp_path / "index"
    build_index(corpus, folder, retriever="bm25", progress=False)
    whole = contents(folder)
    folder.rename(tmp_path / "index.old")  # killed after the first rename, the new one not whole
    (tmp_path / "index.building").mkdir()
    build_index(corpus, folder, retriever="bm25", progress=False)
    assert contents(folder) == whole
    assert not (tmp_path / "index.old").exists()
    shutil.copytree(
        folder, tmp_path / "index.building", dirs_exist_ok=True
    )  # killed between the two renames, the new one whole
    folder.rename(tmp_path / "index.old")
    assert len(open_index(folder).passages) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "index", "index.lock"]


def test_a_place_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write(tmp_path / "c.jsonl")
    (tmp_path / "index").mkdir()
    monkeypatch.chdir(tmp_path / "index")
    assert build_index(corpus, ".", retriever="bm25", progress=False) == tmp_path / "index"
    assert len(open_index(tmp_path / "index").passages) == 10


BUILDS = """
import sys
from pathlib import Path
from tests.retrieval_fakes import WordEncoder
from toolenv.retrieval.index import build_index
encoder = WordEncoder()
print("ready", file=sys.stderr, flush=True)
build_index(sys.argv[1], Path(sys.argv[2]), encoder=encoder, progress=False)
sys.exit(10 + bool(encoder.batches))
"""


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path: Path) -> None:
    corpus = write(tmp_path / "c.jsonl", MANY)
    both = [run_program(BUILDS, str(corpus), str(tmp_path / "index")) for _ in range(2)]
    assert sorted(process.wait(60) for process in both) == [10, 11]
    assert ids(open_index(tmp_path / "index", encoder=WordEncoder()))


def test_a_process_that_waits_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from threading import Thread

    from toolenv.retrieval.index.places import one_builder

    corpus, folder = write(tmp_path / "c.jsonl"), tmp_path / "index"
    with one_builder(folder, say=False):
        thread = Thread(target=build_index, args=(corpus, folder), kwargs={"retriever": "bm25"})
        thread.start()
        deadline = time.monotonic() + 30
        while "waiting for it" not in (said := capsys.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.01)
    thread.join(30)
    assert "another process builds" in said
    assert (folder / MANIFEST).exists()
    shutil.rmtree(folder)


# The disk --------------------------------------------------------------------------------------------------------


def test_too_little_room_is_said_before_the_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, encoder = write(tmp_path / "c.jsonl", MANY), WordEncoder()
    monkeypatch.setattr("toolenv.retrieval.index.job.shutil.disk_usage", lambda path: SimpleNamespace(free=9_000))
    with pytest.raises(RetrieverError, match=r"no room for the index .*about 133\.3 kB are needed .* 9\.0 kB are free"):
        build_index(corpus, tmp_path / "index", encoder=encoder, progress=False)
    assert encoder.batches == []
    assert not (tmp_path / "index.building").exists()


def test_a_disk_that_gets_full_is_an_error_and_keeps_what_was_done(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, folder = write(tmp_path / "c.jsonl", MANY), tmp_path / "index"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    encoder = WordEncoder()
    done = 0

    def synced(descriptor: int) -> None:
        nonlocal done
        done += 1
        if done > 3:
            full(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr("toolenv.retrieval.index.encoding.os.fsync", synced)
        with pytest.raises(
            RetrieverError, match=r"No space left on device; what was made so far is kept in index\.bui"
        ):
            build_index(corpus, folder, encoder=encoder, progress=False)
    encoder = WordEncoder()
    build_index(corpus, folder, encoder=encoder, progress=False)
    assert 0 < sum(encoder.batches) <= 90
    assert ids(open_index(folder, encoder=WordEncoder()))


# Bad input -------------------------------------------------------------------------------------------------------


def test_a_corpus_that_is_edited_during_the_build_is_noticed(tmp_path: Path) -> None:
    corpus = write(tmp_path / "c.jsonl", MANY)

    class Editing(WordEncoder):
        def encode(self, texts: Sequence[str], kind: str = "query") -> NDArray[np.float32]:
            write(corpus, MANY[:-1])
            return super().encode(texts, kind)

    with pytest.raises(DataError, match="was edited while its index was built"):
        build_index(corpus, tmp_path / "index", encoder=Editing(), progress=False)
    assert not (tmp_path / "index").exists()
    folder = build_index(corpus, tmp_path / "index", encoder=WordEncoder(), progress=False)
    assert read_manifest(folder).passages == len(MANY) - 1


def wrong_shape(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.ones((len(texts), 31), np.float32)


def no_numbers(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.full((len(texts), 32), np.nan, np.float32)


def broken(texts: Sequence[str]) -> NDArray[np.float32]:
    raise RuntimeError("device lost")


@pytest.mark.parametrize(
    ("gives", "message"),
    [(wrong_shape, r"gave shape \(10, 31\)"), (no_numbers, "no finite numbers"), (broken, "device lost")],
)
def test_an_encoder_that_fails_or_gives_no_vectors(
    tmp_path: Path, gives: Callable[[Sequence[str]], NDArray[np.float32]], message: str
) -> None:
    encoder = WordEncoder()
    encoder.encode = lambda texts, kind="query": gives(texts)  # type: ignore[method-assign]
    with pytest.raises(RetrieverError, match=message):
        build_index(write(tmp_path / "c.jsonl"), tmp_path / "index", encoder=encoder, progress=False)
    assert not (tmp_path / "index").exists()


def test_bad_settings_and_corpora_are_refused_before_the_work(tmp_path: Path) -> None:
    corpus = write(tmp_path / "c.jsonl")
    settings: list[tuple[dict[str, object], str]] = [
        ({"retriever": "dense"}, "unknown retriever 'dense'; choose one of bm25, faiss, hybrid"),
        ({"kind": "best"}, "'best' is no kind of index"),
        ({"recall": 0.0}, "recall must be above 0"),
        ({"memory_bytes": 0}, "memory_bytes must be at least 1"),
        ({"encoder": str(tmp_path / "nowhere")}, "nowhere"),
    ]
    for setting, message in settings:
        arguments = {"encoder": WordEncoder(), **setting}
        with pytest.raises((ConfigError, DataError, RetrieverError), match=message):
            build_index(corpus, tmp_path / "index", progress=False, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="say the folder"):
        build_index(CORPUS, progress=False)
    with pytest.raises(DataError, match="there is no corpus 'wikipedia-1066'"):
        build_index("wikipedia-1066", tmp_path / "index", retriever="bm25")
    twice = write(tmp_path / "twice.jsonl", [*CORPUS, CORPUS[2]])
    with pytest.raises(DataError, match="the passage id 'p2' twice, as passages number 3 and 11"):
        build_index(twice, tmp_path / "index", retriever="bm25", progress=False)
    assert not (tmp_path / "index").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    corpus, other = write(tmp_path / "c.jsonl"), write(tmp_path / "d.jsonl", CORPUS[:5])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something else than an index; name another folder"):
        build_index(corpus, tmp_path / "mine", retriever="bm25", progress=False)
    folder = build_index(corpus, tmp_path / "index", retriever="bm25", progress=False)
    with pytest.raises(ConfigError, match=r"holds an index of .*c\.jsonl; name another folder"):
        build_index(other, folder, retriever="bm25", progress=False)
    add_to_index(folder, write(tmp_path / "e.jsonl", MANY), progress=False)
    with pytest.raises(ConfigError, match=r"holds an index of .*c\.jsonl, .*e\.jsonl; name another folder"):
        build_index(corpus, folder, retriever="bm25", progress=False)
