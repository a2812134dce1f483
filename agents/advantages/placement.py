"""From turn rewards to token rewards: which token is paid."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from agents.advantages.base import Floats
from agents.advantages.returns import rewards_due
from agents.batch import TurnBatch
from toolenv.errors import ConfigError


def trm_ppo_rewards(batch: TurnBatch, turn_ids: ArrayLike, alpha: float = 0.05) -> Floats:
    """Put each turn's reward on the last token of its action, and the outcome on the last action token of all.

    ``r[b, l] = alpha * rewards[b, t]`` where ``l`` is the last token of turn ``t``'s action, plus ``outcome[b]`` where
    ``t`` is the last turn; 0 elsewhere. So TRM pays PPO: the score of a tool call at the end of the call, not at the
    tool's result, and little of it, since a score of at least 0 pays for calling at all. With ``alpha=1`` it is the
    plain placement of any turn rewards.

    The outcome is in there: leave ``TokenBatch.outcome`` at ``None``, else it is paid twice.

    Args:
        batch: The turns; a turn that was not scored (NaN) is paid nothing.
        turn_ids: ``(B, L)``, the turn whose action holds the token, -1 elsewhere.
        alpha: Weight of turn rewards against the outcome.

    Returns:
        ``(B, L)`` float64; its sum over an episode is ``alpha * sum of turn rewards + outcome``.

    Raises:
        ConfigError: Turns and tokens that do not fit together: a turn without a token would lose its reward.

    Source:
        Empowering LLM Tool Invocation with Tool-call Reward Model, the section on PPO.

    Example:
        >>> turns = TurnBatch(np.array([[0.5, np.nan]]), np.ones(1), np.ones((1, 2), dtype=bool), np.zeros(1))
        >>> trm_ppo_rewards(turns, [[-1, 0, 0, -1, 1, 1]], alpha=0.1).tolist()
        [[0.0, 0.0, 0.05, 0.0, 0.0, 1.0]]
    """
    ids = np.asarray(turn_ids)
    rows, turns = batch.mask.shape
    if not np.issubdtype(ids.dtype, np.integer):
        raise ConfigError(f"turn_ids must be whole numbers; got an array of {ids.dtype}")
    if ids.ndim != 2 or len(ids) != rows or ids.max(initial=-1) >= turns:
        raise ConfigError(
            f"turn_ids {ids.shape}, whose last turn is {ids.max(initial=-1)}, do not fit a batch of {rows} episodes "
            f"with at most {turns} turns"
        )
    row, column = np.nonzero(ids >= 0)
    last = np.full((rows, turns), -1)
    np.maximum.at(last, (row, ids[row, column]), column)
    unlike = np.argwhere((last >= 0) != batch.mask)
    if unlike.size:
        b, t = unlike[0].tolist()
        fault = "has no token in turn_ids" if batch.mask[b, t] else "has tokens in turn_ids, but is none of the batch's"
        raise ConfigError(f"turn {t} of episode {b} {fault}; both must come from the same rollouts, in the same order")
    placed = np.zeros(ids.shape)
    row, turn = np.nonzero(batch.mask)
    placed[row, last[row, turn]] = rewards_due(batch, alpha)[row, turn]
    return placed
