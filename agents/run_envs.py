"""The environments of a training run: where the policy plays, and where it is evaluated."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from agents.config import TrainConfig
from agents.environments import check_held_out, has_bundled_tasks, make_envs
from toolenv.errors import ConfigError
from toolenv.ray_envs import RayToolVectorEnv
from toolenv.vector import ToolVectorEnv


def open_envs(
    config: TrainConfig,
    policy: str | None,
    envs: ToolVectorEnv | None,
    eval_envs: ToolVectorEnv | None,
    resources: ExitStack,
) -> tuple[ToolVectorEnv, ToolVectorEnv | None]:
    """The environments of a run: those that are given, else those that the settings name.

    Args:
        config: Settings.
        policy: As for ``agents.environments.make_envs``.
        envs: Where it plays.
        eval_envs: Where it is evaluated.
        resources: Closes those that are made here.

    Returns:
        Where it plays, and where it is evaluated; ``None`` where it is not.

    Raises:
        ConfigError: There are no such environments, or an evaluation that would not be one of what is trained.
    """
    evaluated = bool(config.eval_every)
    if envs is not None and eval_envs is None and evaluated:
        raise ConfigError(
            f"eval_every is {config.eval_every}, and environments were given to play in but none to be evaluated in: "
            f"those would be {config.env_id!r}; give eval_envs too, or set eval_every to 0"
        )
    if envs is None:
        envs = make_train_envs(config, policy, config.num_envs)
        resources.callback(envs.close)
    if eval_envs is None and evaluated:
        eval_envs = make_eval_envs(config, policy, min(config.num_envs, config.eval_episodes))
        resources.callback(eval_envs.close)
        check_held_out(envs, eval_envs)
    return envs, eval_envs


def make_train_envs(config: TrainConfig, policy: str | None, num_envs: int) -> ToolVectorEnv:
    """Environments with the tasks that are trained on; see ``make_eval_envs``."""
    return _make(config, num_envs, policy, {})


def make_eval_envs(config: TrainConfig, policy: str | None, num_envs: int) -> ToolVectorEnv:
    """Environments with the tasks that an evaluation asks: of bundled ones another split, unless the settings say more.

    Args:
        config: Settings.
        policy: As for ``agents.environments.make_envs``.
        num_envs: How many.

    Raises:
        ConfigError: There are no such environments.
    """
    bundled = has_bundled_tasks(config.env_id, {**config.env_kwargs, **config.eval_env_kwargs})
    return _make(config, num_envs, policy, {**({"split": "validation"} if bundled else {}), **config.eval_env_kwargs})


def _make(config: TrainConfig, num_envs: int, policy: str | None, changes: dict[str, Any]) -> ToolVectorEnv:
    """The environments that the settings name, with some keyword arguments on top."""
    settings = {**config.env_kwargs, **changes}
    if config.format is not None:
        settings["format"] = config.format
    if config.max_turns is not None:
        settings["max_turns"] = config.max_turns
    if config.ray_actors:
        make = partial(make_envs, config.env_id, settings=settings, policy=policy)
        return RayToolVectorEnv(make, num_envs, num_actors=min(config.ray_actors, num_envs))
    return make_envs(config.env_id, num_envs, settings, policy)
