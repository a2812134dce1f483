"""Estimators by name, with their settings: what the command line says."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

from agents.advantages.base import AdvantageEstimator, Floats, TokenEstimator
from agents.advantages.episode import dr_grpo, grpo, rloo
from agents.advantages.gae import token_gae, turn_aware_gae, turn_gae
from agents.advantages.gigpo import gigpo
from agents.advantages.turn import igpo, matchtir, mt_grpo, rebn, trm_grpo, turn_loo
from rewards.options import check_choice, check_flag, check_number, is_number
from toolenv.errors import ConfigError

ESTIMATORS: Mapping[str, Callable[..., Floats]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "trm_grpo": trm_grpo,
    "turn_loo": turn_loo,
    "mt_grpo": mt_grpo,
    "matchtir": matchtir,
    "gigpo": gigpo,
    "igpo": igpo,
    "rebn": rebn,
    "turn_gae": turn_gae,
}
"""Estimators of a ``TurnBatch``."""

TOKEN_ESTIMATORS: Mapping[str, Callable[..., Floats]] = {"token_gae": token_gae, "turn_aware_gae": turn_aware_gae}
"""Estimators of a ``TokenBatch``."""

NEEDS: Mapping[str, tuple[str, ...]] = {
    "gigpo": ("anchors",),
    "turn_gae": ("values", "bootstrap"),
    "token_gae": ("values", "bootstrap"),
    "turn_aware_gae": ("values", "bootstrap", "turn_ids"),
}
"""What an estimator reads of its batch beyond rewards, outcome, mask and groups; ``values`` means that it wants a
critic. An estimator that is not listed reads no more than those."""

_SHARES = ("gamma", "gae_lambda", "turn_gamma", "turn_lambda")
_NUMBERS = ("alpha", "eps", "anchor_weight")


def make_estimator(name: str, **settings: Any) -> AdvantageEstimator:
    """An estimator of turns by name, with its settings bound.

    Args:
        name: A key of ``ESTIMATORS``, or ``"module:attribute"`` for your own.
        settings: Keyword arguments of the estimator.

    Raises:
        ConfigError: No such estimator, a setting that it does not take, or a value that makes no sense.

    Example:
        >>> import numpy as np
        >>> from agents.batch import TurnBatch
        >>> make_estimator("turn_loo", alpha=0.1)(TurnBatch(
        ...     np.zeros((1, 1)), np.ones(1), np.ones((1, 1), dtype=bool), np.zeros(1, dtype=int)
        ... )).tolist()
        [[0.0]]
    """
    return _make(name, settings, ESTIMATORS, ("turns", TOKEN_ESTIMATORS, "tokens"))


def make_token_estimator(name: str, **settings: Any) -> TokenEstimator:
    """An estimator of tokens by name, with its settings bound; as ``make_estimator``, from ``TOKEN_ESTIMATORS``.

    Raises:
        ConfigError: No such estimator, a setting that it does not take, or a value that makes no sense.

    Example:
        >>> import numpy as np
        >>> from agents.batch import TokenBatch
        >>> batch = TokenBatch(np.array([[0.0, 1.0]]), np.ones((1, 2), dtype=bool))
        >>> make_token_estimator("token_gae", gae_lambda=0.5)(batch).tolist()
        [[0.5, 1.0]]
    """
    return _make(name, settings, TOKEN_ESTIMATORS, ("tokens", ESTIMATORS, "turns"))


def _make(
    name: str,
    settings: Mapping[str, Any],
    known: Mapping[str, Callable[..., Floats]],
    kinds: tuple[str, Mapping[str, Any], str],
) -> Callable[..., Floats]:
    wanted, others, other = kinds
    if name in known:
        function = known[name]
        _check_settings(function, settings)
    elif ":" in name:
        function = load_attribute(name)
        if not callable(function):
            raise ConfigError(f"estimator {name!r} must be a function of a batch, not {function!r:.80}")
    elif name in others:
        raise ConfigError(f"estimator {name!r} is one of {other}; of {wanted} there are {', '.join(known)}")
    else:
        check_name(name, known)
    taken = list(inspect.signature(function).parameters)[1:]
    unknown = sorted(set(settings) - set(taken))
    if unknown:
        raise ConfigError(f"estimator {name!r} takes no {unknown[0]!r}; it takes {', '.join(taken) or 'no settings'}")
    return partial(function, **settings)


def check_name(name: str, offered: Iterable[str]) -> None:
    """Refuse a name that no estimator has, and say which there are.

    Args:
        name: The name; that of any estimator passes, offered or not, and so does ``"module:attribute"``.
        offered: The names to take one of.

    Raises:
        ConfigError: There is no such estimator.

    Example:
        >>> check_name("rlo", ["rloo"])
        Traceback (most recent call last):
        toolenv.errors.ConfigError: unknown estimator 'rlo'; take one of rloo, or 'module:attribute'; did you mean rloo?
    """
    if name in ESTIMATORS or name in TOKEN_ESTIMATORS or ":" in name:
        return
    names = list(offered)
    hint = "".join(f"; did you mean {near}?" for near in difflib.get_close_matches(name, names, n=1))
    raise ConfigError(f"unknown estimator {name!r}; take one of {', '.join(names)}, or 'module:attribute'{hint}")


def _check_settings(function: Callable[..., Floats], settings: Mapping[str, Any]) -> None:
    """Refuse values that no estimator of ours can mean."""
    hints = get_type_hints(function)
    for name, value in settings.items():
        if name in _NUMBERS:
            check_number(name, value)
        elif name in _SHARES and not (is_number(value) and 0 <= value <= 1):
            raise ConfigError(f"{name} must be a number from 0 to 1; got {value!r}")
        elif hints.get(name) is bool:
            check_flag(name, value)
        elif get_origin(hints.get(name)) is Literal:
            check_choice(name, value, get_args(hints[name]))


def load_attribute(path: str) -> Any:
    """Import what ``"module:attribute"`` names.

    Raises:
        ConfigError: There is no such module, or no such attribute in it.

    Example:
        >>> load_attribute("math:floor")(2.5)
        2
    """
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "" if re.fullmatch(r"[\w.]+:\w+", path) else " (write it as 'module:attribute')"
        raise ConfigError(f"cannot load {path!r}{hint}: {error}") from error
