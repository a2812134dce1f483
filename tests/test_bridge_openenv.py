"""Our environments behind OpenEnv's own server, played by its own client over loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import toolenv
from rewards import InvalidCallFn, OutcomeFn, RewardSum
from toolenv.errors import ConfigError, MissingExtraError

REWARD = RewardSum({"outcome": OutcomeFn(), "invalid": (InvalidCallFn(), 0.5)})
TURNS = (
    '<tool_call>{"name": "look", "arguments": {"at": "town 1"}}</tool_call>',
    "<tool_call>{",
    "<answer>{answer}</answer>",
)


@toolenv.tool
def look(at: str) -> str:
    """Look at something.

    Args:
        at: What to look at.
    """
    return f"{at} is a town."


def toy_env() -> toolenv.ToolEnv:
    tasks = [toolenv.Task(id=f"t{i}", prompt=f"What is town {i}?", answers=(str(i),)) for i in range(5)]
    return toolenv.ToolEnv(tasks, [look], max_turns=4)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from agents.bridges.openenv import make_app

    monkeypatch.setitem(sys.modules, "openenv", None)
    with pytest.raises(MissingExtraError, match=r"toolenv\[openenv\]"):
        make_app(toy_env)


@pytest.fixture(scope="module")
def client_of() -> Iterator[Any]:
    openenv = pytest.importorskip("openenv.core", reason="needs openenv: pip install openenv")
    uvicorn = pytest.importorskip("uvicorn", reason="needs the serve extra")
    from agents.bridges.openenv import make_app

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = make_app(toy_env, REWARD, max_sessions=4)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    assert server.started
    yield lambda: openenv.GenericEnvClient(base_url=f"http://127.0.0.1:{port}").sync()
    server.should_exit = True
    thread.join(timeout=20)


def test_an_episode_over_loopback_is_the_one_at_home(client_of: Any) -> None:
    env = REWARD.wrap(toy_env())
    with client_of() as client:
        for seed in range(3):
            conversation, info = env.reset(seed=seed)
            result = client.reset(seed=seed)
            said = result.observation["messages"]
            assert result.observation["metadata"]["task_id"] == info["task_id"]
            for number, text in enumerate(TURNS, 1):
                text = text.replace("{answer}", info["task_id"][1:])
                conversation, reward, terminated, truncated, terms = env.step(text)
                result = client.step({"text": text})
                said += result.observation["messages"]
                assert said == [{"role": m.role, "content": m.content} for m in conversation]
                assert (result.reward, result.done) == (reward, terminated or truncated)
                assert result.observation["metadata"]["reward_terms"] == terms["reward_terms"]
                assert client.state()["step_count"] == number
            assert result.done
            assert not result.observation["truncated"]


def test_a_cut_is_told_apart_from_an_end(client_of: Any) -> None:
    with client_of() as client:
        client.reset(task="t2")
        results = [client.step({"text": "hm"}) for _ in range(4)]
    assert [result.done for result in results] == [False, False, False, True]
    assert results[-1].observation["truncated"]
    assert results[-1].observation["metadata"]["reason"] == "max_turns"


def test_sessions_do_not_share_an_episode(client_of: Any) -> None:
    with client_of() as one, client_of() as two:
        asked = [client.reset(task=task).observation["messages"][-1] for client, task in ((one, "t1"), (two, "t3"))]
        assert [message["content"] for message in asked] == ["What is town 1?", "What is town 3?"]
        assert two.step({"text": "<answer>3</answer>"}).reward == 1.0
        assert one.step({"text": "<answer>3</answer>"}).reward == 0.0


def test_a_reward_that_needs_the_end_is_refused_when_the_server_is_made() -> None:
    pytest.importorskip("openenv.core", reason="needs openenv: pip install openenv")
    from agents.bridges.openenv import make_app

    class Hindsight:
        name = "late"
        hindsight = True

        def score(self, views: Any) -> list[float]:
            return [1.0 for _ in views]

    with pytest.raises(ConfigError, match="score_episodes"):
        make_app(toy_env, Hindsight())
