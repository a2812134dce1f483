"""Corpora: by name, as a stream, from questions that come with their paragraphs; and the real one, where it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import cli
from tests.leftover_markup import share_with_markup
from toolenv import DataError, Task
from toolenv.data.assets import cache_dir
from toolenv.data.corpus_info import corpus_info
from toolenv.data.hotpot import load_hotpot
from toolenv.data.json_stream import read_items
from toolenv.retrieval.base import Passage
from toolenv.retrieval.corpus import corpus_kind, corpus_path, read_corpus

FETCHED = cache_dir() / "wikipedia-2006" / "passages.jsonl"  # read before a test names another cache
needs_wikipedia = pytest.mark.skipif(not FETCHED.is_file(), reason="not fetched; run: toolenv fetch wikipedia-2006")
pytestmark = pytest.mark.core


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# Files and names -------------------------------------------------------------------------------------------------


def test_only_the_quotes_around_a_title_are_no_part_of_it(tmp_path: Path) -> None:
    titles = ['"Lyon"', '"The "Big" "One""', 'The "Big"', '"', '""']
    lines = [json.dumps({"contents": f"{title}\ntext"}) for title in titles]
    found = [p.title for p in read_corpus(write(tmp_path / "wiki.jsonl", *lines))]
    assert found == ["Lyon", 'The "Big" "One"', 'The "Big"', '"', ""]


def test_a_corpus_by_name_says_how_to_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLENV_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="run: toolenv fetch wikipedia-2006"):
        list(read_corpus("wikipedia-2006"))
    with pytest.raises(DataError, match=r"there is no corpus 'wikipedia-2005': .* toolenv fetch knows wikipedia-2006"):
        list(read_corpus("wikipedia-2005"))
    with pytest.raises(DataError, match="no corpus 'wikipedia-2006'"):  # a path is no name
        list(read_corpus(Path("wikipedia-2006")))


@pytest.mark.parametrize("name", ["c.jsonl", "c.tsv", "c.json"])
def test_passages_come_before_the_file_was_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = {"c.jsonl": '{"text": "x"}\n', "c.tsv": "1\ttext\ttitle\n", "c.json": '[{"text": "x"},'}
    path.write_bytes(rows[name].encode() + b" " * 3_000_000 + b"\xff")
    passages = read_corpus(path)
    assert next(passages).id == "1"
    with pytest.raises(DataError, match="UTF-8"):
        next(passages)


def test_a_file_without_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolenv.data.text_files.MAX_LINE_BYTES", 30)
    path = write(tmp_path / "c.jsonl", '{"text": "short enough"}', json.dumps({"text": "x" * 30}))
    passages = read_corpus(path)
    assert next(passages).text == "short enough"
    with pytest.raises(DataError, match=r"c\.jsonl, line 2: is longer than 30 bytes; write one record a line"):
        next(passages)


# JSON as a stream ------------------------------------------------------------------------------------------------

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=5), inside, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@given(items=st.lists(ANY_JSON, max_size=5), indent=st.sampled_from([None, 1]), ascii=st.booleans())
def test_items_are_those_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, chunk: int, items: list[Any], indent: int | None, ascii: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "items.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolenv.data.text_files.CHUNK_BYTES", chunk)
        path.write_text(json.dumps(items, indent=indent, ensure_ascii=ascii), "utf-8", "surrogatepass")
        if ascii:
            assert list(read_items(path)) == items
        record = {"version": [1, {"data": 2}], "data": items, "more": 3}
        path.write_text(json.dumps(record, indent=indent))
        assert list(read_items(path, "data")) == items


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "needs a JSON array; got the end of the file"),
        ('{"a": 1}', "needs a JSON array; got '{"),
        ("[1, 2", "item 2: is not followed by ',' or ']'; got the end of the file"),
        ("[1 2]", "item 1: is not followed by ',' or ']'; got '2]'"),
        ('[1, {"a": tru}]', "item 2: not valid JSON"),
        ('[1, "never closed]', "item 2: not valid JSON"),
        ("[1, ]", "item 2: not valid JSON"),
        ("[" + "[" * 100_000, "item 1: not valid JSON"),
    ],
)
def test_a_broken_array_names_the_item(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        list(read_items(path))
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)


# HotpotQA, 2WikiMultihopQA, MuSiQue ------------------------------------------------------------------------------

LYON, RHONE = ["Lyon", ["Lyon is a city.", " It is on the Rhone."]], ["Rhone", ["The Rhone is a river."]]
HOTPOT: list[dict[str, Any]] = [
    {
        "_id": "q1",
        "question": "Which river is the city on?",
        "answer": "Rhone",
        "supporting_facts": [["Lyon", 1], ["Rhone", 0], ["Lyon", 0]],
        "context": [RHONE, ["Paris", ["A city."]], LYON],
    },
    {
        "_id": "q2",
        "question": "What is Lyon?",
        "answer": "a city",
        "supporting_facts": [["Lyon", 0]],
        "context": [LYON, ["Paris", ["Another text."]]],
    },
]
LYON_TEXT = "Lyon is a city. It is on the Rhone."
HOTPOT_PASSAGES = (
    Passage("Rhone", "Rhone", "The Rhone is a river."),
    Passage("Paris", "Paris", "A city."),
    Passage("Lyon", "Lyon", LYON_TEXT),
    Passage("Paris (2)", "Paris", "Another text."),
)


def test_hotpot_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.json", json.dumps(HOTPOT))
    hotpot = load_hotpot(path)
    assert hotpot.passages == HOTPOT_PASSAGES
    assert hotpot.tasks[0].gold_passages == (("Rhone",), ("Lyon",))
    assert hotpot.tasks[1] == Task(id="q2", prompt="What is Lyon?", answers=("a city",), gold_passages=(("Lyon",),))
    assert tuple(read_corpus(path)) == HOTPOT_PASSAGES
    assert tuple(read_corpus(write(tmp_path / "dev.jsonl", *map(json.dumps, HOTPOT)))) == HOTPOT_PASSAGES
    assert corpus_kind(path) == "HotpotQA's questions, a JSON array"


def test_hotpot_as_the_model_hub_has_it(tmp_path: Path) -> None:
    def columns(pairs: list[list[Any]], *names: str) -> dict[str, list[Any]]:
        return {name: [pair[i] for pair in pairs] for i, name in enumerate(names)}

    records = [
        {
            **record,
            "context": columns(record["context"], "title", "sentences"),
            "supporting_facts": columns(record["supporting_facts"], "title", "sent_id"),
        }
        for record in HOTPOT
    ]
    path = write(tmp_path / "hub.jsonl", *map(json.dumps, records))
    assert load_hotpot(path).passages == HOTPOT_PASSAGES
    assert load_hotpot(path).tasks[0].gold_passages == (("Rhone",), ("Lyon",))


def test_musique_by_hand(tmp_path: Path) -> None:
    record = {
        "id": "2hop__1",
        "question": "Which river?",
        "answer": "Rhone",
        "answer_aliases": ["the Rhone", "Rhone"],
        "paragraphs": [
            {"idx": 0, "title": "Paris", "paragraph_text": "A city.", "is_supporting": False},
            {"idx": 1, "title": "Lyon", "paragraph_text": LYON_TEXT, "is_supporting": True},
        ],
    }
    path = write(tmp_path / "musique.jsonl", json.dumps(record))
    loaded = load_hotpot(path)
    assert loaded.passages == (Passage("Paris", "Paris", "A city."), Passage("Lyon", "Lyon", LYON_TEXT))
    assert loaded.tasks[0].answers == ("Rhone", "the Rhone")
    assert loaded.tasks[0].gold_passages == (("Lyon",),)
    assert corpus_kind(path) == "MuSiQue's questions, JSONL"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("context", [["Lyon"]], "field 'context' needs pairs of a title and its sentences; got \"['Lyon']\""),
        ("context", [["", ["x"]]], "paragraph 1: its title is blank"),
        ("context", [["Lyon", []]], "paragraph 1: its text is blank"),
        ("context", {"title": ["a"], "sentences": []}, "two lists of one length"),
        ("context", None, "needs a list 'context', as HotpotQA has, or 'paragraphs', as MuSiQue has"),
        ("answer", None, "needs a field 'answer'"),
    ],
)
def test_bad_hotpot_is_refused_with_file_line_and_reason(tmp_path: Path, field: str, value: Any, reason: str) -> None:
    path = write(tmp_path / "bad.jsonl", json.dumps(HOTPOT[0]), json.dumps({**HOTPOT[1], field: value}))
    with pytest.raises(DataError) as caught:
        load_hotpot(path)
    assert str(caught.value).startswith(f"{path}, line 2")
    assert reason in str(caught.value)


# In the environment ----------------------------------------------------------------------------------------------

ASKED = [Task(id="t", prompt="?", answers=("x",))]


def test_the_environment_says_how_to_fetch_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLENV_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="run: toolenv fetch wikipedia-2006"):
        gym.make("ToolSearchQA-v0", tasks=ASKED, corpus="wikipedia-2006", retriever="bm25")


def test_environments_over_one_file_share_its_index_until_it_changes(tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    path = write(tmp_path / "c.jsonl", '{"id": "1", "title": "Lyon", "text": "A city."}')

    def make(**kwargs: Any) -> Any:
        env = gym.make("ToolSearchQA-v0", tasks=ASKED, corpus=str(path), retriever="bm25", **kwargs)
        return env.unwrapped.tools["search"]  # type: ignore[attr-defined]

    first, second = make(), make(top_k=1)
    assert first.retriever is second.retriever
    assert (first.top_k, second.top_k) == (3, 1)
    write(path, '{"id": "1", "title": "Lyon", "text": "An old city."}')
    assert make()(query="Lyon").content == 'Doc 1(Title: "Lyon") An old city.'


def test_the_command_says_what_a_corpus_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "c.jsonl", json.dumps({"id": "7", "contents": '"Lyon"\nA city.'}))
    assert cli.main(["corpus", "info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "Search-R1's JSONL" in shown
    assert "7: Lyon" in shown
    path.write_text('{"id": "7"}\n')
    assert cli.main(["corpus", "info", str(path)]) == 1
    assert f"{path}, line 1: needs a field 'text'" in capsys.readouterr().err
    assert cli.main(["corpus", "info", "wikipedia-2005"]) == 1
    assert "toolenv fetch knows wikipedia-2006" in capsys.readouterr().err


def test_the_command_makes_a_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mwparserfromhell")
    text = "Lyon is a [[city]]. " * 10
    dump = tmp_path / "wiki.xml"
    page = f"<page><title>Lyon</title><id>7</id><revision><text>{text}</text></revision></page>"
    dump.write_text(f"<mediawiki>{page}</mediawiki>")
    output = tmp_path / "lyon.jsonl"
    assert cli.main(["corpus", "make", str(dump), "--output", str(output), "--workers", "1", "--words", "20"]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    assert [(p.id, p.text) for p in read_corpus(output)] == [
        ("7-0001", ("Lyon is a city. " * 5).strip()),
        ("7-0002", ("Lyon is a city. " * 5).strip()),
    ]


# Wikipedia -------------------------------------------------------------------------------------------------------


@needs_wikipedia
def test_the_real_corpus() -> None:
    info = corpus_info(FETCHED)
    assert (info.passages, info.titles, info.words, info.repeated_ids) == (109_872, 7_826, 10_667_696, 0)
    assert share_with_markup(FETCHED) < 0.002  # in most of them the marks are of mathematics, code or HTML itself


@needs_wikipedia
def test_a_search_over_the_real_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bm25s")
    monkeypatch.setenv("TOOLENV_CACHE", str(FETCHED.parents[1]))
    assert corpus_path("wikipedia-2006") == FETCHED
    env = gym.make("ToolSearchQA-v0", tasks=ASKED, corpus="wikipedia-2006", retriever="bm25", format="search_r1")
    env.reset(seed=0)
    observation = env.step("<search>Who first isolated aluminium?</search>")[0][-1].content
    assert 'Title: "Aluminium"' in observation
