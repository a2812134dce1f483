"""OpenEnv: our environments behind its server, for any of its clients.

The action is the raw text of a turn, as for ``env.step``; the observation holds the messages that are new. Each
session has an environment of its own; all share tasks, tools and indices. Written for ``openenv`` 0.10, and
needs Python's ``openenv`` package on the server alone: a client can be its ``GenericEnvClient``.

What OpenEnv has no word for: ``done`` is terminated or truncated, and ``truncated`` beside it says which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from agents.bridges.played import env_maker
from rewards.base import RewardFn
from rewards.wrappers import RewardSum
from toolenv.extras import require
from toolenv.messages import Message
from toolenv.wrappers import tool_env


def make_app(
    env: str | Callable[..., gym.Env[Any, Any]],
    reward: RewardFn | RewardSum | None = None,
    *,
    max_sessions: int = 64,
    **settings: Any,
) -> Any:
    """An ASGI application: ``uvicorn.run(make_app("ToolSearchQA-v0"))`` serves it.

    Args:
        env: A Gymnasium id, or what makes an environment; reward wrappers around it are left out.
        reward: What a turn earns; without one, 0.0.
        max_sessions: How many episodes may run at once.
        **settings: Keyword arguments of the environment.

    Returns:
        FastAPI's application. ``reset`` takes ``seed``, and ``task``, an id or an index.

    Raises:
        ConfigError: The reward needs hindsight, which a running episode does not have.
        MissingExtraError: OpenEnv is not installed.
    """
    server = require("openenv.core.env_server", "openenv")
    kind, action, observation = _classes(server)
    first = tool_env((env_maker(env) if isinstance(env, str) else env)(**settings))

    def session() -> Any:
        return kind(_paid(first.sibling(), reward))

    session().close()  # a reward that does not fit is refused here, not at the first client
    return server.create_fastapi_app(
        session, action, observation, max_concurrent_envs=max_sessions, env_name=first.spec.id if first.spec else None
    )


def _paid(env: gym.Env[Any, Any], reward: RewardFn | RewardSum | None) -> gym.Env[Any, Any]:
    if reward is None:
        return env
    return (reward if isinstance(reward, RewardSum) else RewardSum({reward.name: reward})).wrap(env)


def _classes(server: Any) -> tuple[Any, Any, Any]:
    """The environment, the action and the observation, which subclass what OpenEnv brings."""

    class TurnAction(server.Action):  # type: ignore[misc]
        """The raw text of a turn."""

        text: str

    class TurnObservation(server.Observation):  # type: ignore[misc]
        """What the conversation has grown by; facts and reward terms stand in ``metadata``."""

        messages: list[dict[str, str]]
        truncated: bool = False

    class ToolEnvironment(server.Environment):  # type: ignore[misc]
        """One session: one environment, under its rewards."""

        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self, env: gym.Env[Any, Any]) -> None:
            super().__init__()
            self._env = env
            self._episode_id: str | None = None
            self._seen = 0

        def reset(self, seed: int | None = None, episode_id: str | None = None, task: Any = None, **_: Any) -> Any:
            self._episode_id, self._seen = episode_id, 0
            messages, info = self._env.reset(seed=seed, options=None if task is None else {"task": task})
            return TurnObservation(messages=self._new(messages), metadata=info)

        def step(self, action: Any, timeout_s: float | None = None, **_: Any) -> Any:
            messages, reward, terminated, truncated, info = self._env.step(action.text)
            return TurnObservation(
                messages=self._new(messages),
                reward=float(reward),
                done=terminated or truncated,
                truncated=truncated,
                metadata=info,
            )

        @property
        def state(self) -> Any:
            turns = tool_env(self._env).last_turn
            return server.State(episode_id=self._episode_id, step_count=0 if turns is None else turns.index + 1)

        def close(self) -> None:
            self._env.close()

        def _new(self, messages: tuple[Message, ...]) -> list[dict[str, str]]:
            """What came since the last answer; the model's own text too, so that nothing is said twice or lost."""
            new, self._seen = messages[self._seen :], len(messages)
            return [{"role": message.role, "content": message.content} for message in new]

    return ToolEnvironment, TurnAction, TurnObservation
