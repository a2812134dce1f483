"""Groups that teach nothing are replaced: those in which no turn has any advantage, as where all failed, or none.

Source: DAPO (arXiv 2503.14476), section 3.2, where a group teaches nothing if its outcomes are equal; here turn rewards
may still tell its episodes apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.advantages import AdvantageEstimator
from agents.config import GRPOConfig
from agents.credit import estimate
from agents.rollout import CollectResult
from agents.score import Scored, join
from agents.session import Session
from toolenv.errors import InfrastructureError
from toolenv.seeding import rng


def task_seeds(config: GRPOConfig, update: int, attempt: int = 0, groups: int | None = None) -> list[int]:
    """Seeds of an update's episodes: one a group, repeated ``group_size`` times.

    Args:
        config: Names the streams.
        update: Number of the update.
        attempt: How often groups of this update were replaced before.
        groups: How many groups; ``None``: a whole update's.

    Example:
        >>> seeds = task_seeds(GRPOConfig(groups_per_update=2, group_size=3), update=1)
        >>> len(seeds), len(set(seeds)), seeds[0] == seeds[2]
        (6, 2, True)
    """
    path = ("tasks", update) if attempt == 0 else ("tasks", update, attempt)
    drawn = rng(config.seed, *path).integers(2**31, size=groups or config.groups_per_update)
    return [int(seed) for seed in np.repeat(drawn, config.group_size)]


def play_groups(
    session: Session, config: GRPOConfig, estimator: AdvantageEstimator, update: int
) -> tuple[CollectResult, Scored, NDArray[np.float64]]:
    """Play, score and credit an update's groups, and up to ``dynamic_sampling`` times others for those that are flat.

    Returns:
        All episodes that were played, their scores, and their advantages ``(B, T)``.

    Raises:
        InfrastructureError: There is no episode to learn from.
        RewardError: A reward failed.
    """
    played = session.play(update)
    scored = session.score(update, played)
    advantages = estimate(estimator, scored.charged, config.estimator)
    for attempt in range(1, config.dynamic_sampling + 1):
        missing = config.groups_per_update - len(set(scored.turns.groups[_informative(scored, advantages)].tolist()))
        if missing <= 0:
            break
        more = session.play_more(update, task_seeds(config, update, attempt, missing), attempt)
        played = CollectResult(played.rollouts + more.rollouts, played.dropped + more.dropped)
        try:
            scored = join([scored, session.score(update, more)], config.overlong)
        except InfrastructureError:  # this round brought nothing; what was there before did
            continue
        advantages = estimate(estimator, scored.charged, config.estimator)
    return played, scored, advantages


def informative(scored: Scored, advantages: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows of the episodes in whose group some turn has an advantage; where there are none, all rows."""
    rows = _informative(scored, advantages)
    return rows if rows.size else np.arange(len(advantages))


def _informative(scored: Scored, advantages: NDArray[np.float64]) -> NDArray[np.int64]:
    groups = scored.turns.groups
    teaching = np.unique(groups[(scored.keep & (advantages != 0)).any(axis=1)])
    return np.flatnonzero(np.isin(groups, teaching))
