"""Opening, verifying and looking into indexes: what belongs together, and what is said where it does not."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agents import cli
from tests.retrieval_fakes import CORPUS, QUERIES, WordEncoder
from tests.test_index_build import ids, write
from toolenv import ConfigError, DataError, RetrieverError
from toolenv.retrieval import corpus_retriever
from toolenv.retrieval.base import LocalRetriever, Passage, ScoredRetriever
from toolenv.retrieval.hybrid import HybridRetriever
from toolenv.retrieval.index import FaissRetriever, PassageStore, build_index, index_info, open_index, verify_index
from toolenv.retrieval.index.manifest import MANIFEST

pytest.importorskip("faiss")
pytest.importorskip("bm25s")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A hybrid index with a FAISS file."""
    return build_index(
        write(tmp_path / "c.jsonl"), tmp_path / "index", encoder=WordEncoder(), kind="hnsw", progress=False
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOOLENV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("part", [None, "faiss", "bm25"])
def test_what_is_opened_is_a_retriever(folder: Path, part: str | None) -> None:
    retriever = open_index(folder, encoder=WordEncoder(), retriever=part)
    assert isinstance(retriever, LocalRetriever)
    assert isinstance(retriever, ScoredRetriever)
    assert copy.deepcopy(retriever) is retriever
    for query, hits in zip(QUERIES, retriever.search_scored(QUERIES, 4), strict=True):
        assert [hit.passage for hit in hits] == retriever.search([query], 4)[0]
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_identities_tell_apart_what_answers_otherwise(folder: Path, tmp_path: Path) -> None:
    opened = [open_index(folder, encoder=WordEncoder(), retriever=part) for part in (None, "faiss", "bm25")]
    other = build_index(
        tmp_path / "c.jsonl", tmp_path / "other", encoder=WordEncoder("w2"), kind="hnsw", progress=False
    )
    opened.append(open_index(other, encoder=WordEncoder("w2")))
    assert len({retriever.identity for retriever in opened}) == 4
    assert open_index(folder, encoder=WordEncoder()).identity == opened[0].identity


def test_a_dense_retriever_is_pickled_by_its_place(folder: Path) -> None:
    retriever = open_index(folder, encoder=WordEncoder(), retriever="faiss")
    again = pickle.loads(pickle.dumps(retriever))
    assert isinstance(again, FaissRetriever)
    assert ids(again) == ids(retriever)
    assert again.identity == retriever.identity  # the part's, not that of the whole: caches of queries go by it


FORKS = """
import os, signal, sys, time
from pathlib import Path
from tests.retrieval_fakes import CORPUS, QUERIES, WordEncoder
from toolenv.retrieval.index import FaissRetriever
retriever = FaissRetriever(CORPUS, WordEncoder(), Path(sys.argv[1]))
found = retriever.search(QUERIES, 3)
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if retriever.search(QUERIES, 3) == found else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_that_is_forked_after_a_search_can_search(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", FORKS, str(tmp_path)], cwd=ROOT, env=env, stderr=subprocess.PIPE)
    assert run.returncode == 0, run.stderr


def test_a_hybrid_retriever_goes_to_a_spawned_process(tmp_path: Path) -> None:
    folder = build_index(write(tmp_path / "c.jsonl"), tmp_path / "index", encoder=WordEncoder(), progress=False)
    retriever = open_index(folder, encoder=WordEncoder())
    sent = pickle.dumps(retriever)
    again = pickle.loads(sent)
    assert len(sent) < 5_000  # places, not passages
    assert again.identity == retriever.identity
    assert isinstance(retriever, HybridRetriever)
    assert again.dense.identity == retriever.dense.identity  # type: ignore[attr-defined]
    assert again.search_scored(QUERIES, 3) == retriever.search_scored(QUERIES, 3)
    build_index(write(tmp_path / "c.jsonl", CORPUS[:5]), folder, encoder=WordEncoder(), progress=False)
    with pytest.raises(RetrieverError, match="when this was pickled; open it anew"):
        pickle.loads(sent)


# What does not belong together -----------------------------------------------------------------------------------


def test_another_encoder_is_refused_by_both_names(folder: Path) -> None:
    with pytest.raises(ConfigError, match="built with the encoder 'words', and the encoder given is 'other'"):
        open_index(folder, encoder=WordEncoder("other"))
    with pytest.raises(ConfigError, match="its encoder 'words' cannot be made by name; give it"):
        open_index(folder)


def test_an_index_that_is_replaced_while_it_is_opened(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped: list[Path] = []

    def swapping(where: Path) -> PassageStore:
        if not swapped:
            swapped.append(
                build_index(tmp_path / "c.jsonl", where, encoder=WordEncoder("w2"), kind="hnsw", progress=False)
            )
        return PassageStore(where)

    monkeypatch.setattr("toolenv.retrieval.index.opening.PassageStore", swapping)
    with pytest.raises(ConfigError, match="built with the encoder 'w2', and the encoder given is 'words'"):
        open_index(folder, encoder=WordEncoder())


def test_a_corpus_that_was_edited_or_is_another_is_refused(folder: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "c.jsonl"
    open_index(folder, encoder=WordEncoder(), corpus=corpus)
    os.utime(corpus, (1, 1))  # touched, not edited
    open_index(folder, encoder=WordEncoder(), corpus=corpus)
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(corpus.read_bytes())
    open_index(folder, encoder=WordEncoder(), corpus=moved)
    size = corpus.stat().st_size
    corpus.write_bytes(corpus.read_bytes().replace(b"glacier", b"mailbox"))
    assert corpus.stat().st_size == size
    with pytest.raises(DataError, match=r"c\.jsonl was edited after the index .*index was built of it"):
        open_index(folder, encoder=WordEncoder(), corpus=corpus)
    other = write(tmp_path / "other.jsonl", CORPUS[:3])
    with pytest.raises(DataError, match=r"was built of .*c\.jsonl, not of .*other\.jsonl"):
        open_index(folder, encoder=WordEncoder(), corpus=other)


def test_a_part_that_was_not_built_is_refused(tmp_path: Path) -> None:
    words = build_index(write(tmp_path / "c.jsonl"), tmp_path / "index", retriever="bm25", progress=False)
    with pytest.raises(ConfigError, match="was built with retriever='bm25', and cannot serve as 'faiss'"):
        open_index(words, retriever="faiss")


# What is damaged -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["index.faiss", "vectors.f16", "passages.bin", "passages.rows", "bm25/rows.npy"])
def test_a_file_that_was_cut_short_is_named_with_its_bytes(folder: Path, name: str) -> None:
    whole = (folder / name).stat().st_size
    os.truncate(folder / name, whole - 7)
    with pytest.raises(DataError) as caught:
        open_index(folder, encoder=WordEncoder())
    said = str(caught.value)
    assert f"{name}: is cut short: {whole - 7:,} bytes, expected {whole:,}" in said
    assert "toolenv index verify" in said
    assert "toolenv index build" in said
    found = verify_index(folder, encoder=WordEncoder(), progress=False)
    assert [check.name for check in found.checks if not check.ok] == [name]
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: is missing"):
        open_index(folder, encoder=WordEncoder())


@pytest.mark.parametrize("name", ["index.faiss", "vectors.f16", "passages.bin", "passages.titles", "bm25/rows.npy"])
def test_verifying_finds_a_byte_that_changed(folder: Path, name: str) -> None:
    assert verify_index(folder, encoder=WordEncoder(), progress=False).ok
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    found = verify_index(folder, encoder=WordEncoder(), progress=False)
    assert not found.ok
    assert [check.name for check in found.checks if not check.ok] == [name]
    assert f"BAD  {name}" in str(found)
    assert "DAMAGED; toolenv index build makes it again" in str(found)


def test_verifying_finds_vectors_of_another_encoder(folder: Path) -> None:
    class Changed(WordEncoder):
        def _word(self, word: str):  # type: ignore[no-untyped-def]
            return super()._word(word + "!")

    found = verify_index(folder, encoder=Changed(), progress=False)
    assert [check.name for check in found.checks if not check.ok] == ["spot check of vectors"]
    unknown = verify_index(folder, progress=False)  # its encoder cannot be made by name
    assert unknown.ok
    assert "not done" in str(unknown)


def newer(manifest: dict[str, object]) -> object:
    return {**manifest, "version": 99}


def no_version(manifest: dict[str, object]) -> object:
    return {"files": {}}


def no_field(manifest: dict[str, object]) -> object:
    return {name: value for name, value in manifest.items() if name != "encoder"}


def other_passages(manifest: dict[str, object]) -> object:
    return {**manifest, "passages_sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (newer, "an index of version 99, newer than the 1 that this toolenv reads; update toolenv"),
        (no_version, "is no search index of toolenv: manifest.json has no version"),
        (no_field, "was edited or damaged: 'encoder'; build the index again"),
        (other_passages, "its passages are others than the index was built of"),
        (lambda manifest: [], "is no search index of toolenv"),
    ],
)
def test_a_manifest_that_does_not_fit(
    folder: Path, change: Callable[[dict[str, object]], object], message: str
) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=message):
        open_index(folder, encoder=WordEncoder())


def test_what_is_no_index_is_said(folder: Path, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.building").mkdir()
    (folder / MANIFEST).write_text("{")
    cases: list[tuple[str | Path, str]] = [
        (tmp_path / "empty", "is no search index of toolenv: it holds no manifest.json"),
        (tmp_path / "half", "an index that is not finished; run the same toolenv index build again"),
        (tmp_path / "none", "there is no index"),
        ("unheard-of", r"there is no index 'unheard-of'; none was built in .*indexes yet; make one with: toolenv"),
        (folder, "manifest.json: cannot be read"),
    ]
    for path, message in cases:
        with pytest.raises(DataError, match=message):
            open_index(path)


def test_an_index_that_is_cut_while_it_is_open_is_never_the_models_mistake(folder: Path) -> None:
    retriever = open_index(folder, encoder=WordEncoder(), retriever="faiss")
    os.truncate(folder / "passages.bin", 10)
    with pytest.raises(RetrieverError, match="no whole passage"):
        retriever.search(QUERIES, 3)


# Names -----------------------------------------------------------------------------------------------------------


def test_a_small_file_is_searched_without_an_index_on_disk(tmp_path: Path, cache: Path) -> None:
    corpus = write(tmp_path / "c.jsonl")
    first = corpus_retriever("bm25", corpus)
    assert corpus_retriever("bm25", corpus) is first
    assert [p.id for p in first.search(["glacier"], 1)[0]] == ["p2"]
    assert not cache.exists()
    write(corpus, CORPUS[:2])
    assert first.search(["glacier"], 1) != corpus_retriever("bm25", corpus).search(["glacier"], 1) == [[]]


def test_a_corpus_retriever_uses_the_index_that_is_there(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolenv.retrieval.index.build.SMALL", 3)
    corpus = write(tmp_path / "c.jsonl")
    first = corpus_retriever("bm25", corpus)
    folder = next((cache / "indexes").glob("c-*-bm25"))
    before = (folder / MANIFEST).stat().st_mtime_ns
    assert corpus_retriever("bm25", str(corpus)) is first
    assert open_index(folder) is open_index(folder.name)
    assert (folder / MANIFEST).stat().st_mtime_ns == before
    write(corpus, CORPUS[:4])
    assert len(corpus_retriever("bm25", corpus).passages) == 4  # type: ignore[attr-defined]
    assert len(open_index(folder.name).passages) == 4


def test_an_unknown_name_lists_the_indexes(tmp_path: Path, cache: Path) -> None:
    build_index(write(tmp_path / "c.jsonl"), retriever="bm25", progress=False)
    with pytest.raises(DataError, match=r"there is no index 'd'; there are c-[0-9a-f]{8}-bm25; make one with"):
        open_index("d")
    build_index(write(tmp_path / "c-more.jsonl", CORPUS[:3]), retriever="bm25", progress=False)
    assert len(open_index("c").passages) == 10
    assert len(open_index("c-more").passages) == 3
    build_index(tmp_path / "c.jsonl", encoder=WordEncoder(), progress=False)
    with pytest.raises(DataError, match=r"'c' has 2 indexes: c-.*-bm25, c-.*; name one of them in full"):
        open_index("c")


def test_a_build_that_is_interrupted_says_that_it_goes_on(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("toolenv.retrieval.index.build_index", interrupted)
    assert cli.main(["index", "build", str(write(tmp_path / "c.jsonl"))]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_opening_takes_neither_torch_nor_the_passages(folder: Path) -> None:
    program = (
        "import sys; from tests.retrieval_fakes import WordEncoder; from toolenv.retrieval import open_index;"
        f"index = open_index({str(folder)!r}, encoder=WordEncoder());"
        "print('torch' in sys.modules, 'transformers' in sys.modules);"
        f"maps = open('/proc/self/maps').read(); print(all({str(folder)!r} + '/' + name in maps for name in "
        "('passages.rows', 'vectors.f16')))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.stdout.split() == ["False", "False", "True"], run.stderr


# The command line ------------------------------------------------------------------------------------------------


def test_the_commands(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, more = write(tmp_path / "c.jsonl"), write(tmp_path / "d.jsonl", [Passage("new", "Alps", "Many peaks.")])
    out = tmp_path / "index"
    assert cli.main(["index", "info"]) == 0
    assert "no index was built in" in capsys.readouterr().out
    assert cli.main(["index", "build", str(corpus), "--retriever", "bm25"]) == 0
    built = capsys.readouterr().out.splitlines()
    name = Path(built[0]).name
    assert built[1] == f"use it: gymnasium.make('ToolSearchQA-v0', index={name!r})"
    assert cli.main(["index", "build", str(corpus), "--retriever", "bm25", "--output", str(out)]) == 0
    assert f"index={str(out)!r}" in capsys.readouterr().out
    assert cli.main(["index", "add", str(out), str(more)]) == 0
    capsys.readouterr()
    assert cli.main(["index", "info", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "passages   11" in shown
    assert str(more) in shown
    assert cli.main(["index", "info"]) == 0
    assert f"{name}" in capsys.readouterr().out
    assert cli.main(["index", "search", str(out), "peaks", "noble gas", "-k", "2"]) == 0
    shown = capsys.readouterr().out
    assert "Alps  [new]\n     Many peaks." in shown
    assert "Helium" in shown
    assert cli.main(["index", "search", name, "peaks", "gas", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"query": "peaks", "hits": []}
    assert {hit["id"] for hit in second["hits"]} == {"p4", "p5"}
    assert cli.main(["index", "verify", str(out)]) == 0
    os.truncate(out / "passages.bin", 5)
    assert cli.main(["index", "verify", str(out)]) == 1
    assert "BAD  passages.bin" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["info", "nothing"], 1, "there is no index 'nothing'"),
        (["build", "nothing.jsonl", "--retriever", "bm25"], 1, "nothing.jsonl"),
        (["search", "nothing", "x"], 1, "there is no index 'nothing'"),
        (["search", __file__, "x"], 1, "is a file, not the folder of an index"),
        (["build", __file__, "--recall", "95"], 2, "recall must be above 0 and at most 1"),
    ],
)
def test_what_goes_wrong_is_one_line(
    words: list[str], status: int, message: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["index", *words]) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("toolenv: ")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("memory", ["much", "0", "-1GB", "5.5XB"])
def test_an_amount_of_memory_is_a_number(memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["index", "build", "c.jsonl", f"--memory={memory}"])
    assert "must be an amount of memory, such as 5.5GB" in capsys.readouterr().err


def test_info_says_what_was_chosen_and_why(folder: Path) -> None:
    shown = str(index_info(folder))
    assert "words, 32 dimensions" in shown
    assert "hnsw (HNSW32,Flat)" in shown
    assert "asked for by name" in shown
    assert "recall     @1 1.000" in shown
