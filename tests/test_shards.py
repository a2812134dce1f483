"""Shards give what one index gives; replicas lose no answer when one of them dies."""

from __future__ import annotations

import copy
import pickle
import signal
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_fakes import CORPUS, QUERIES
from search_servers import DotRetriever, local_server, search_server
from servers import Request, Response, serve

from toolenv.checker import check_retriever
from toolenv.errors import ConfigError, RetrieverError
from toolenv.retrieval.base import Hit, Passage, ScoredRetriever
from toolenv.retrieval.cached import CachedRetriever
from toolenv.retrieval.client import RemoteRetriever, ServerFullError
from toolenv.retrieval.shards import ReplicatedRetriever, ShardedRetriever

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("no_proxy")]

# Twins, whose scores tie, so that a cut goes through ties.
PASSAGES = [*CORPUS, *(Passage(f"t{i:02d}", "Twin", "the gas in red lamps") for i in range(8))]
WHOLE = DotRetriever(PASSAGES)


# Shards --------------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    places=st.lists(st.integers(0, 3), min_size=len(PASSAGES), max_size=len(PASSAGES)),
    copies=st.sets(st.integers(0, len(PASSAGES) - 1), max_size=4),
    k=st.integers(1, 20),
)
def test_shards_find_what_one_index_finds(places: list[int], copies: set[int], k: int) -> None:
    """However the passages are split, and with some in two shards."""
    parts: list[list[Passage]] = [[], [], [], []]
    for row, place in enumerate(places):
        parts[place].append(PASSAGES[row])
        if row in copies:
            parts[(place + 1) % 4].append(PASSAGES[row])
    sharded = ShardedRetriever([DotRetriever(part) for part in parts if part])
    assert sharded.search_scored(QUERIES, k) == WHOLE.search_scored(QUERIES, k)
    assert sharded.search(QUERIES, k) == WHOLE.search(QUERIES, k)


def test_a_sharded_retriever_is_a_retriever() -> None:
    sharded = ShardedRetriever([DotRetriever(PASSAGES[:4]), [DotRetriever(PASSAGES[4:]), DotRetriever(PASSAGES[4:])]])
    assert isinstance(sharded, ScoredRetriever)
    assert (sharded.scores, sharded.search([], 3), copy.deepcopy(sharded) is sharded) == ("inner product", [], True)
    assert sharded.search(QUERIES, 5) == WHOLE.search(QUERIES, 5)
    assert pickle.loads(pickle.dumps(sharded)).search(QUERIES, 5) == WHOLE.search(QUERIES, 5)
    with pytest.raises(ConfigError, match="k must be at least 1"):
        sharded.search(["x"], 0)


def test_shards_whose_scores_do_not_compare_are_refused() -> None:
    dense = DotRetriever(PASSAGES[:4])
    with pytest.raises(ConfigError, match="one kind of scores; got 'inner product', 'bm25'"):
        ShardedRetriever([dense, DotRetriever(PASSAGES[4:], scores="bm25")])
    with pytest.raises(ConfigError, match="Serve the hybrid whole"):
        ShardedRetriever([dense, DotRetriever(PASSAGES[4:], scores="")])
    with pytest.raises(ConfigError, match="at least one"):
        ShardedRetriever([])
    with pytest.raises(ConfigError, match="on_dead"):
        ShardedRetriever([dense], on_dead="ignore")  # type: ignore[arg-type]
    with pytest.raises(RetrieverError, match=r"no answer from http://127.0.0.1:9/health"):
        ShardedRetriever([dense, "http://127.0.0.1:9"])
    with pytest.warns(RuntimeWarning), pytest.raises(RetrieverError, match=r"no replica of a shard answers: no answer"):
        ShardedRetriever([dense, ["http://127.0.0.1:9"]])


def test_a_dead_shard_is_an_error_or_is_reported() -> None:
    first, second = DotRetriever(PASSAGES[:4]), DotRetriever(PASSAGES[4:])
    strict, lenient = ShardedRetriever([first, second]), ShardedRetriever([first, second], on_dead="skip")
    second.failure = "the disk is gone"
    with pytest.raises(RetrieverError, match=r"1 of 2 shards do not answer: DotRetriever\(14 passages\): the disk"):
        strict.search(QUERIES, 3)
    with pytest.warns(RuntimeWarning, match="without 1 of 2 shards.*the disk is gone"):
        assert lenient.search(QUERIES, 3) == first.search(QUERIES, 3)
    assert lenient.dead == {"DotRetriever(14 passages)": "the disk is gone"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        lenient.search(QUERIES, 3)
        second.failure = ""
        assert lenient.search(QUERIES, 3) == WHOLE.search(QUERIES, 3)
    assert lenient.dead == {}
    first.failure = second.failure = "gone"
    with pytest.raises(RetrieverError, match="2 of 2 shards"):
        lenient.search(QUERIES, 3)


def test_what_was_found_without_a_shard_is_not_kept() -> None:
    shards = [DotRetriever(PASSAGES[:4], identity="a"), DotRetriever(PASSAGES[4:], identity="b")]
    assert ShardedRetriever(shards).identity != ""
    lenient = ShardedRetriever(shards, on_dead="skip")
    assert lenient.identity == ""  # nor by what tells one index from another by its name
    with pytest.raises(ConfigError, match="a cache would keep what was found without them"):
        CachedRetriever(lenient)


# Replicas ------------------------------------------------------------------------------------------------------------


def replicated(*replicas: DotRetriever, again_s: float = 60.0, retries: int = 1) -> ReplicatedRetriever:
    return ReplicatedRetriever(replicas, again_s=again_s, retries=retries, backoff_s=0.0)


def test_load_is_spread() -> None:
    replicas = [DotRetriever(CORPUS) for _ in range(3)]
    one = replicated(*replicas)
    assert isinstance(one, ScoredRetriever)
    assert [one.search([query], 2) for query in QUERIES[:6]] == [WHOLE_OF_CORPUS.search([q], 2) for q in QUERIES[:6]]
    assert [len(replica.batches) for replica in replicas] == [2, 2, 2]
    assert copy.deepcopy(one) is one
    assert pickle.loads(pickle.dumps(one)).search_scored(QUERIES, 2) == WHOLE_OF_CORPUS.search_scored(QUERIES, 2)


WHOLE_OF_CORPUS = DotRetriever(CORPUS)


def test_the_least_busy_is_asked() -> None:
    go, entered = threading.Event(), threading.Event()

    class Held(DotRetriever):
        def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            entered.set()
            assert go.wait(30)
            return super().search_scored(queries, k)

    held, free = Held(CORPUS), DotRetriever(CORPUS)
    one = replicated(held, free)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(one.search, ["gas"], 1)
        assert entered.wait(30)
        for _ in range(4):
            one.search(["gas"], 1)
        assert [status.in_flight for status in one.status()] == [1, 0]
        go.set()
        waiting.result(30)
    assert (len(held.batches), len(free.batches)) == (1, 4)


def test_a_dead_replica_is_passed_over_reported_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("toolenv.retrieval.replicas.time.monotonic", lambda: now[0])
    bad, good = DotRetriever(CORPUS), DotRetriever(CORPUS)
    one = replicated(bad, good)
    bad.failure = "the disk is gone"
    with pytest.warns(RuntimeWarning, match="passing over the replica.*for 60 s: the disk is gone") as told:
        found = [one.search([query], 3)[0] for query in QUERIES]
    assert found == [WHOLE_OF_CORPUS.search([query], 3)[0] for query in QUERIES]
    assert len(told) == 1
    status = one.status()[0]
    assert (status.alive, status.reason, status.failed) == (False, "the disk is gone", 1)
    bad.failure = ""
    assert bad.batches == []
    now[0] += 61.0
    for _ in range(4):
        one.search(["gas"], 1)
    assert len(bad.batches) == 2
    assert one.status()[0].alive


@pytest.mark.filterwarnings("ignore:passing over")
def test_where_all_are_dead_each_is_named() -> None:
    first, second = DotRetriever(CORPUS[:4]), DotRetriever(CORPUS[:5])
    one = replicated(first, second, retries=2)
    first.failure, second.failure = "no disk", "no power"
    with pytest.warns(RuntimeWarning), pytest.raises(RetrieverError) as failure:
        one.search(["x"], 1)
    assert "none of 2 replicas answers, asked 3 times" in str(failure.value)
    assert "DotRetriever(4 passages): no disk; DotRetriever(5 passages): no power" in str(failure.value)
    second.failure = ""  # a dead one is asked where no other is left
    assert one.search(["gas"], 1) == second.search(["gas"], 1)


def test_replicas_of_another_index_are_refused() -> None:
    with pytest.raises(ConfigError, match="has another index: two, not one"):
        replicated(DotRetriever(CORPUS, identity="one"), DotRetriever(CORPUS, identity="two"))
    assert replicated(DotRetriever(CORPUS, identity="one"), DotRetriever(CORPUS)).identity == "one"
    with pytest.raises(ConfigError, match="at least one"):
        replicated()


def test_a_server_that_comes_back_with_another_index_is_not_asked() -> None:
    good, other = DotRetriever(CORPUS, identity="one"), DotRetriever(CORPUS, identity="one")
    one = replicated(good, other, again_s=0.0)
    other.failure = "restarting"
    with pytest.warns(RuntimeWarning):
        one.search(["a"], 1), one.search(["b"], 1)
    other.failure, other.identity = "", "two"
    for _ in range(4):
        one.search(["gas"], 1)
    assert other.batches == []
    assert one.status()[1].reason == "has another index: two, not one"
    good.failure = "gone"  # and not where it is the only one left, here or in another process
    for each in (one, pickle.loads(pickle.dumps(one))):
        with pytest.warns(RuntimeWarning), pytest.raises(RetrieverError, match="none of 2 replicas answers"):
            each.search(["gas"], 1)
    assert other.batches == []
    other.identity = "one"  # put right
    assert one.search(["gas"], 1) == WHOLE_OF_CORPUS.search(["gas"], 1)
    assert len(other.batches) == 1


@pytest.mark.filterwarnings("ignore:passing over")
def test_the_last_one_left_is_looked_at_before_it_is_asked() -> None:
    first, second = DotRetriever(CORPUS, identity="one"), DotRetriever(CORPUS, identity="one")
    one = replicated(first, second)
    first.failure = second.failure = "restarting"
    with pytest.warns(RuntimeWarning), pytest.raises(RetrieverError):
        one.search(["gas"], 1)
    first.failure, first.identity = "", "two"
    with pytest.raises(RetrieverError, match="has another index"):
        one.search(["gas"], 1)
    assert first.batches == []
    second.failure = ""
    assert one.search(["gas"], 1) == WHOLE_OF_CORPUS.search(["gas"], 1)


# Full replicas -------------------------------------------------------------------------------------------------------


class Full(DotRetriever):
    """Says that it is full until a time on the clock, and counts how often it had to."""

    def __init__(self, clock: list[float], until: float) -> None:
        super().__init__(CORPUS)
        self.clock, self.until, self.refused = clock, until, 0

    def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        if self.clock[0] < self.until:
            self.refused += 1
            raise ServerFullError("full", 2.0)
        return super().search_scored(queries, k)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that sleeping moves on."""
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("toolenv.retrieval.replicas.time.monotonic", lambda: now[0])
    monkeypatch.setattr("toolenv.retrieval.replicas.time.sleep", sleep)
    return now


@pytest.mark.filterwarnings("error")  # a full one is not dead, and nothing to warn of
def test_a_full_replica_is_left_alone_as_long_as_it_asks(clock: list[float]) -> None:
    full, good = Full(clock, until=101.0), DotRetriever(CORPUS)
    one = replicated(full, good)
    for _ in range(5):
        assert one.search(["gas"], 1) == WHOLE_OF_CORPUS.search(["gas"], 1)
    assert (full.refused, len(good.batches), clock[0]) == (1, 5, 100.0)
    assert one.status()[0].alive
    clock[0] += 2.0
    one.search(["gas"], 1), one.search(["gas"], 1)
    assert len(full.batches) == 1


@pytest.mark.filterwarnings("error")
def test_where_all_are_full_the_first_that_is_free_is_waited_for(clock: list[float]) -> None:
    one = replicated(Full(clock, until=101.0), Full(clock, until=101.0))
    assert one.search(["gas"], 1) == WHOLE_OF_CORPUS.search(["gas"], 1)
    assert clock[0] == 102.0
    always = replicated(Full(clock, until=1e9), Full(clock, until=1e9))
    with pytest.raises(RetrieverError, match=r"none of 2 replicas answers, asked 2 times: .*full; .*full"):
        always.search(["gas"], 1)
    assert all(status.alive for status in always.status())


def test_a_full_replica_is_waited_for_rather_than_a_dead_one_asked(clock: list[float]) -> None:
    full, dead = Full(clock, until=101.0), DotRetriever(CORPUS)
    one = replicated(full, dead)
    dead.failure = "gone"
    with pytest.warns(RuntimeWarning, match="gone"):
        assert one.search(["gas"], 1) == WHOLE_OF_CORPUS.search(["gas"], 1)
    assert (clock[0], one.status()[1].failed) == (102.0, 1)


def test_a_full_server_is_not_waited_for_where_another_is_free() -> None:
    """Through HTTP: the client hands the refusal on at once."""

    def play(request: Request) -> Response:
        return (429, {"Retry-After": "50"}, "full") if request.path == "/retrieve" else (404, {}, "")

    with serve(play) as full, local_server(DotRetriever(CORPUS)) as good:
        one = ReplicatedRetriever([full.url, good])
        for _ in range(4):
            assert one.search(["gas"], 1) == WHOLE_OF_CORPUS.search(["gas"], 1)
        assert [request.path for request in full.requests] == ["/health", "/retrieve"]
        assert all(status.alive for status in one.status())


@pytest.mark.filterwarnings("error")
def test_what_no_server_takes_kills_no_replica() -> None:
    with local_server(DotRetriever(CORPUS)) as first, local_server(DotRetriever(CORPUS)) as second:
        one = ReplicatedRetriever([first, second])
        with pytest.raises(RetrieverError, match="topk must be a whole number from 1 to 1000"):
            one.search(["gas"], 1001)
        assert [(status.alive, status.failed) for status in one.status()] == [(True, 0)] * 2


def test_a_token_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_KEY", "sesame")
    with local_server(DotRetriever(CORPUS), token="sesame") as url:
        with pytest.raises(RetrieverError, match="send the token of this server"):
            ShardedRetriever([url])
        sharded = ShardedRetriever([url], api_key_env="SEARCH_KEY")
        assert sharded.search(QUERIES, 2) == WHOLE_OF_CORPUS.search(QUERIES, 2)


@pytest.mark.filterwarnings("ignore:passing over")
def test_a_replica_whose_index_changes_while_it_lives_is_not_asked() -> None:
    changing, good = DotRetriever(CORPUS[:3], identity="one"), DotRetriever(CORPUS, identity="one")
    with local_server(changing) as first:
        one = ReplicatedRetriever([first, good], again_s=0.0)
        changing.identity = "two"
        for _ in range(4):
            assert one.search(["gas"], 1) == WHOLE_OF_CORPUS.search(["gas"], 1)
        assert one.status()[0].reason == "has another index: two, not one"


def test_servers_shards_and_replicas_keep_what_a_retriever_promises() -> None:
    with local_server(DotRetriever(CORPUS[::2])) as first, local_server(DotRetriever(CORPUS[1::2])) as second:
        sharded = ShardedRetriever([ReplicatedRetriever([first, first]), RemoteRetriever(second)])
        check_retriever(sharded, QUERIES, pickles=True)


# Processes -----------------------------------------------------------------------------------------------------------


def test_no_answer_is_lost_when_a_replica_is_killed() -> None:
    """Small version of ``benchmarks/bench_retrieval_server.py``."""
    asked = [(QUERIES[i % len(QUERIES)], 1 + i % 3) for i in range(200)]
    done = threading.Semaphore(0)
    with search_server() as (first, first_url), local_server(DotRetriever(CORPUS, identity="one")) as second_url:
        one = ReplicatedRetriever([first_url, second_url])

        def ask(query: str, k: int) -> list[Hit]:
            hits = one.search_scored([query], k)[0]
            done.release()
            return hits

        def kill_half_way() -> None:
            for _ in range(len(asked) // 2):
                done.acquire()
            first.send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill_half_way)
        killer.start()
        with warnings.catch_warnings(record=True) as told, ThreadPoolExecutor(16) as threads:
            warnings.simplefilter("always")
            found = list(threads.map(lambda pair: ask(*pair), asked))
        killer.join()
        assert found == [WHOLE_OF_CORPUS.search_scored([query], k)[0] for query, k in asked]
        dead, alive = one.status()
        assert (dead.alive, alive.alive, dead.answered + alive.answered) == (False, True, len(asked))
        assert dead.answered > 0
        assert [f"RemoteRetriever('{first_url}')" in str(warning.message) for warning in told] == [True]


def test_shards_on_servers() -> None:
    with local_server(DotRetriever(CORPUS[::2])) as first:
        with local_server(DotRetriever(CORPUS[1::2])) as second:
            sharded = ShardedRetriever([first, RemoteRetriever(second, retries=0)])
            assert sharded.search_scored(QUERIES, 4) == WHOLE_OF_CORPUS.search_scored(QUERIES, 4)
        with pytest.raises(RetrieverError, match=r"1 of 2 shards do not answer.*no answer from"):
            sharded.search(QUERIES, 4)


def test_a_shard_whose_index_changes_is_not_merged() -> None:
    second = DotRetriever(CORPUS[1::2], identity="two")
    with local_server(second) as url:
        sharded = ShardedRetriever([DotRetriever(CORPUS[::2]), RemoteRetriever(url)])
        sharded.search(QUERIES, 4)
        second.identity = "three"
        with pytest.raises(RetrieverError, match=r"1 of 2 shards.*has another index now: three, not two"):
            sharded.search(QUERIES, 4)
