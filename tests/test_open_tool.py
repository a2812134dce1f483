"""The tool ``open``: articles in reading order, page by page, and titles that there are not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv import ConfigError, RetrieverError, Task, ToolCall, ToolError
from toolenv.envs.limits import CharLimit, TokenLimit
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


LONG = " ".join(f"word{n}" for n in range(300))
UNBROKEN = "x" * 500


def read_through(tool: OpenTool, title: str) -> tuple[list[str], list[str]]:
    """The texts below the first lines of all pages, and the ids that they name."""
    texts, ids, start = [], [], 1
    while True:
        page = tool(title=title, start=start)
        head, _, text = page.content.partition("\n")
        texts.append(text)
        ids += page.data["passages"]
        assert tool.limit.cut(page.content) == page.content
        following = re.search(r"read on with start (\d+)\.$", head)
        if following is None:
            return texts, ids
        assert int(following[1]) > start
        start = int(following[1])


def test_a_passage_that_is_longer_than_a_page_is_read_on_in_parts() -> None:
    corpus = [Passage("1-1", "Long", "the beginning"), Passage("1-2", "Long", LONG), Passage("1-3", "Long", "the end")]
    texts, ids = read_through(OpenTool(BM25Retriever(corpus), CharLimit(150)), "Long")
    assert " ".join(texts).split() == ["the", "beginning", *LONG.split(), "the", "end"]  # no word is lost or cut
    assert list(dict.fromkeys(ids)) == ["1-1", "1-2", "1-3"]
    assert OpenTool(BM25Retriever(corpus), CharLimit(10_000))(title="Long").content.endswith(LONG + "\nthe end")


def test_a_word_that_is_longer_than_a_page_is_cut() -> None:
    tool = OpenTool(BM25Retriever([Passage("1-1", "Long", f"{UNBROKEN} end")]), CharLimit(150))
    assert "".join(read_through(tool, "Long")[0]).replace(" ", "") == UNBROKEN + "end"


def test_a_page_without_room_shows_what_it_can() -> None:
    corpus = [Passage("1-1", "Long", LONG), Passage("1-2", "Long", "the end")]
    tool = OpenTool(BM25Retriever(corpus), CharLimit(20))
    assert [tool(title="Long", start=start).data for start in (1, 2)] == [{"passages": ["1-1"]}, {"passages": ["1-2"]}]
    assert tool(title="Long").content == 'Article "Long", pass'


def test_pages_in_tokens_lose_no_word() -> None:
    """A tokenizer whose tokens are of four characters, which begin anew after a blank."""

    class Fours:
        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[str]]:
            return {"input_ids": re.findall(r"\S{1,4}", text)}

    tool = OpenTool(BM25Retriever([Passage("1-1", "Long", LONG)]), TokenLimit(60, Fours()))
    assert " ".join(read_through(tool, "Long")[0]).split() == LONG.split()


def test_a_huge_passage_is_read_in_bounded_time() -> None:
    """Each part is cut from a window, else its end would be looked for in all that is left of a megabyte."""
    read: list[int] = []

    class Counted(CharLimit):
        def cut(self, text: str) -> str:
            read.append(len(text))
            return super().cut(text)

    words = "word " * 40_000
    OpenTool(BM25Retriever([Passage("1-1", "Huge", words)]), Counted(2_000))(title="Huge")
    assert sum(read) < 20 * len(words)


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
