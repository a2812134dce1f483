"""The tool ``open``: articles in reading order, page by page, and titles that there are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv import ConfigError, RetrieverError, Task, ToolCall, ToolError
from toolenv.envs.limits import CharLimit
from toolenv.envs.search_qa import OpenTool, SearchQAEnv, make_vec
from toolenv.retrieval.base import Passage
from toolenv.retrieval.bm25 import BM25Retriever
from toolenv.retrieval.titles import TitleTable, article

pytest.importorskip("bm25s")

LYON = [Passage(f"7-{n}", "Lyon", f"Part {n} of a city on the Rhone.") for n in range(1, 13)]
OTHERS = [
    Passage("8-1", "Lyons", "A town of another country."),
    Passage("9-1", "LYONS", "A ship."),
    Passage("10-1", "Rhone", "A river."),
    Passage("11-1", "", "A text without a title."),
]
CORPUS = [*LYON[::-1], *OTHERS]
TASKS = [Task(id="t", prompt="On which river is Lyon?", answers=("Rhone",), gold_passages=(("7-4",),))]


class Counting:
    """BM25 that notes its batches, or is down."""

    def __init__(self, down: bool = False) -> None:
        self.inner, self.down = BM25Retriever(CORPUS), down
        self.passages = self.inner.passages
        self.batches: list[list[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.batches.append(list(queries))
        if self.down:
            raise RetrieverError("the server is down")
        return self.inner.search(queries, k)


@pytest.fixture(scope="module")
def tool() -> OpenTool:
    return OpenTool(BM25Retriever(CORPUS), CharLimit(140))


def test_an_article_is_read_page_by_page_in_the_order_of_its_numbers(tool: OpenTool) -> None:
    first = tool(title="Lyon")
    assert first.content == (
        'Article "Lyon", passages 1 to 2 of 12; read on with start 3.\n'
        "Part 1 of a city on the Rhone.\nPart 2 of a city on the Rhone."
    )
    assert first.data == {"passages": ["7-1", "7-2"]}
    read, start = [], 1
    while start <= 12:
        page = tool(title="Lyon", start=start)
        read += page.data["passages"]
        start += len(page.data["passages"])
        assert (f"; read on with start {start}." in page.content) == (start <= 12)
        assert len(page.content) <= 140
    assert read == [passage.id for passage in LYON]


def test_a_passage_that_is_longer_than_a_page_is_cut_and_passed() -> None:
    corpus = [Passage("1-1", "Long", "word " * 100), Passage("1-2", "Long", "the end")]
    tool = OpenTool(BM25Retriever(corpus), CharLimit(100))
    first = tool(title="Long")
    assert len(first.content) == 100
    assert first.data == {"passages": ["1-1"]}
    assert tool(title="Long", start=2).content == 'Article "Long", passages 2 to 2 of 2.\nthe end'


@pytest.mark.parametrize(
    ("title", "ids"),
    [
        ("Lyons", ["8-1"]),
        ("LYONS", ["9-1"]),
        ("lyons", ["8-1", "9-1"]),
        (' "Rhone" ', ["10-1"]),
        ("rhone\x00", ["10-1"]),
    ],
)
def test_titles_as_models_write_them(tool: OpenTool, title: str, ids: list[str]) -> None:
    assert tool(title=title).data == {"passages": ids}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"title": "Lyon city"}, "no article is called 'Lyon city'; near it are: Lyon"),
        ({"title": "xylophone"}, "no article is called 'xylophone'$"),
        ({"title": "x" * 5_000}, r"no article is called 'x{77}\.\.\.'$"),
        ({"title": " \n"}, "the title is blank"),
        ({"title": '""'}, "no article is called"),
        ({"title": "Lyon", "start": 0}, "the article has 12 passages; start must be from 1 to 12"),
        ({"title": "Lyon", "start": 13}, "start must be from 1 to 12"),
        ({"title": "Rhone", "start": 1e300}, "the article has 1 passage; start must be from 1 to 1"),
    ],
)
def test_what_is_not_there_is_told_to_the_model(tool: OpenTool, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ToolError, match=message):
        tool(**arguments)


def test_unknown_titles_are_searched_for_at_once_and_known_ones_not_at_all() -> None:
    counting = Counting()
    outputs = OpenTool(counting).batch([{"title": t} for t in ("Lyon", "Lyon city", " ", "Rhone", "Rhone river")])
    assert counting.batches == [["Lyon city", "Rhone river"]]
    assert [isinstance(output, ToolError) for output in outputs] == [False, True, True, False, True]
    assert "near it are: Rhone" in str(outputs[4])


def test_the_fault_of_a_server_is_not_the_models() -> None:
    down = OpenTool(Counting(down=True))
    with pytest.raises(RetrieverError, match="down"):
        down.batch([{"title": "Lyon city"}])
    assert down(title="Rhone").data == {"passages": ["10-1"]}


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(exclude_categories=()), max_size=40), st.integers() | st.none())
def test_any_title_and_any_start_get_a_page_or_a_reason(tool: OpenTool, title: str, start: int | None) -> None:
    arguments = {"title": title} if start is None else {"title": title, "start": start}
    [output] = tool.batch([arguments])
    assert isinstance(output, ToolError) or output.data["passages"]


def test_reading_order_of_ids() -> None:
    ids = ["a-2", "a-10", "b", "1", "10", "9", "a-1-3", "a-1-20"]
    found = article(TitleTable([Passage(id, "T", "x") for id in ids]), "T")
    assert [passage.id for passage in found] == ["1", "9", "10", "a-1-3", "a-1-20", "a-2", "a-10", "b"]


# In the environment --------------------------------------------------------------------------------------------------


def test_an_episode_that_searches_then_opens_counts_what_it_was_shown() -> None:
    rewards = pytest.importorskip("rewards")
    env = SearchQAEnv(TASKS, corpus=CORPUS, retriever="bm25", top_k=1, open_tool=True, max_observation_chars=200)
    env = rewards.RewardWrapper(env, rewards.GoldPassageFn())
    env.reset(seed=0)
    write = env.unwrapped.format.write_call
    assert env.step(write(ToolCall("search", {"query": "city on the Rhone part 1"})))[1] == 0.0
    assert env.step(write(ToolCall("open", {"title": "Lyon", "start": 3})))[1] > 0
    observation, reward, terminated, _, _ = env.step(write(ToolCall("open", {"title": "Lion"})))
    assert "no article is called 'Lion'" in observation[-1].content
    assert (reward, terminated) == (0.0, False)
    assert env.unwrapped.episode.turns[1].results[0].data["passages"] == ["7-3", "7-4", "7-5", "7-6"]


def test_the_tool_is_offered_only_where_it_was_asked_for() -> None:
    for format in ("hermes", "toolrl"):
        made = gym.make("ToolSearchQA-v0", tasks=TASKS, corpus=CORPUS, retriever="bm25", format=format, open_tool=True)
        env = cast("SearchQAEnv", made.unwrapped)
        check_env(env)
        system = env.reset(seed=0)[0][0].content
        assert "open" in env.tools
        assert "Number of the passage to begin with" in system
        plain = SearchQAEnv(TASKS, corpus=CORPUS, retriever="bm25", format=format).reset(seed=0)[0][0].content
        assert "Number of the passage" not in plain


def test_a_format_without_a_way_to_open_is_refused() -> None:
    with pytest.raises(ConfigError, match="format 'search_r1' has no way to use open_tool"):
        SearchQAEnv(TASKS, corpus=CORPUS, retriever="bm25", format="search_r1", open_tool=True)


def test_a_retriever_without_passages_is_refused() -> None:
    class Remote:
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            return [[] for _ in queries]

    with pytest.raises(ConfigError, match="open_tool needs a retriever that has its passages here"):
        SearchQAEnv(TASKS, retriever=Remote(), open_tool=True)


def test_all_environments_open_in_one_call() -> None:
    counting = Counting()
    envs = make_vec(4, tasks=TASKS, retriever=counting, open_tool=True)
    envs.reset(seed=0)
    write = envs.envs[0].format.write_call
    observations = envs.step([write(ToolCall("open", {"title": title})) for title in ("Lyon", "Rome", "Lyons", "x")])[0]
    assert ['Article "' in observation[-1].content for observation in observations] == [True, False, True, False]
    assert counting.batches == [["Rome", "x"]]
