"""Our environments as a plugin of verifiers: its own loader, tasks, environment and trace; the turns are given."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import toolenv
from rewards import InvalidCallFn, OutcomeFn, RewardSum
from toolenv.errors import ConfigError, InfrastructureError, MissingExtraError

REWARD = RewardSum({"outcome": OutcomeFn(), "invalid": (InvalidCallFn(), 0.5)})
PLUGIN = """
from agents.bridges.verifiers import make_plugin
from test_bridge_verifiers import REWARD, toy_env

__all__ = ["Environment", "Taskset"]
Taskset, Environment = make_plugin(toy_env, REWARD, seeds=range(4))
"""


@toolenv.tool
def look(at: str) -> str:
    """Look at something.

    Args:
        at: What to look at.
    """
    if at == "outage":
        raise InfrastructureError("out of service")
    return f"{at} is a town."


def call(at: str) -> str:
    return f"<tool_call>{json.dumps({'name': 'look', 'arguments': {'at': at}})}</tool_call>"


def toy_env(history: tuple[toolenv.Message, ...] = ()) -> toolenv.ToolEnv:
    tasks = [toolenv.Task(f"t{i}", f"What is town {i}?", answers=(str(i),), history=history) for i in range(5)]
    return toolenv.ToolEnv(tasks, [look], max_turns=3)


class Speaker:
    """An agent whose turns are given: what verifiers' ``Interaction`` shows of one."""

    def __init__(self, vf: Any, task: Any, turns: list[str]) -> None:
        info = vf.AgentInfo.model_construct(name="player")
        self.trace = vf.Trace.model_construct(task=task.data, agent=info, rewards={}, info={})
        self.turns = list(turns)
        self.heard: list[str | None] = []

    @contextlib.asynccontextmanager
    async def interaction(self, task: Any) -> AsyncIterator[Speaker]:
        yield self

    async def turn(self, message: str | None = None) -> Any:
        self.heard.append(message)
        reply = self.turns.pop(0) if self.turns else None
        return SimpleNamespace(last_reply=reply, terminated=reply is None)


@pytest.fixture
def vf() -> Any:
    return pytest.importorskip("verifiers.v1", reason="needs verifiers: pip install verifiers")


@pytest.fixture
def environment(vf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "toy_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy_plugin", raising=False)
    return vf.load_environment(vf.resolve_env_config({"taskset": {"id": "toy_plugin"}}))


def play(vf: Any, environment: Any, turns: list[str]) -> tuple[Any, Speaker, str]:
    task = list(environment.taskset)[2]
    answer = task.data.name[1:]
    speaker = Speaker(vf, task, [text.replace("{answer}", answer) for text in turns])
    asyncio.run(environment.run(task, SimpleNamespace(player=speaker)))
    return task, speaker, answer


def test_verifiers_loads_one_task_a_seed(environment: Any) -> None:
    tasks = list(environment.taskset)
    assert [task.data.seed for task in tasks] == [0, 1, 2, 3]
    assert len({task.key for task in tasks}) == 4
    for task in tasks:
        messages, info = toy_env().reset(seed=task.data.seed)
        assert (task.data.system_prompt, task.data.prompt) == (messages[0].content, messages[1].content)
        assert task.data.name == info["task_id"]


def test_an_episode_is_the_one_at_home(vf: Any, environment: Any) -> None:
    turns = [call("Lyon"), "<tool_call>{", "<answer>{answer}</answer>"]
    task, speaker, answer = play(vf, environment, turns)
    env = REWARD.wrap(toy_env())
    env.reset(seed=task.data.seed)
    steps = [env.step(text.replace("{answer}", answer)) for text in turns]
    assert speaker.heard == [None, *(step[0][-1].content for step in steps[:-1])]
    paid = {name: (reward.score, reward.weight) for name, reward in speaker.trace.rewards.items()}
    assert paid["outcome"] == (1.0, 1.0)
    assert sum(score * weight for score, weight in paid.values()) == pytest.approx(sum(step[1] for step in steps))
    assert toolenv.Episode.from_json(speaker.trace.info["toolenv"]).turns == env.unwrapped.episode.turns


def test_what_verifiers_cut_is_cut_in_the_record(vf: Any, environment: Any) -> None:
    _, speaker, _ = play(vf, environment, [call("Lyon")])
    episode = toolenv.Episode.from_json(speaker.trace.info["toolenv"])
    assert (len(episode.turns), episode.truncated, episode.reason) == (1, True, "stopped")
    assert speaker.trace.rewards["outcome"].score == 0.0


def test_a_tool_out_of_service_fails_the_episode_and_scores_nothing(vf: Any, environment: Any) -> None:
    task = next(iter(environment.taskset))
    speaker = Speaker(vf, task, [call("outage")])
    with pytest.raises(InfrastructureError):
        asyncio.run(environment.run(task, SimpleNamespace(player=speaker)))
    assert speaker.trace.rewards == {}


def test_a_task_with_a_history_is_refused(vf: Any) -> None:
    from agents.bridges.verifiers import make_plugin

    said = (toolenv.Message("user", "Hello."), toolenv.Message("assistant", "Hello!"))
    taskset, _ = make_plugin(toy_env, REWARD, seeds=[0], history=said)
    with pytest.raises(ConfigError, match="begins with"):
        list(taskset(vf.TasksetConfig(id="toy")))


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from agents.bridges.verifiers import make_plugin

    monkeypatch.setitem(sys.modules, "verifiers.v1", None)
    with pytest.raises(MissingExtraError, match=r"toolenv\[verifiers\]"):
        make_plugin(toy_env, REWARD, seeds=[0])
