"""verifiers (v1): our environments as a taskset, and as the environment that plays it.

The model speaks the environment's own format in plain text; our environment takes the user's side and answers each
turn, as verifiers' own game environments do. Rewards are recorded by name on the trace, and ``trace.info["toolenv"]``
keeps the episode. Written for ``verifiers`` 0.4; its own chat loop, which a model behind a server speaks through, has
not been run.

verifiers finds a plugin by the name of a module that exports both classes, which is a module of yours:

    # lyon.py
    from agents.bridges.verifiers import make_plugin
    from rewards import OutcomeFn

    __all__ = ["Environment", "Taskset"]
    Taskset, Environment = make_plugin("ToolSearchQA-v0", OutcomeFn(), seeds=range(1000), retriever="bm25")
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from agents.bridges.played import env_maker
from rewards.base import RewardFn, RewardTerms
from rewards.wrappers import RewardSum
from toolenv.env import ToolEnv
from toolenv.errors import ConfigError
from toolenv.extras import require
from toolenv.messages import Message
from toolenv.wrappers import tool_env


def make_plugin(
    env: str | Callable[..., gym.Env[Any, Any]],
    reward: RewardFn | RewardSum,
    seeds: Sequence[int],
    **settings: Any,
) -> tuple[type, type]:
    """A taskset and an environment of verifiers.

    Args:
        env: A Gymnasium id, or what makes an environment; reward wrappers around it are left out.
        reward: The reward; each term stands on the trace under its own name, with its weight.
        seeds: One task a seed.
        **settings: Keyword arguments of the environment.

    Returns:
        Subclasses of ``verifiers.v1.Taskset`` and ``verifiers.v1.Env``; the role is called ``player``.

    Raises:
        ConfigError: The environment begins with more than a system message and a question.
        MissingExtraError: verifiers is not installed.
    """
    vf = require("verifiers.v1", "verifiers")
    first = tool_env((env_maker(env) if isinstance(env, str) else env)(**settings))
    terms = reward if isinstance(reward, RewardSum) else RewardSum({reward.name: reward})

    class Data(vf.TaskData):  # type: ignore[misc, name-defined]
        """What the seed chose."""

        seed: int

    class Task(vf.Task[Data, vf.State, vf.TaskConfig]):  # type: ignore[misc, name-defined]
        """A question; the environment judges the answer."""

    class Taskset(vf.Taskset[Task, vf.TasksetConfig]):  # type: ignore[misc, name-defined]
        """One task a seed."""

        def load(self) -> Iterator[Any]:
            asked = first.sibling()
            for seed in seeds:
                messages, info = asked.reset(seed=seed)
                system, prompt = _opening(messages, info["task_id"])
                data = Data(id=f"seed-{seed}", name=info["task_id"], seed=seed, prompt=prompt, system_prompt=system)
                yield Task(data, self.config.task)

    class Config(vf.EnvConfig):  # type: ignore[misc, name-defined]
        """The one role; ``null`` is verifiers' chat loop without tools."""

        player: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"}, runtime={"type": "subprocess"})  # type: ignore[name-defined]

    class Environment(vf.Env[Config]):  # type: ignore[misc, name-defined]
        """Plays one episode."""

        async def run(self, task: Any, agents: Any) -> None:
            playing = first.sibling()
            playing.reset(seed=task.data.seed)
            async with agents.player.interaction(task) as interaction:
                await _play(playing, interaction)
            playing.truncate("stopped")  # by a limit of verifiers
            (scored,) = await asyncio.to_thread(terms.score, [playing.episode])
            _record(interaction.trace, scored)
            interaction.trace.info["toolenv"] = playing.episode.to_json()

    Config.model_rebuild(_types_namespace={"vf": vf})
    return Taskset, Environment


def _opening(messages: Sequence[Message], task_id: str) -> tuple[str | None, str]:
    """The system message, and what the user asks."""
    roles = [message.role for message in messages]
    if roles not in (["system", "user"], ["user"]):
        raise ConfigError(f"task {task_id!r} begins with {roles}; verifiers takes a system message and a question")
    return (messages[0].content if len(messages) == 2 else None), messages[-1].content


async def _play(env: ToolEnv, interaction: Any) -> None:
    """Play turn by turn, until either side ends it. What the machine did wrong fails the episode, which is retried."""
    segment = await interaction.turn()
    while not segment.terminated:
        known = len(env.episode.messages())
        messages, _, terminated, truncated, _ = await asyncio.to_thread(env.step, segment.last_reply)
        if terminated or truncated:
            break
        segment = await interaction.turn("\n".join(message.content for message in messages[known + 1 :]))


def _record(trace: Any, scored: RewardTerms) -> None:
    """Each term's sum over the turns; what was not scored is not recorded, for that is not 0.0."""
    for name, column in scored.columns.items():
        if not np.isnan(column).all():
            trace.record_reward(name, float(np.nansum(column)), scored.weights[name])
