"""The record of an episode: what it holds, and how a broken one is refused."""

from __future__ import annotations

import dataclasses

import pytest

import toolenv
from tests.toys import CAPITALS, toy_env
from toolenv import DataError, Episode, Task, Turn
from toolenv.messages import Message, ToolCall, ToolResult

pytestmark = pytest.mark.core


def solved() -> Episode:
    env = toy_env()
    env.reset(seed=0)
    env.step(env.format.write_answer(CAPITALS[env.episode.task.id]))
    return env.episode


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[1]", "must be a JSON object"),
        (b"3", "must be a JSON object"),
        (b"{", "not valid JSON"),
        (b'{"schema": 1, "x": "\xff"}', "not UTF-8"),
        (b'{"schema": 1}', "not an episode"),
        (b'{"schema": 1, "task": 3, "prompt": [], "turns": []}', "not an episode"),
        (b'{"schema": 1, "task": {"id": "a", "prompt": "?"}, "prompt": ["x"], "turns": []}', "not an episode"),
        (b'{"schema": 1, "task": {"id": "a", "prompt": "?"}, "prompt": [], "turns": [[]]}', "not an episode"),
    ],
)
def test_a_line_that_is_no_episode_is_refused_with_file_and_line(tmp_path, line, reason):
    path = tmp_path / "e.jsonl"
    episode = solved()
    toolenv.write_episodes(path, [episode])
    with path.open("ab") as file:
        file.write(line + b"\n")
    episodes = toolenv.read_episodes(path)
    assert next(episodes) == episode
    with pytest.raises(DataError) as caught:
        next(episodes)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert reason in str(caught.value)


def test_what_is_no_object_is_no_episode():
    with pytest.raises(DataError, match="schema None"):
        Episode.from_json([1])


def test_a_record_is_shallow_and_has_every_field():
    deep: dict = {}
    for _ in range(5_000):  # far beyond Python's recursion limit
        deep = {"a": deep}
    call = ToolCall("f", deep)
    schema = {"name": "f"}
    task = Task("t", "?", ("a",), (call,), (("p",),), (schema,), (Message("user", "hi"),), {"k": deep})
    turn = Turn(
        0, "x", (call,), (ToolResult(call, "c", None, {"d": 1}),), "a", None, True, (Message("tool", "c", "f"),)
    )
    episode = Episode("env", task, "hermes", (Message("system", "s"),), (turn,), True, False, "answer", 3, "calls")
    record = episode.to_json()
    assert record["task"]["functions"][0] is schema
    assert record["turns"][0]["calls"][0]["arguments"] is deep
    back = Episode.from_json(record)
    assert (back.task.metadata["k"] is deep, back.turns[0].results[0].call.arguments is deep) == (True, True)
    assert back.to_json().keys() == record.keys()
    assert record["task"].keys() == {entry.name for entry in dataclasses.fields(Task)}
    assert record["turns"][0].keys() == {entry.name for entry in dataclasses.fields(Turn)}
    assert record["turns"][0]["results"][0].keys() == {entry.name for entry in dataclasses.fields(ToolResult)}
    assert (back.turns[0].observation, back.prompt, back.task.history) == (
        turn.observation, episode.prompt, task.history
    )  # fmt: skip
