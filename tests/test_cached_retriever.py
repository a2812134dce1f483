"""The cache of queries: the same answers, fewer questions, and never a reason for a search to fail."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import sqlite3
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from toolenv import ConfigError, RetrieverError
from toolenv.retrieval.base import Hit, Passage, Retriever, ScoredRetriever
from toolenv.retrieval.cached import CachedRetriever
from toolenv.retrieval.query_file import QueryFile

pytestmark = pytest.mark.core


class Counting:
    """Finds passages that are made of the query, and counts its calls."""

    def __init__(self, identity: str = "one", fails: bool = False) -> None:
        self.identity, self.fails = identity, fails
        self.calls: list[list[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.calls.append(list(queries))
        if self.fails:
            raise RetrieverError("down")
        return [[Passage(f"{self.identity}-{place}", query, "é\ud800") for place in range(k)] for query in queries]


class Scored(Counting):
    scores = "made up"
    passages = (Passage("p", "", "x"),)

    def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(passage, 0.1 * len(query)) for passage in found] for query, found in self._pairs(queries, k)]

    def _pairs(self, queries: Sequence[str], k: int) -> list[tuple[str, list[Passage]]]:
        return list(zip(queries, self.search(queries, k), strict=True))


@pytest.fixture(params=["memory", "file"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "deep" / "queries.sqlite" if request.param == "file" else None


def test_the_same_passages_and_only_what_is_missing_in_one_call(path: Path | None) -> None:
    inner = Counting()
    cached = CachedRetriever(inner, path=path)
    assert isinstance(cached, Retriever)
    assert cached.search(["a", "b", "a"], 2) == Counting().search(["a", "b", "a"], 2)
    assert cached.search(["c", "b", "c", "d"], 2) == Counting().search(["c", "b", "c", "d"], 2)
    assert inner.calls == [["a", "b"], ["c", "d"]]
    assert cached.search(["a"], 1) == Counting().search(["a"], 1)  # another k is another question
    assert inner.calls[2:] == [["a"]]
    assert (cached.search([], 3), len(inner.calls), cached.num_asked) == ([], 3, 5)
    with pytest.raises(ConfigError, match="k must be at least 1"):
        cached.search(["a"], 0)


def test_any_text_is_a_query(path: Path | None) -> None:
    queries = ["", "\x00", "\ud800", "x" * 1_000_000, "a", "A", " a"]
    inner = Counting()
    cached = CachedRetriever(inner, path=path)
    first = cached.search(queries, 1)
    assert first == Counting().search(queries, 1) == cached.search(queries, 1)
    assert len(inner.calls) == 1
    if path is not None:
        assert CachedRetriever(Counting(fails=True), path=path).search(queries, 1) == first


def test_what_the_caller_does_to_an_answer_stays_with_the_caller() -> None:
    cached = CachedRetriever(Counting())
    cached.search(["a"], 2)[0].clear()
    assert len(cached.search(["a"], 2)[0]) == 2


def test_failures_are_not_kept(path: Path | None) -> None:
    inner = Counting(fails=True)
    cached = CachedRetriever(inner, path=path)
    for _ in range(2):
        with pytest.raises(RetrieverError, match="down"):
            cached.search(["a"], 1)
    inner.fails = False
    assert cached.search(["a"], 1) == Counting().search(["a"], 1)

    inner.search = lambda queries, k: []  # type: ignore[method-assign]
    with pytest.raises(RetrieverError, match="gave 0 answers to 1 queries"):
        cached.search(["b"], 1)


def test_memory_keeps_what_was_used_last() -> None:
    inner = Counting()
    cached = CachedRetriever(inner, size=2)
    for query in ("a", "b", "a", "c"):
        cached.search([query], 1)
    cached.search(["a", "c"], 1)
    assert inner.calls == [["a"], ["b"], ["c"]]
    cached.search(["b"], 1)
    assert inner.calls[3:] == [["b"]]
    with pytest.raises(ConfigError, match="size must be at least 1"):
        CachedRetriever(inner, size=0)


def test_all_else_is_the_retrievers() -> None:
    scored, plain = CachedRetriever(Scored()), CachedRetriever(Counting())
    assert isinstance(scored, ScoredRetriever)
    assert not isinstance(plain, ScoredRetriever)
    assert (scored.scores, scored.passages, scored.identity) == ("made up", Scored.passages, "one")
    assert not hasattr(plain, "passages")
    with pytest.raises(ConfigError, match="gives no scores"):
        plain.search_scored(["a"], 1)
    assert scored.search_scored(["abc"], 1) == Scored().search_scored(["abc"], 1) == scored.search_scored(["abc"], 1)
    assert scored.search(["abc"], 1) == Scored().search(["abc"], 1)
    assert scored.num_asked == 1
    assert copy.deepcopy(scored) is scored
    assert pickle.loads(pickle.dumps(scored)).search(["abc"], 1) == scored.search(["abc"], 1)


# The file ---------------------------------------------------------------------------------------------------------


def test_a_later_run_finds_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "queries.sqlite"
    want = CachedRetriever(Scored(), path=path).search_scored(["a", "b"], np.int64(3))  # type: ignore[arg-type]
    assert CachedRetriever(Scored("one", fails=True), path=path).search_scored(["b", "a"], 3) == want[::-1]
    other = Scored("two")
    assert CachedRetriever(other, path=path).search_scored(["a"], 3)[0][0].passage.id == "two-0"
    named = Counting("")
    with pytest.raises(ConfigError, match="has no identity"):
        CachedRetriever(named, path=path)
    assert CachedRetriever(named, path=path, identity="mine").search(["a"], 1)[0][0].id == "-0"


def test_the_file_keeps_what_was_written_last(tmp_path: Path) -> None:
    file = QueryFile(tmp_path / "queries.sqlite", max_queries=3)
    for number in range(1200):
        file.put({b"%d" % number: str(number)})
    assert file.get([b"%d" % number for number in range(1200)]) == {b"1197": "1197", b"1198": "1198", b"1199": "1199"}
    file.put({b"1197": "again"})
    file.put({b"new": "new"})
    assert file.get([b"1197", b"1198"]) == {b"1197": "again"}


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "not a database": lambda data: b"garbage " * 1000,
    "a page overwritten": lambda data: data[:4096] + b"\xff" * 4096 + data[8192:],
    "cut": lambda data: data[:5000],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_set_aside_and_begun_anew(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "queries.sqlite"
    file = QueryFile(path)
    file.put({b"%d" % number: "x" * 1000 for number in range(100)})
    file.close()
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    inner = Counting()
    cached = CachedRetriever(inner, path=path)
    with pytest.warns(UserWarning, match="was damaged"):
        assert cached.search(["a"], 1) == Counting().search(["a"], 1)
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1
    assert CachedRetriever(Counting(fails=True), path=path).search(["a"], 1) == cached.search(["a"], 1)


def test_an_answer_that_the_disk_changed_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "queries.sqlite"
    want = CachedRetriever(Counting(), path=path).search(["a"], 1)
    for answer in ("[[1", "[[1]]", "7", b"\xff\xfe"):
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("UPDATE found SET answer = CAST(? AS TEXT)", [answer])
        connection.close()
        inner = Counting()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert CachedRetriever(inner, path=path).search(["a"], 1) == want
        assert inner.calls == [["a"]]
        assert CachedRetriever(Counting(fails=True), path=path).search(["a"], 1) == want


def test_a_full_disk_fails_no_search(tmp_path: Path) -> None:
    inner = Counting()
    cached = CachedRetriever(inner, size=1, path=tmp_path / "queries.sqlite")
    assert cached.search(["a"], 1)
    assert cached._file is not None
    cached._file._open().execute("PRAGMA max_page_count = 5")  # SQLite's own "database or disk is full"
    queries = [f"{number} {'x' * 500}" for number in range(100)]
    with pytest.warns(UserWarning, match="is full") as caught:
        found = [cached.search([query], 1)[0][0].title for query in queries]
    assert (found, len(caught)) == (queries, 1)
    assert cached.search(["a"], 1)[0][0].id == "one-0"
    assert inner.calls[-1] != ["a"]  # what was written before is still found


@pytest.mark.parametrize("place", ["a folder", "under a file"])
def test_a_place_that_cannot_hold_a_file_fails_no_search(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path if place == "a folder" else tmp_path / "file" / "queries.sqlite"
    cached = CachedRetriever(Counting(), path=path)
    with pytest.warns(UserWarning, match="searches go on without it"):
        assert cached.search(["a"], 1) == Counting().search(["a"], 1)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_file_that_another_process_holds_fails_no_search(tmp_path: Path) -> None:
    path = tmp_path / "queries.sqlite"
    file = QueryFile(path, busy_timeout_s=0.05)
    file.put({b"a": "1"})
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.warns(UserWarning, match="locked"):
        file.put({b"b": "2"})
    assert file.get([b"a", b"b"]) == {b"a": "1"}
    holder.execute("ROLLBACK")
    holder.close()
    file.put({b"b": "2"})
    assert file.get([b"a", b"b"]) == {b"a": "1", b"b": "2"}


def test_many_threads_share_a_cache(tmp_path: Path) -> None:
    cached = CachedRetriever(Counting(), size=7, path=tmp_path / "queries.sqlite")
    wrong: list[object] = []

    def ask(first: int) -> None:
        for number in range(first, first + 40):
            queries = [str(number % 20), str(number % 13)]
            if cached.search(queries, 2) != Counting().search(queries, 2):
                wrong.append(queries)

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(cached._kept) == 7


FORKS = pytest.mark.skipif(sys.platform != "linux", reason="forks")


def forked(work: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # on forks of processes with threads
        process.start()
    return process


def _ask_much(path: Path, number: int) -> None:
    warnings.simplefilter("error")
    for start in range(3):
        cached = CachedRetriever(Counting(), size=1, path=path)
        for place in range(50):
            queries = [f"{place}", f"own {number} {start} {place}"]
            assert cached.search(queries, 2) == Counting().search(queries, 2)


@FORKS
def test_many_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "queries.sqlite"
    processes = [forked(_ask_much, path, number) for number in range(4)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    queries = [f"own {number} {start} {place}" for number in range(4) for start in range(3) for place in range(50)]
    assert CachedRetriever(Counting(fails=True), path=path).search(queries, 2) == Counting().search(queries, 2)


def _put_and_get(file: QueryFile) -> None:
    file.put({b"child": "1"})
    assert file.get([b"parent"]) == {b"parent": "1"}


@FORKS
def test_a_forked_process_opens_the_file_for_itself(tmp_path: Path) -> None:
    file = QueryFile(tmp_path / "queries.sqlite")
    file.put({b"parent": "1"})
    child = forked(_put_and_get, file)
    child.join()
    assert child.exitcode == 0
    file.put({b"parent": "2"})
    assert file.get([b"parent", b"child"]) == {b"parent": "2", b"child": "1"}
