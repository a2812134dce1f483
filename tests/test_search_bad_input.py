"""Bad queries for every retriever: the model gets a result or a reason; the server's faults are never the model's.

What every retriever promises is ``check_retriever``, which is tried here on those at hand and on broken ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.retrieval_fakes import CORPUS, QUERIES, WordEncoder
from tests.test_search_env import TASKS
from toolenv import ConfigError, InfrastructureError, RetrieverError, ToolCall, ToolVectorEnv
from toolenv.checker import check_retriever
from toolenv.envs.search_qa import SearchQAEnv, make_vec
from toolenv.retrieval.base import Hit, Passage, Retriever
from toolenv.retrieval.bm25 import BM25Retriever
from toolenv.retrieval.check import ODD_QUERIES
from toolenv.retrieval.hybrid import HybridRetriever
from toolenv.retrieval.index import FaissRetriever

NAMES = ("bm25", "faiss", "hybrid")


@pytest.fixture(scope="module")
def retrievers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Retriever]:
    lexical = BM25Retriever(CORPUS)
    dense = FaissRetriever(CORPUS, WordEncoder(), tmp_path_factory.mktemp("faiss"))
    return {"bm25": lexical, "faiss": dense, "hybrid": HybridRetriever(dense, lexical)}


# In the environment --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["hermes", "search_r1", "toolrl"])
@pytest.mark.parametrize("name", NAMES)
def test_odd_queries_get_a_result_or_a_reason(name: str, format: str, retrievers: dict[str, Retriever]) -> None:
    env = SearchQAEnv(TASKS, retriever=retrievers[name], format=format)
    for query in ODD_QUERIES:
        env.reset(seed=0)
        observation, reward, terminated, truncated, _ = env.step(
            env.format.write_call(ToolCall("search", {"query": query}))
        )
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert observation[-1].role == "tool"
        assert len(observation[-1].content) < 2_300
        [turn] = env.episode.turns
        if len(query) < 100_000 and turn.results:
            [result] = turn.results
            blank = not query.replace("\x00", " ").strip() or query.startswith("</")
            assert result.error is None or blank
        assert env.step(env.format.write_answer("42"))[2]


@pytest.mark.parametrize("name", NAMES)
def test_odd_queries_of_one_environment_do_not_touch_another(name: str, retrievers: dict[str, Retriever]) -> None:
    envs = make_vec(len(ODD_QUERIES) + 1, tasks=TASKS, retriever=retrievers[name], open_tool=True)
    envs.reset(seed=0)
    write = envs.envs[0].format.write_call
    good = write(ToolCall("search", {"query": "rings of a planet"}))
    odd = [write(ToolCall(t, {a: q})) for t, a in (("search", "query"), ("open", "title")) for q in ODD_QUERIES]
    alone = SearchQAEnv(TASKS, retriever=retrievers[name], open_tool=True)
    alone.reset(seed=0)
    want = alone.step(good)[0][-1]
    for actions in (odd[: len(ODD_QUERIES)], odd[len(ODD_QUERIES) :]):
        observations, _, terminated, truncated, _ = envs.step([*actions, good])
        assert observations[-1][-1] == want
        assert not terminated.any()
        assert not truncated.any()


@pytest.mark.parametrize(
    "failure",
    [
        RetrieverError("the index was cut short"),
        ConnectionResetError("the server died"),
        ValueError("garbage"),
        MemoryError(),
    ],
)
def test_a_failing_retriever_never_costs_the_model_an_episode(failure: Exception) -> None:
    class Failing:
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            raise failure

    env = SearchQAEnv(TASKS, retriever=Failing())
    env.reset(seed=0)
    action = env.format.write_call(ToolCall("search", {"query": "rings"}))
    with pytest.raises(InfrastructureError):
        env.step(action)
    assert env.episode.turns == ()
    envs = ToolVectorEnv([lambda: SearchQAEnv(TASKS, retriever=Failing())] * 2)
    envs.reset(seed=0)
    _, rewards, terminated, truncated, infos = envs.step([action, env.format.write_answer("42")])
    assert (rewards.tolist(), terminated.tolist(), truncated.tolist()) == ([0, 0], [False, True], [True, False])
    assert infos["reason"].tolist() == ["infrastructure", "answer"]
    assert envs.envs[0].episode.turns == ()


# The checker ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_retrievers_at_hand_keep_their_promises(name: str, retrievers: dict[str, Retriever]) -> None:
    check_retriever(retrievers[name], QUERIES, k=4)


class Broken:
    """BM25 with one fault."""

    scores = "bm25"

    def __init__(self, fault: Callable[[Broken, Sequence[str], int], Any]) -> None:
        self.inner, self.fault = BM25Retriever(CORPUS), fault
        self.calls = 0

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.calls += 1
        found: list[list[Passage]] = self.fault(self, queries, k)
        return found

    def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(p, 1.0 - i) for i, p in enumerate(found)] for found in self.search(queries, k)]


def _whole(broken: Broken, queries: Sequence[str], k: int) -> list[list[Passage]]:
    return broken.inner.search(queries, k)


def _refuses(broken: Broken, queries: Sequence[str], k: int) -> list[list[Passage]]:
    if any(not query.strip() for query in queries):
        raise ValueError("an empty query")
    return broken.inner.search(queries, k)


def _short_only(broken: Broken, queries: Sequence[str], k: int) -> list[list[Passage]]:
    if any(len(query) > 9_999 for query in queries):
        raise OverflowError("the query is too long")
    return broken.inner.search(queries, k)


FAULTS: list[tuple[str, Callable[[Broken, Sequence[str], int], Any]]] = [
    ("shape: 12 queries need a list of as many", lambda b, q, k: _whole(b, q, k)[1:]),
    ("shape: .* needs a list of passages", lambda b, q, k: [[p.id for p in f] for f in _whole(b, q, k)]),
    ("shape: .* with k = 4 got 5 passages", lambda b, q, k: b.inner.search(q, k + 1)),
    ("shape: .* got a passage twice", lambda b, q, k: [[p for p in f for _ in "12"][:k] for f in _whole(b, q, k)]),
    ("shape: no query found anything", lambda b, q, k: [[] for _ in q]),
    ("shape: no query finds no list", lambda b, q, k: _whole(b, q, k) if q else [[]]),
    ("k: .* with k = 2 after k = 4", lambda b, q, k: [f[::-1] if k == 2 else f for f in _whole(b, q, k)]),
    ("k: k = 0 must be a ConfigError", lambda b, q, k: _whole(b, q, max(k, 1))),
    ("batch: .* asked again", lambda b, q, k: [f[b.calls > 5 :] for f in _whole(b, q, k)]),
    ("batch: .* alone", lambda b, q, k: _whole(b, q, k) if len(q) != 1 else [f[1:] for f in _whole(b, q, k)]),
    ("batch: .* in another order", lambda b, q, k: [f[len(q) > 1 and q[0] == "year" :] for f in _whole(b, q, k)]),
    ("odd queries: the query '' raised ValueError", _refuses),
    ("odd queries: .* raised OverflowError", _short_only),
]


@pytest.mark.parametrize(("message", "fault"), FAULTS, ids=[message for message, _ in FAULTS])
def test_the_checker_finds_what_is_broken(message: str, fault: Callable[[Broken, Sequence[str], int], Any]) -> None:
    with pytest.raises(AssertionError, match=f"check_retriever: {message}"):
        check_retriever(Broken(fault), QUERIES, k=4)


def test_the_checker_finds_broken_scores_copies_and_pickles() -> None:
    class Rising(Broken):
        def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            return [[Hit(p, float(i)) for i, p in enumerate(found)] for found in self.search(queries, k)]

    class Other(Broken):
        def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            return super().search_scored(queries, k + 1)

    class Endless(Broken):
        def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            return [[Hit(p, float("nan")) for p in found] for found in self.search(queries, k)]

    class Copied(Broken):
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            return Broken(lambda b, q, k: [f[1:] for f in _whole(b, q, k)])

    for wrong, message in (
        (Rising, "scores: .* scores that rise"),
        (Other, "scores: .* with scores"),
        (Endless, "scores: .* not finite"),
        (Copied, "copies: .* in a deep copy"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_retriever(wrong(_whole), QUERIES, k=4)
    check_retriever(Copied(_whole), QUERIES, k=4, copies=False)
    check_retriever(Broken(_whole), QUERIES, k=4, pickles=True)


def test_what_is_no_retriever_is_refused() -> None:
    with pytest.raises(AssertionError, match="a retriever has the method search"):
        check_retriever(copy, QUERIES)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        check_retriever(BM25Retriever(CORPUS), QUERIES, k=0)


def test_an_index_on_disk_keeps_them_too(tmp_path: Path) -> None:
    from toolenv.retrieval import build_index, open_index

    check_retriever(open_index(build_index(CORPUS, tmp_path / "i", retriever="bm25", progress=False)), QUERIES, k=4)
