"""Checks of a run's settings, before anything is loaded: types and choices, ranges, and what does not go together."""

from __future__ import annotations

from numbers import Integral, Real
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from agents.importance import check_correction
from agents.sampling.making import check_urls
from rewards.options import check_choice, check_flag
from toolenv.errors import ConfigError

if TYPE_CHECKING:
    from agents.config import TrainConfig

_POSITIVE = (
    "num_updates", "num_envs", "max_turns", "max_new_tokens", "max_tokens", "temperature",
    "learning_rate", "max_grad_norm", "inner_epochs", "minibatch_episodes", "micro_batch_episodes", "clip_high",
    "checkpoint_every", "keep_checkpoints", "eval_episodes", "groups_per_update", "episodes_per_update",
    "critic_learning_rate", "value_clip", "max_parity", "lora_alpha",
)  # fmt: skip
_NOT_NEGATIVE = (
    "seed", "warmup", "weight_decay", "kl_coef", "entropy_coef", "eval_every", "critic_warmup", "lora_rank",
    "ray_actors", "dynamic_sampling",
)  # fmt: skip


def check_types(config: Any) -> None:
    """Check each setting against the type that its dataclass declares: what a command line does by itself.

    Raises:
        ConfigError: A setting of another type, or none of its choices.
    """
    for name, hint in get_type_hints(type(config)).items():
        _check_type(name, getattr(config, name), hint)


def _check_type(name: str, value: Any, hint: Any) -> None:
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        check_choice(name, value, inner)
    elif get_origin(hint) is tuple:
        for item in value:
            _check_type(name, item, inner[0])
    elif NoneType in inner:
        if value is not None:
            _check_type(name, value, inner[0])
    elif hint is bool:
        check_flag(name, value)
    elif hint in (int, float):
        kind, said = (Integral, "a whole number") if hint is int else (Real, "a number")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"{name} must be {said}, not {value!r}")
    elif not isinstance(value, get_origin(hint) or hint):
        raise ConfigError(f"{name} must be of type {(get_origin(hint) or hint).__name__}, not {value!r}")


def check_ranges(config: Any) -> None:
    """Check the numbers that have a plain range.

    Raises:
        ConfigError: One is out of its range.
    """
    for name in _POSITIVE:
        value = getattr(config, name, None)
        if value is not None and not value > 0:
            raise ConfigError(f"{name} must be above 0, not {value!r}")
    for name in _NOT_NEGATIVE:
        if not getattr(config, name, 0) >= 0:
            raise ConfigError(f"{name} must be at least 0, not {getattr(config, name)!r}")
    for name in ("gamma", "gae_lambda"):
        value = getattr(config, name, None)
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"{name} must lie in [0, 1], not {value!r}")
    if not 0 < config.clip_low <= 1:
        raise ConfigError(f"clip_low must lie in (0, 1], not {config.clip_low!r}")
    if config.dual_clip is not None and not config.dual_clip > 1:
        raise ConfigError(f"dual_clip must be above 1 or left out, not {config.dual_clip!r}")


def check_together(config: TrainConfig) -> None:
    """Check what does not go together, or would be left aside without a word.

    Raises:
        ConfigError: Such settings.
    """
    if config.minibatch_episodes is not None and config.minibatch_episodes > config.episodes:
        raise ConfigError(
            f"minibatch_episodes is {config.minibatch_episodes}, but an update has only {config.episodes} episodes"
        )
    if len(set(config.trackers)) < len(config.trackers):
        raise ConfigError(f"trackers are named once each, not {', '.join(config.trackers)}")
    unreadable = next((spec for spec in config.process if ":" not in spec), None)
    if unreadable is not None:
        raise ConfigError(f"process must be written as 'module:attribute', not {unreadable!r}")
    check_urls(config.sampler, config.sampler_urls)
    if config.lora_alpha is not None and not config.lora_rank:
        raise ConfigError(f"lora_alpha is {config.lora_alpha}, but without lora_rank there is no LoRA; give both")
    _check_correction(config)


def _check_correction(config: TrainConfig) -> None:
    if config.correction != "none":
        check_correction(
            config.correction, config.correction_level, config.correction_geometric, config.correction_low,
            config.correction_high,
        )  # fmt: skip
    elif config.correction_low is not None or config.correction_geometric:
        raise ConfigError(
            "correction_low and correction_geometric are for a correction, and correction is 'none'; give "
            "correction='mask', or leave them out"
        )
    else:
        for name in ("correction_level", "correction_high"):
            value = getattr(config, name)
            if value != getattr(type(config), name):
                raise ConfigError(
                    f"{name} is {value!r}, and correction is 'none'; give correction='truncate' or 'mask', or leave it "
                    "out"
                )
