"""One advantage an episode: every turn of it gets the same."""

from __future__ import annotations

from functools import partial

from agents.advantages.base import Floats
from agents.advantages.groups import centre, leave_one_out, per_group, standardise
from agents.advantages.returns import episode_returns, to_turns
from agents.batch import TurnBatch


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
        >>> import numpy as np
        >>> batch = TurnBatch(
        ...     np.zeros((2, 2)), np.array([1.0, 0.0]), np.array([[True, True], [True, False]]), np.array([7, 7])
        ... )
        >>> grpo(batch).round(4).tolist()
        [[0.7071, 0.7071], [-0.7071, 0.0]]
    """
    returns = episode_returns(batch, include_turn_rewards)
    return to_turns(batch, per_group(returns, batch.groups, partial(standardise, eps=eps)))


def dr_grpo(batch: TurnBatch, include_turn_rewards: bool = False) -> Floats:
    """Dr. GRPO: as ``grpo`` without the division, ``A[b, t] = R[b] - mean_g R``.

    Its gradient is the policy gradient times ``(G - 1) / G``, since an episode stands in its own baseline.

    Source:
        Liu et al., Understanding R1-Zero-like training (arXiv 2503.20783). Use with ``normalizer="constant"``.
    """
    returns = episode_returns(batch, include_turn_rewards)
    return to_turns(batch, per_group(returns, batch.groups, centre))


def rloo(batch: TurnBatch, include_turn_rewards: bool = False) -> Floats:
    """Leave-one-out: ``A[b, t] = R[b] - mean of R over the others of the group``. Unbiased.

    Source:
        Ahmadian et al., Back to Basics (arXiv 2402.14740), section 3.
    """
    returns = episode_returns(batch, include_turn_rewards)
    return to_turns(batch, per_group(returns, batch.groups, leave_one_out))
