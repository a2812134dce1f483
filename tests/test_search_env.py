"""ToolSearchQA: one search a step, bad queries, cuts, states, real corpora."""

from __future__ import annotations

import copy
import json
import os
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.retrieval_fakes import CORPUS, WordEncoder
from toolenv import ConfigError, InfrastructureError, RetrieverError, Task, TaskSet, ToolCall, ToolVectorEnv
from toolenv.data.squad import load_squad
from toolenv.envs.search_qa import SearchQAEnv, SearchTool, make_vec
from toolenv.grading.answers import exact_match
from toolenv.retrieval.base import Passage
from toolenv.retrieval.bm25 import BM25Retriever
from toolenv.retrieval.index import FaissRetriever

SHARED = Path(os.environ.get("TOOLENV_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no real data; TOOLENV_SHARED_DATA names its folder")

TASKS = TaskSet(
    [
        Task(id="money", prompt="Which currency has the country of Warsaw?", answers=("Zloty",)),
        Task(id="moon", prompt="What is the largest moon of Saturn?", answers=("Titan",)),
        Task(id="gas", prompt="Which noble gas glows red?", answers=("Neon",)),
    ]
)


class CountingRetriever:
    """BM25 that notes its batches, and fails as often as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.inner = BM25Retriever(CORPUS)
        self.batches: list[list[str]] = []
        self.failures = failures

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.batches.append(list(queries))
        if len(self.batches) <= self.failures:
            raise RetrieverError("the server is down")
        return self.inner.search(queries, k)

    def __deepcopy__(self, memo: dict[int, Any]) -> CountingRetriever:
        return self


@pytest.fixture(scope="module")
def retriever() -> BM25Retriever:
    return BM25Retriever(CORPUS)


def call(env: Any, query: str) -> str:
    return str(env.unwrapped.format.write_call(ToolCall("search", {"query": query})))


# One environment -------------------------------------------------------------------------------------------------


def test_an_episode_by_hand(retriever: BM25Retriever) -> None:
    env = SearchQAEnv(TASKS, retriever=retriever, top_k=2)
    env.reset(options={"task": "money"})
    observation, reward, terminated, truncated, info = env.step(call(env, "Warsaw"))
    assert observation[-1].content == (
        '<tool_response>\nDoc 1(Title: "Poland") A country on the Baltic whose capital is Warsaw.\n</tool_response>'
    )
    assert (reward, terminated, truncated, info["num_calls"]) == (0.0, False, False, 1)
    two = call(env, "currency of Poland") + call(env, "gas")
    env.step(two)
    assert env.episode.turns[1].results[0].data == {"passages": ["p8", "p9"]}
    assert env.episode.turns[1].results[1].data == {"passages": ["p4", "p5"]}
    assert env.step("<answer>zloty</answer>")[2]
    assert exact_match(env.episode.answer or "", env.episode.task.answers)


def test_search_r1_reads_as_its_checkpoints_expect(retriever: BM25Retriever) -> None:
    env = SearchQAEnv(TASKS, retriever=retriever, format="search_r1", top_k=2)
    env.reset(seed=0)
    observation = env.step("<search>rings</search>")[0][-1].content
    document = 'Doc 1(Title: "Saturn") A planet with rings and many moons.'
    assert observation == f"\n\n<information>{document}</information>\n\n"


def test_check_env_has_nothing_to_say(retriever: BM25Retriever) -> None:
    for format in ("hermes", "search_r1", "toolrl"):
        env = gym.make("ToolSearchQA-v0", tasks=TASKS, retriever=retriever, format=format)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(env.unwrapped)
        assert env.spec is not None
        assert env.spec.kwargs["max_turns"] == 8
        assert env.spec.kwargs["retriever"] is retriever


@pytest.mark.parametrize("query", ["", "   \n", "\x00", " \x00 "])
def test_a_blank_query_is_told_to_the_model(query: str) -> None:
    counting = CountingRetriever()
    env = SearchQAEnv(TASKS, retriever=counting)
    env.reset(seed=0)
    observation, _, terminated, _, _ = env.step(call(env, query))
    assert "the query is blank" in observation[-1].content
    assert env.episode.turns[0].results[0].error == "tool_error"
    assert not terminated
    assert counting.batches == []


def test_a_blank_query_takes_no_other_along(retriever: BM25Retriever) -> None:
    tool = SearchTool(retriever, top_k=1)
    outputs = tool.batch([{"query": "rings"}, {"query": " "}, {"query": "methane"}])
    assert [getattr(o, "data", None) for o in outputs] == [{"passages": ["p6"]}, None, {"passages": ["p7"]}]


def test_a_query_that_fits_nothing_says_so(retriever: BM25Retriever) -> None:
    output = SearchTool(retriever)(query="xylophone")
    assert output.content == "No passage was found; try other words."
    assert (output.error, output.data) == (None, {"passages": []})


def test_a_long_result_keeps_its_head_and_names_what_was_shown() -> None:
    corpus = [Passage(f"p{i}", f"T{i}", f"word {'x' * 100}") for i in range(3)]
    whole = SearchTool(BM25Retriever(corpus))(query="word")
    assert whole.data["passages"] == ["p0", "p1", "p2"]
    for limit in (10, 120, 200, 300):
        cut = SearchTool(BM25Retriever(corpus), max_observation_chars=limit)(query="word")
        assert len(cut.content) <= limit
        assert whole.content.startswith(cut.content)
        shown = [i for i in range(3) if f"Doc {i + 1}"[: limit - 1] in cut.content]
        assert cut.data["passages"] == [f"p{i}" for i in shown]


@pytest.mark.parametrize("kind", ["bm25", "faiss"])
@settings(deadline=None, max_examples=40)
@given(query=st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_query_is_answered(kind: str, query: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.getbasetemp() / "search-env"
    found = BM25Retriever(CORPUS) if kind == "bm25" else FaissRetriever(CORPUS, WordEncoder(), cache)
    env = SearchQAEnv(TASKS, retriever=found)
    env.reset(seed=0)
    for text in (query, query + "\ud800\x00", query + "y" * 90_000):
        terminated, truncated = env.step(call(env, text))[2:4]
        assert not terminated
        assert not truncated
        assert len(env.episode.turns[-1].results) == 1


def test_a_lost_server_is_retried_then_not_the_models_fault() -> None:
    env = SearchQAEnv(TASKS, retriever=CountingRetriever(failures=2))
    env.reset(seed=0)
    assert "Saturn" in env.step(call(env, "rings"))[0][-1].content
    env = SearchQAEnv(TASKS, retriever=CountingRetriever(failures=99))
    env.reset(seed=0)
    with pytest.raises(InfrastructureError, match="server is down"):
        env.step(call(env, "rings"))
    assert env.episode.turns == ()


def test_settings_that_do_not_fit_are_refused(retriever: BM25Retriever) -> None:
    with pytest.raises(ConfigError, match="not both"):
        SearchQAEnv(TASKS, corpus=CORPUS, retriever=retriever)
    with pytest.raises(ConfigError, match="unknown retriever 'elastic'"):
        SearchQAEnv(TASKS, corpus=CORPUS, retriever="elastic")
    with pytest.raises(ConfigError, match="k must be at least 1"):
        SearchQAEnv(TASKS, retriever=retriever, top_k=0)
    with pytest.raises(ConfigError, match="k must be at least 1, the whole number of passages for a query; got '3'"):
        SearchQAEnv(TASKS, retriever=retriever, top_k="3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_observation_chars"):
        SearchQAEnv(TASKS, retriever=retriever, max_observation_chars=0)


def test_files_of_ones_own(tmp_path: Path) -> None:
    questions, corpus = tmp_path / "q.jsonl", tmp_path / "c.jsonl"
    questions.write_text('{"question": "Which planet has rings?", "answer": "Saturn"}\n')
    corpus.write_text("".join(json.dumps({"id": p.id, "title": p.title, "text": p.text}) + "\n" for p in CORPUS))
    env = SearchQAEnv(questions, corpus=str(corpus), retriever="bm25", top_k=1)
    env.reset(seed=0)
    env.step(call(env, "planet with rings"))
    assert env.episode.turns[0].results[0].data["passages"] == ["p6"]


# States ----------------------------------------------------------------------------------------------------------


def test_a_state_in_the_middle_goes_on_the_same(retriever: BM25Retriever) -> None:
    env = SearchQAEnv(TASKS, retriever=retriever, max_turns=4)
    env.reset(seed=5)
    env.step(call(env, "Poland"))
    state = pickle.loads(pickle.dumps(env.get_state()))
    actions = [call(env, "noble gas"), "no call", "<answer>Zloty</answer>"]
    first = [env.step(action) for action in actions]
    record, following = env.episode, env.reset()
    for other in (env, SearchQAEnv(TASKS, retriever=retriever, max_turns=4)):
        other.reset(seed=9)
        other.set_state(state)
        assert [other.step(action) for action in actions] == first
        assert other.episode.turns == record.turns
        assert other.reset() == following  # the random stream goes on as well


# Vectorised ------------------------------------------------------------------------------------------------------


def test_sixteen_environments_search_once_a_step(tmp_path: Path) -> None:
    faiss = FaissRetriever(CORPUS, WordEncoder(), tmp_path)
    envs = gym.make_vec("ToolSearchQA-v0", num_envs=16, tasks=TASKS, retriever=faiss)
    assert isinstance(envs, ToolVectorEnv)
    envs.reset(seed=0)
    for step in range(1, 4):
        envs.step([call(env, f"{env.episode.task.prompt} {step}") for env in envs.envs])
        assert faiss.num_searches == step
    envs.step(["<answer>Titan</answer>"] * 16)
    assert faiss.num_searches == 3


def test_the_vector_plays_as_each_alone(retriever: BM25Retriever) -> None:
    counting = CountingRetriever()
    envs = make_vec(3, tasks=TASKS, retriever=counting)
    envs.reset(seed=[4, 5, 6])
    queries = ["Warsaw", "moon of Saturn", ""]
    observations = envs.step([call(envs.envs[0], query) for query in queries])[0]
    assert counting.batches == [["Warsaw", "moon of Saturn"]]
    for seed, query, observation in zip((4, 5, 6), queries, observations, strict=True):
        env = SearchQAEnv(TASKS, retriever=retriever)
        env.reset(seed=seed)
        assert env.step(call(env, query))[0] == observation


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_the_turn_limit_of_the_vector(mode: str, retriever: BM25Retriever) -> None:
    envs = gym.make_vec("ToolSearchQA-v0", num_envs=2, tasks=TASKS, retriever=retriever, autoreset_mode=mode)
    envs.reset(seed=0)
    cuts = [envs.step(["what?", "what?"])[3].tolist() for _ in range(8)]
    assert cuts == [[False, False]] * 7 + [[True, True]]


def test_environments_made_one_by_one_can_share_a_tool(retriever: BM25Retriever) -> None:
    counting = CountingRetriever()
    tool = SearchTool(counting)
    envs = ToolVectorEnv([lambda: SearchQAEnv(TASKS, retriever=tool)] * 4)
    envs.reset(seed=0)
    envs.step([call(envs.envs[0], "gas")] * 4)
    assert counting.batches == [["gas"] * 4]
    assert copy.deepcopy(tool) is tool


# The bundled encyclopaedia ---------------------------------------------------------------------------------------


def test_bundled_questions_can_be_answered_by_searching() -> None:
    env = SearchQAEnv(split="validation", hops=(1,), retriever="bm25")
    hits = 0
    for seed in range(30):
        env.reset(seed=seed)
        task = env.episode.task
        env.step(call(env, task.prompt))
        hits += task.gold_passages[0][0] in env.episode.turns[0].results[0].data["passages"]
    assert hits >= 21


def test_bundled_splits_and_hops() -> None:
    both = SearchQAEnv(split="test", hops=(3, 2), retriever="bm25")
    assert {len(task.gold_passages) for task in both.tasks} == {2, 3}
    assert SearchQAEnv(split="test", hops=(2, 3), retriever="bm25").tasks is both.tasks
    train = SearchQAEnv(retriever="bm25")
    assert not {task.id for task in train.tasks} & {task.id for task in both.tasks}
    assert train.tools["search"] is both.tools["search"]


# Real data -------------------------------------------------------------------------------------------------------


@needs_shared
def test_real_questions_over_the_real_2wiki_corpus() -> None:
    env = SearchQAEnv(
        SHARED / "qa" / "stage_2.jsonl",
        corpus=SHARED / "corpus" / "2wikimultihopqa_corpus.json",
        retriever="bm25",
    )
    env.reset(seed=0)
    observation = env.step(call(env, "Teutberga queen of Lotharingia"))[0][-1].content
    assert 'Doc 1(Title: "Teutberga") Teutberga( died 11 November 875) was a queen' in observation
    assert env.step("<answer>x</answer>")[2]


@needs_shared
def test_real_squad_questions_find_their_paragraph() -> None:
    squad = load_squad(SHARED / "qa" / "xquad_en.json")
    env = SearchQAEnv(squad.tasks, corpus=squad.passages, retriever="bm25", max_observation_chars=10_000)
    found = 0
    for index in range(0, len(squad.tasks), 12):
        env.reset(options={"task": index})
        env.step(call(env, env.episode.task.prompt))
        found += env.episode.task.gold_passages[0][0] in env.episode.turns[0].results[0].data["passages"]
    assert found >= 85  # of 100
