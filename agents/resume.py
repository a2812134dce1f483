"""Going on with a run: where its last checkpoint stands, and whether the settings are still the run's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.checkpoint import latest, read_state
from agents.config import TrainConfig
from toolenv.errors import ConfigError

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"

MAY_CHANGE = frozenset(
    {
        "output_dir", "resume", "num_updates", "checkpoint_every", "keep_checkpoints", "trackers",
        "eval_every", "eval_episodes", "eval_env_kwargs",
        # Where and how fast; beyond rounding they change no number.
        "device", "num_envs", "ray_actors", "sampler", "sampler_urls", "sampler_kwargs", "rollout",
        "micro_batch_episodes", "gradient_checkpointing",
        # What stops a run: resumed as it was, it would stop at the same place again.
        "on_reward_error", "max_parity",
    }
)  # fmt: skip
"""Settings that a resumed run may have otherwise: they change where, how fast and how long, not what is learned."""


def claim_output(config: TrainConfig) -> Path | None:
    """The checkpoint to go on from; ``None`` to start from the beginning.

    Raises:
        ConfigError: The output directory holds another run, or a run with other settings.
    """
    checkpoint = latest(config.output_dir / "checkpoints")
    if config.resume:
        if checkpoint is not None:
            check_settings(config, read_state(checkpoint))
        return checkpoint
    if checkpoint is not None or (config.output_dir / METRICS_FILE).exists():
        raise ConfigError(
            f"{config.output_dir} holds a run already; pass --resume to go on with it, or another --output-dir"
        )
    return None


def check_settings(config: TrainConfig, state: Mapping[str, Any]) -> None:
    """Compare settings with those that a checkpoint was made under.

    Args:
        config: The settings of now.
        state: What the checkpoint says: ``update``, and ``config`` as ``to_json`` wrote it.

    Raises:
        ConfigError: One differs that must not, or more updates are done than are asked for.
    """
    now = json.loads(json.dumps(config.to_json()))
    then = state.get("config", {})
    changed = [name for name in now if name not in MAY_CHANGE and name in then and then[name] != now[name]]
    if changed:
        differences = "; ".join(f"{name} was {then[name]!r}, now {now[name]!r}" for name in changed)
        raise ConfigError(
            f"the run in {config.output_dir} has other settings: {differences}; resume it with its own, or start "
            "another with another --output-dir"
        )
    if config.num_updates < state["update"]:
        raise ConfigError(
            f"num_updates is {config.num_updates}, but the run in {config.output_dir} has done {state['update']}"
        )
