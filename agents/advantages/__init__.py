"""Credit: which turn earned what. Estimators are pure functions of a ``TurnBatch``.

Each returns advantages ``(B, T)``, float64, 0 at padding; ``agents.batch.token_advantages`` hands them to the tokens.
Rows of one group are episodes of one task, and no estimator lets one group see another. Cases that all share:

- *Singleton group.* Nothing to compare with: 0. (Dividing by a made-up spread of 1 instead would hand an episode its
  raw reward, which pays for being the only one.)
- *Zero spread.* Decided by ``max == min``, never by a standard deviation that rounding left above 0: 0.
- *Turn that was not scored* (NaN, as an answer turn is not by a tool-call reward model). It enters no statistic and
  adds nothing to a return. An episode whose outcome is NaN must be left out before.
- *Failed or cut episode.* No special rule: its outcome says what it was worth.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from agents.batch import TurnBatch
from rewards.options import check_choice, check_flag, check_number, is_number
from toolenv.errors import ConfigError

Floats = NDArray[np.float64]
Normalize = Literal["turn", "group"]


class AdvantageEstimator(Protocol):
    """From turns to advantages."""

    def __call__(self, batch: TurnBatch) -> Floats:
        """Advantages ``(B, T)``, float64, 0 at padding."""
        ...


def grpo(batch: TurnBatch, eps: float = 1e-6, include_turn_rewards: bool = False) -> Floats:
    """GRPO: one advantage an episode, normalised in its group.

    ``A[b, t] = (R[b] - mean_g R) / (std_g R + eps)`` with the unbiased standard deviation; ``R`` is the outcome.

    Args:
        batch: The turns.
        eps: Added to the standard deviation.
        include_turn_rewards: Whether ``R`` is the outcome plus the sum of the turn rewards.

    Source:
        Shao et al., DeepSeekMath (arXiv 2402.03300), section 4.1. ``eps`` and the unbiased spread as in verl; TRL takes
        1e-4.

    Example:
        >>> batch = TurnBatch(
        ...     np.zeros((2, 2)), np.array([1.0, 0.0]), np.array([[True, True], [True, False]]), np.array([7, 7])
        ... )
        >>> grpo(batch).round(4).tolist()
        [[0.7071, 0.7071], [-0.7071, 0.0]]
    """
    returns = _episode_returns(batch, include_turn_rewards)
    return _to_turns(batch, _per_group(returns, batch.groups, partial(_standardise, eps=eps)))


def dr_grpo(batch: TurnBatch, include_turn_rewards: bool = False) -> Floats:
    """Dr. GRPO: as ``grpo`` without the division, ``A[b, t] = R[b] - mean_g R``.

    Its gradient is the policy gradient times ``(G - 1) / G``, since an episode stands in its own baseline.

    Source:
        Liu et al., Understanding R1-Zero-like training (arXiv 2503.20783). Use with ``normalizer="constant"``.
    """
    returns = _episode_returns(batch, include_turn_rewards)
    return _to_turns(batch, _per_group(returns, batch.groups, _centre))


def rloo(batch: TurnBatch, include_turn_rewards: bool = False) -> Floats:
    """Leave-one-out: ``A[b, t] = R[b] - mean of R over the others of the group``. Unbiased.

    Source:
        Ahmadian et al., Back to Basics (arXiv 2402.14740), section 3.
    """
    returns = _episode_returns(batch, include_turn_rewards)
    return _to_turns(batch, _per_group(returns, batch.groups, _leave_one_out))


def trm_grpo(
    batch: TurnBatch, alpha: float = 0.01, gamma: float = 1.0, normalize: Normalize = "turn", eps: float = 1e-6
) -> Floats:
    """TRM's turn-level GRPO: the normalised outcome, plus the normalised turn rewards still to come.

    ``A[b, t] = o[b] + alpha * sum_{k >= t} gamma^(k - t) * r[b, k]``, where ``o`` is the outcome normalised over the
    group and ``r`` the turn rewards normalised over those episodes of the group that were scored at that turn
    (``"turn"``), or over all scored turns of the group (``"group"``). Statistics are unbiased, ``(x - mean) /
    (std + eps)``; ``alpha`` comes after them, else it would cancel. The outcome is never discounted.

    ``"group"`` is the baseline that the paper warns of: where later calls score lower than first ones, it makes every
    further call cost, and the policy learns to call less. ``"turn"`` cures that, at a price of its own: a turn that
    few episodes reach is compared with those few alone, so reaching it earns nothing (see ``turn_loo``).

    Args:
        batch: The turns.
        alpha: Weight of turn rewards against the outcome.
        gamma: Discount a turn. (The paper's exponent counts tokens, which means something only at 1.)
        normalize: ``"turn"`` or ``"group"``.
        eps: Added to the standard deviations.

    Raises:
        ConfigError: Another ``normalize``.

    Source:
        Empowering LLM Tool Invocation with Tool-call Reward Model, the section on GRPO, equation 9.
    """
    if normalize not in get_args(Normalize):
        raise ConfigError(f"normalize must be 'turn' or 'group', not {normalize!r}")
    scored = np.where(batch.mask, batch.rewards, np.nan)
    normalised = np.zeros_like(scored)
    for rows in _members(batch.groups):
        block = scored[rows]
        if len(rows) == 1:
            continue  # its turns must not be compared with one another
        if normalize == "group":
            normalised[rows] = _standardise(block, eps)
        else:
            normalised[rows] = np.stack([_standardise(block[:, t], eps) for t in range(block.shape[1])], axis=1)
    outcome = _per_group(batch.outcome, batch.groups, partial(_standardise, eps=eps))
    return _masked(batch, outcome[:, None] + alpha * _returns_to_go(normalised, gamma))


def turn_loo(batch: TurnBatch, alpha: float = 1.0, gamma: float = 1.0, hold_outcome: bool = False) -> Floats:
    """Return-to-go minus the leave-one-out mean of the group, in which an episode that ended counts 0.

    ``A[b, t] = G[b, t] - mean over the others j of the group of G[j, t]``, where ``G[b, t] = sum_{k >= t}
    gamma^(k - t) * (alpha * r[b, k] + outcome[b] at the last turn)``, and ``G[j, t] = 0`` where j ended before t.

    The baseline of a turn is a function of the other episodes only, and of the turn's index, which is known before the
    turn is played. So the gradient is unbiased also where the policy itself chooses when to stop; a mean over those
    still playing is not: its number of terms depends on the choice that it judges, and reaching a turn then earns
    nothing. (In the two-action stopping problem of the tests the gradient is 0.25; a mean over the living gives 0.)

    Args:
        batch: The turns.
        alpha: Weight of turn rewards against the outcome.
        gamma: Discount a turn, of outcome and turn rewards alike.
        hold_outcome: Whether an episode that ended goes on counting with its outcome instead of 0. As unbiased, and of
            lower variance where the outcome outweighs the turn rewards: then a group of equal outcomes of different
            lengths gets no outcome credit at all.

    Source:
        The leave-one-out baseline of Kool et al. (2019), turn by turn. verl issue 7244 describes the bias avoided here.

    Example:
        >>> rewards = np.array([[0.0, 1.0], [0.0, 0.0]])
        >>> mask = np.array([[True, True], [True, False]])
        >>> turn_loo(TurnBatch(rewards, np.zeros(2), mask, np.array([0, 0]))).tolist()
        [[1.0, 1.0], [-1.0, 0.0]]
    """
    lengths = batch.mask.sum(axis=1)
    rewards = alpha * np.where(batch.mask, np.nan_to_num(batch.rewards), 0.0)
    played = lengths > 0
    rewards[played, lengths[played] - 1] += batch.outcome[played]
    returns = _returns_to_go(rewards, gamma)
    if hold_outcome:
        returns = np.where(batch.mask, returns, batch.outcome[:, None])
    return _masked(batch, _per_group(returns, batch.groups, _leave_one_out))


# Inside --------------------------------------------------------------------------------------------------------------


def _members(groups: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    return [np.flatnonzero(groups == group) for group in np.unique(groups)]


def _per_group(x: Floats, groups: NDArray[np.int64], function: Callable[[Floats], Floats]) -> Floats:
    """Apply a function to the rows of each group."""
    result = np.zeros_like(x)
    for rows in _members(groups):
        result[rows] = function(x[rows])
    return result


def _standardise(x: Floats, eps: float) -> Floats:
    """(x - mean) / (unbiased std + eps) over what is not NaN; 0 at NaN, for a single value and for equal ones."""
    known = ~np.isnan(x)
    values = x[known]
    result = np.zeros_like(x)
    if values.size > 1 and values.max() != values.min():
        result[known] = (values - values.mean()) / (values.std(ddof=1) + eps)
    return result


def _centre(x: Floats) -> Floats:
    return np.zeros_like(x) if x.max() == x.min() else x - x.mean()


def _leave_one_out(x: Floats) -> Floats:
    """Each row minus the mean of the others, column by column; 0 for a single row, and for a column of equal values."""
    count = len(x)
    if count == 1:
        return np.zeros_like(x)
    spread = x.max(axis=0) != x.min(axis=0)
    return np.where(spread, x - (x.sum(axis=0) - x) / (count - 1), 0.0)


def _returns_to_go(rewards: Floats, gamma: float) -> Floats:
    returns = np.zeros_like(rewards)
    running = np.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * running
        returns[:, t] = running
    return returns


def _episode_returns(batch: TurnBatch, include_turn_rewards: bool) -> Floats:
    if not include_turn_rewards:
        return batch.outcome
    turns: Floats = np.where(batch.mask, np.nan_to_num(batch.rewards), 0.0).sum(axis=1)
    return batch.outcome + turns


def _to_turns(batch: TurnBatch, advantages: Floats) -> Floats:
    return np.where(batch.mask, advantages[:, None], 0.0)


def _masked(batch: TurnBatch, advantages: Floats) -> Floats:
    return np.where(batch.mask, advantages, 0.0)


# The command line ----------------------------------------------------------------------------------------------------

ESTIMATORS: Mapping[str, Callable[..., Floats]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "trm_grpo": trm_grpo,
    "turn_loo": turn_loo,
}


def make_estimator(name: str, **settings: Any) -> AdvantageEstimator:
    """An estimator by name, with its settings bound.

    Args:
        name: A key of ``ESTIMATORS``, or ``"module:attribute"`` for your own.
        settings: Keyword arguments of the estimator.

    Raises:
        ConfigError: No such estimator, a setting that it does not take, or a value that makes no sense.

    Example:
        >>> make_estimator("turn_loo", alpha=0.1)(TurnBatch(
        ...     np.zeros((1, 1)), np.ones(1), np.ones((1, 1), dtype=bool), np.zeros(1, dtype=int)
        ... )).tolist()
        [[0.0]]
    """
    if name in ESTIMATORS:
        function = ESTIMATORS[name]
        _check_settings(settings)
    elif ":" in name:
        function = load_attribute(name)
    else:
        raise ConfigError(f"unknown estimator {name!r}; take one of {', '.join(ESTIMATORS)}, or 'module:attribute'")
    taken = list(inspect.signature(function).parameters)[1:]
    unknown = sorted(set(settings) - set(taken))
    if unknown:
        raise ConfigError(f"estimator {name!r} takes no {unknown[0]!r}; it takes {', '.join(taken) or 'no settings'}")
    return partial(function, **settings)


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse values that no estimator of ours can mean."""
    for name, value in settings.items():
        if name in ("alpha", "eps"):
            check_number(name, value)
        elif name == "gamma" and not (is_number(value) and 0 <= value <= 1):
            raise ConfigError(f"gamma, the discount a turn, must be a number from 0 to 1; got {value!r}")
        elif name in ("include_turn_rewards", "hold_outcome"):
            check_flag(name, value)
        elif name == "normalize":
            check_choice(name, value, get_args(Normalize))


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
