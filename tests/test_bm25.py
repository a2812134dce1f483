"""BM25 on disk: the library's scores, the same from every process, and no passage lost on the way to the best."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolenv import ConfigError, DataError, RetrieverError
from toolenv.retrieval import bm25_build, postings
from toolenv.retrieval.base import Passage, Retriever, ScoredRetriever
from toolenv.retrieval.bm25 import MAX_QUERY_CHARS, BM25Retriever, words
from toolenv.seeding import rng

bm25s = pytest.importorskip("bm25s")

FEW = [
    Passage("a", "Lyon", "A city in France where the Rhône meets the Saône."),
    Passage("b", "", "😀 🎉"),  # no word
    Passage("c", "Rhône", "A river, a river, a river."),
]


def zipf_corpus(passages: int, vocabulary: int = 300) -> list[Passage]:
    """Passages of words as rare as those of a language: few of them make most of the text."""
    random = rng(3)
    shares = 1.0 / np.arange(1, vocabulary + 1)
    texts = [
        " ".join(f"w{n}" for n in random.choice(vocabulary, size=random.integers(1, 40), p=shares / shares.sum()))
        for _ in range(passages)
    ]
    return [Passage(f"{i:05d}", "", text) for i, text in enumerate(texts)]


MANY = zipf_corpus(3_000)
QUERIES = ["w0", "w250", "w0 w1 w2 w3", "w0 w17 w123 w299", "w5 w5 w5 w80", "nothing known", "", "w0 " * 50 + "w200"]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks and blocks, so that what joins them is tested."""
    monkeypatch.setattr(bm25_build, "CHUNK", 700)
    monkeypatch.setattr(postings, "BLOCKS", (64, 256))


class Store(Sequence[Passage]):
    """What a store of passages shows of itself: a hash, and one passage at a time."""

    def __init__(self, passages: Sequence[Passage], sha256: str) -> None:
        self._passages, self.sha256 = passages, sha256

    def __len__(self) -> int:
        return len(self._passages)

    def __getitem__(self, row):  # type: ignore[no-untyped-def]
        return self._passages[row]


def results(retriever: BM25Retriever) -> list[list[tuple[str, float]]]:
    return [[(hit.passage.id, hit.score) for hit in hits] for hits in retriever.search_scored(QUERIES, 7)]


@pytest.fixture(scope="module")
def library() -> Any:
    """The library's own index of ``MANY``."""
    index = bm25s.BM25(k1=0.9, b=0.4)
    index.index([words(passage.contents) for passage in MANY], show_progress=False)
    return index


def test_every_stored_score_is_the_librarys_to_the_last_bit(library: Any) -> None:
    index = library
    ours = bm25_build.build_in_memory(MANY, postings.Settings(0.9, 0.4))
    assert len(ours) == len(index.vocab_dict) - 1  # bm25s has an empty word, too
    for number in range(len(ours)):
        theirs = index.vocab_dict[ours[number].decode()]
        mine = slice(ours.starts[number], ours.starts[number + 1])
        place = slice(index.scores["indptr"][theirs], index.scores["indptr"][theirs + 1])
        np.testing.assert_array_equal(ours.rows[mine], index.scores["indices"][place])
        np.testing.assert_array_equal(ours.scores[mine], index.scores["data"][place])
        assert ours.peaks[number] == ours.scores[mine].max()


@pytest.mark.parametrize("k", [1, 3, 100, 5_000])
def test_no_passage_is_lost_by_what_is_not_summed(k: int, library: Any) -> None:
    retriever = BM25Retriever(MANY)
    for query in QUERIES:
        full = np.round(retriever.score([query], [np.arange(len(MANY))])[0], 6)
        if known := library.get_tokens_ids(words(query)):
            np.testing.assert_allclose(full, library.get_scores_from_ids(known), atol=2e-4)
        order = np.lexsort((np.arange(len(MANY)), -full))
        want = [MANY[row].id for row in order[:k] if full[row] > 0]
        assert [passage.id for passage in retriever.search([query], k)[0]] == want


def test_fewer_passages_are_looked_at_than_share_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    index = BM25Retriever(MANY)._postings
    summed: list[int] = []
    real = postings.Postings._sum

    def counting(self, terms, bounds, base):  # type: ignore[no-untyped-def]
        summed.append(sum(int(bound[1] - bound[0]) for bound in bounds))
        return real(self, terms, bounds, base)

    monkeypatch.setattr(postings.Postings, "_sum", counting)
    terms = index.terms(["w0", "w1", "w2", "w299"])
    found = index.top(terms, 3)
    all_of_them = sum(int(index.starts[n + 1] - index.starts[n]) for n, _ in terms)
    assert len(found) >= 3
    assert sum(summed) < all_of_them / 4


def test_from_disk_and_from_memory_score_the_same(tmp_path: Path) -> None:
    memory = BM25Retriever(MANY)
    memory.save(tmp_path / "saved")
    BM25Retriever.build(iter(MANY), tmp_path / "built")
    for folder in ("saved", "built"):
        opened = BM25Retriever.open(tmp_path / folder, MANY)
        assert results(opened) == results(memory)
        assert isinstance(opened, Retriever)
        assert isinstance(opened, ScoredRetriever)
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "built").iterdir())
    for name in names:
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "built" / name).read_bytes()


def _results_elsewhere(retriever: BM25Retriever) -> list[list[tuple[str, float]]]:
    return results(retriever)


def test_another_process_finds_the_same(tmp_path: Path) -> None:
    BM25Retriever.build(MANY, tmp_path)
    opened = BM25Retriever.open(tmp_path, MANY)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_results_elsewhere, (opened,)) == results(opened)


def test_an_opened_index_travels_as_its_folder(tmp_path: Path) -> None:
    BM25Retriever.build(FEW, tmp_path)
    opened = BM25Retriever.open(tmp_path, FEW)
    opened.identity = "x"
    sent = pickle.dumps(opened)
    assert tmp_path.name.encode() in sent
    assert pickle.loads(sent).search(["river"], 1) == opened.search(["river"], 1)
    assert pickle.loads(sent).identity == "x"
    assert pickle.loads(pickle.dumps(BM25Retriever(FEW))).search(["river"], 1) == opened.search(["river"], 1)


def test_a_mapped_index_is_not_read_into_memory(tmp_path: Path) -> None:
    BM25Retriever.build(MANY, tmp_path)
    opened = BM25Retriever.open(tmp_path, MANY)
    assert opened.search(["w3"], 1)
    for name in postings.ARRAYS:
        assert not getattr(opened._postings, name).flags.owndata
    if Path("/proc/self/maps").exists():
        assert str(tmp_path / "rows.npy") in Path("/proc/self/maps").read_text()


def test_a_corpus_without_a_word_finds_nothing(tmp_path: Path) -> None:
    BM25Retriever.build(FEW[1:2], tmp_path)
    opened = BM25Retriever.open(tmp_path, FEW[1:2])
    assert opened.search(["😀", "river"], 3) == [[], []]
    assert opened.score(["river"], [np.array([0])])[0].tolist() == [0.0]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (" ".join(f"w{n}" for n in range(4_000)), True),  # of words that differ
        ("w7 " * 4_000, True),
        ("😀🎉", False),
        ("\x00", False),
        ("\x00w7\x00", True),
        ("\ud800 w7", True),
        ("w" * 100_000, False),
        ("w7" + " " * MAX_QUERY_CHARS, True),
    ],
)
def test_hostile_queries(query: str, found: bool) -> None:
    retriever = BM25Retriever(MANY)
    hits = retriever.search_scored([query, "w7"], 5)
    assert len(hits[0]) == (5 if found else 0)
    assert hits[1] == retriever.search_scored(["w7"], 5)[0]
    assert all(np.isfinite(hit.score) and hit.score > 0 for hit in hits[0])


def test_a_word_that_stands_twice_counts_twice() -> None:
    retriever = BM25Retriever(MANY)
    rows = [np.arange(len(MANY))]
    np.testing.assert_allclose(retriever.score(["w7 w7"], rows)[0], 2 * retriever.score(["w7"], rows)[0])


def test_another_corpus_is_refused_by_number_and_by_hash(tmp_path: Path) -> None:
    BM25Retriever.build(Store(FEW, "aa" * 32), tmp_path)
    assert BM25Retriever.open(tmp_path, Store(FEW, "aa" * 32)).search(["river"], 1)
    assert BM25Retriever.open(tmp_path, FEW).search(["river"], 1)  # a list has no hash to compare
    with pytest.raises(RetrieverError, match="over 3 passages, and the corpus has 2"):
        BM25Retriever.open(tmp_path, FEW[:2])
    with pytest.raises(RetrieverError, match="sha256 aaaaaaaaaaaa where the corpus has bbbbbbbbbbbb"):
        BM25Retriever.open(tmp_path, Store(FEW, "bb" * 32))


@pytest.mark.parametrize("name", [*(f"{array}.npy" for array in postings.ARRAYS), "settings.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "of another index"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "index"
    BM25Retriever.build(MANY[:50], folder)
    path = folder / name
    if damage == "of another index":
        if name == "settings.json":
            path.write_text(path.read_text().replace('"version": 1', '"version": 99'))
        else:
            BM25Retriever.build(MANY[:20], tmp_path / "other")
            os.replace(tmp_path / "other" / name, path)
    else:
        data = path.read_bytes()
        path.unlink()
        if damage == "cut":
            path.write_bytes(data[: len(data) // 2])
    with pytest.raises(RetrieverError, match=f"cannot use the BM25 index in {folder}.*; build it again"):
        BM25Retriever.open(folder, MANY[:50])


def test_a_build_that_stops_leaves_nothing_to_open(tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield from MANY[:1_500]
        raise DataError("line 1501 is no passage")

    with pytest.raises(DataError, match="1501"):
        BM25Retriever.build(broken(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="empty"):
        BM25Retriever.build([], tmp_path)
    with pytest.raises(RetrieverError, match="build it again"):
        BM25Retriever.open(tmp_path, [])


def test_building_says_how_far_it_is(tmp_path: Path) -> None:
    told: list[int] = []
    BM25Retriever.build(MANY, tmp_path, counted=told.append)
    assert told == [700, 1_400, 2_100, 2_800, 3_000]


def test_stems_are_found_from_memory_and_from_disk(tmp_path: Path) -> None:
    pytest.importorskip("Stemmer")
    BM25Retriever.build(FEW, tmp_path / "stems", stemmer="english")
    BM25Retriever.build(FEW, tmp_path / "words")
    stems, plain = (BM25Retriever.open(tmp_path / name, FEW) for name in ("stems", "words"))
    assert [p.id for p in stems.search(["rivers meeting cities"], 3)[0]] == ["a", "c"]
    assert plain.search(["rivers meeting cities"], 3) == [[]]
    assert results(BM25Retriever(FEW, stemmer="english")) == results(stems)
    with pytest.raises(ConfigError, match=r"unknown stemmer 'klingon'; choose one of .*english"):
        BM25Retriever(FEW, stemmer="klingon")


def test_a_full_disk_is_an_error_and_no_end_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    BM25Retriever.build(MANY, tmp_path)  # one that is written over
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        BM25Retriever.build(MANY, tmp_path)
    with pytest.raises(RetrieverError, match="build it again"):
        BM25Retriever.open(tmp_path, MANY)
