"""Environments by name, with the settings that the policy which plays them was made for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

import toolenv  # noqa: F401  registers the ids
from toolenv.errors import ConfigError
from toolenv.vector import ToolVectorEnv

NANO_ENV_ID = "ToolSearchQA-v0"
"""The one environment that the nano policy was made for."""


def make_envs(env_id: str, num_envs: int, settings: Mapping[str, Any], policy: str | None = None) -> ToolVectorEnv:
    """Environments that are reset by hand.

    Args:
        env_id: Gymnasium id.
        num_envs: How many.
        settings: Keyword arguments of the environment.
        policy: What ``agents.models.played_as`` says of the model. For ``"nano"``, ``settings`` go on top of those that
            the nano policy was made for.

    Raises:
        ConfigError: There is no such environment, it does not take the settings, it is no tool environment, or the
            policy does not play it.

    Example:
        >>> make_envs("ToolPythonMath-v0", 1, {}, policy="nano")
        Traceback (most recent call last):
        toolenv.errors.ConfigError: the nano policy plays ToolSearchQA-v0 only, not 'ToolPythonMath-v0'; give --model
    """
    if policy == "nano":
        if _bare(env_id) in gym.registry and _bare(env_id) != NANO_ENV_ID:
            raise ConfigError(f"the nano policy plays {NANO_ENV_ID} only, not {env_id!r}; give --model")
        from agents.nano import ENV_KWARGS, nano_format

        if other := sorted(settings.keys() & {"corpus", "index"}):
            warnings.warn(
                f"the nano policy knows the words of the bundled encyclopaedia alone; over another {other[0]} it is "
                "right by chance: give --model",
                stacklevel=2,
            )
        settings = {**ENV_KWARGS, "format": nano_format(), **settings}
    try:
        envs = gym.make_vec(env_id, num_envs=num_envs, autoreset_mode="Disabled", **settings)
    except (gym.error.Error, TypeError) as error:
        raise ConfigError(f"cannot make {env_id!r} with {dict(settings)}: {error}") from error
    if not isinstance(envs, ToolVectorEnv):
        raise ConfigError(f"{env_id!r} makes a {type(envs).__name__}; what is needed is a ToolVectorEnv")
    return envs


def has_bundled_tasks(env_id: str, settings: Mapping[str, Any]) -> bool:
    """Whether the tasks are those that ship with the environment, of which there are splits.

    Example:
        >>> has_bundled_tasks("ToolSearchQA-v0", {}), has_bundled_tasks("ToolSearchQA-v0", {"tasks": "mine.jsonl"})
        (True, False)
    """
    spec = gym.registry.get(_bare(env_id))
    named = settings.get("tasks") is not None or settings.get("dataset") is not None
    return not named and spec is not None and str(spec.entry_point).startswith("toolenv.envs.")


def check_held_out(envs: ToolVectorEnv, eval_envs: ToolVectorEnv) -> None:
    """Check that an evaluation does not ask what was trained on.

    Raises:
        ConfigError: Both have the same tasks.
    """
    trained, asked = ({(task.id, task.prompt) for task in e.envs[0].tasks} for e in (envs, eval_envs))
    if trained == asked:
        raise ConfigError(
            f"the evaluation has the same {len(asked)} tasks as the training, so it would measure what was learned by "
            "heart; name another split or other tasks in eval_env_kwargs, or set eval_every to 0"
        )


def _bare(env_id: str) -> str:
    """The id without the module that Gymnasium imports first."""
    return env_id.rpartition(":")[2]
