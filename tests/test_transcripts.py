"""Golden transcripts: what public checkpoints write and read, played through the real environments."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from toolenv.data.functions import function_tasks
from toolenv.env import ToolEnv
from toolenv.envs.function_call import FunctionCallEnv
from toolenv.envs.python_math import PythonMathEnv
from toolenv.envs.search_qa import SearchQAEnv
from toolenv.episode import Task, TaskSet
from toolenv.errors import ConfigError
from toolenv.formats import FORMATS, letter, make_format
from toolenv.messages import Message, ToolCall
from toolenv.retrieval.base import Passage

pytestmark = pytest.mark.core

FOLDER = Path(__file__).parent / "golden" / "transcripts"
TRANSCRIPTS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


class Words:
    """A tokenizer: a token is a run of letters and signs with the blanks before it."""

    is_fast = True

    def __call__(self, text: str, **options: Any) -> dict[str, list[Any]]:
        spans = [match.span() for match in re.finditer(r"\s*\S+", text)]
        return {"input_ids": list(range(len(spans))), "offset_mapping": spans}


def task_of(record: dict[str, Any]) -> Task:
    plain = {name: record[name] for name in ("id", "prompt", "metadata") if name in record}
    return Task(
        **plain,
        answers=tuple(record.get("answers", ())),
        gold_calls=tuple(ToolCall(*call) for call in record.get("gold_calls", ())),
        functions=tuple(record.get("functions", ())),
        history=tuple(Message(*message) for message in record.get("history", ())),
    )


def make_env(record: dict[str, Any], folder: Path) -> ToolEnv:
    """The environment of a transcript, with its texts for the model in files, as a user would supply them."""
    settings = dict(record.get("settings", {}))
    if settings.get("tokenizer") == "words":
        settings["tokenizer"] = Words()
    for name, text in record["files"].items():
        settings[name] = folder / f"{name}.txt"
        settings[name].write_text(text, encoding="utf-8")
    form = FORMATS[record["format"]](**settings)
    kind, options = record["env"]["kind"], {k: v for k, v in record["env"].items() if k != "kind"}
    tasks = TaskSet([task_of(record["task"])])
    if kind == "search":
        pytest.importorskip("bm25s", reason="needs pip install 'toolenv[search]'")
        corpus = [Passage(*passage) for passage in options.pop("corpus")]
        return SearchQAEnv(tasks, corpus=corpus, retriever="bm25", format=form, **options)
    if kind == "math":
        return PythonMathEnv(tasks, sandbox="process", format=form, **options)
    return FunctionCallEnv(tasks, format=form)


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_transcript_is_played_to_the_letter(name: str, tmp_path: Path) -> None:
    record = TRANSCRIPTS[name]
    env = make_env(record, tmp_path)
    shown, _ = env.reset(seed=0)
    assert [[m.role, m.content] for m in shown] == record["prompt"]
    assert list(env.format.stop) == record["stop"]
    assert letter.is_plain(env.format) == record.get("plain", False)
    for number, expected in enumerate(record["turns"]):
        before = len(shown)
        shown, _, terminated, _, _ = env.step(expected["says"])
        turn = env.episode.turns[-1]
        assert shown[before].content == expected["counts"]
        assert "".join(m.content for m in shown[before + 1 :]) == expected["observation"]
        assert [[c.name, dict(c.arguments)] for c in turn.calls] == expected["calls"]
        assert turn.answer == expected.get("answer")
        assert (turn.error is not None) == expected.get("unread", False)
        assert terminated == (record["reason"] is not None and number == len(record["turns"]) - 1)
    assert env.episode.reason == record["reason"]


def test_every_public_checkpoint_has_a_transcript() -> None:
    assert {record["format"] for record in TRANSCRIPTS.values()} == set(FORMATS) - {"hermes"}
    assert all(record["source"] and record["why"] for record in TRANSCRIPTS.values())


def test_a_format_can_be_written_with_its_settings(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Q: $question")
    form = make_format(f'search_r1{{"template": "{prompt}"}}')
    assert form.prompt("", Task(id="t", prompt="Why"), [])[0].content == "Q: Why?"
    for text, said in (
        ("serach_r1", "unknown format 'serach_r1'"),
        ('torl{"lenent": false}', "has no setting 'lenent'; it has template"),
        ("torl{lenient}", "no JSON object"),
        ('torl{"template": "no/such.txt"}', "there is no file 'no/such.txt'"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            make_format(text)


def test_results_of_a_style_that_is_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="results must be one of notebook, torl, simpletir, retool; got 'tora'"):
        PythonMathEnv(function_tasks("test"), sandbox="process", results="tora")
