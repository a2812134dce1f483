"""What the turns of rollouts were worth: every term of a ``RewardSum``, in one call for all episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.advantages import observation_anchors
from agents.batch import TurnBatch, turn_batch
from agents.metrics import OUTCOME
from agents.overlong import OverlongPolicy, apply_policy
from agents.rollout import Rollout
from rewards import RewardSum, RewardTerms
from toolenv.errors import InfrastructureError

KEEP_ALL = OverlongPolicy()


class Scored(NamedTuple):
    """Rollouts that can be learned from.

    Attributes:
        rollouts: B rollouts, without those that were left out.
        terms: Their rewards, term by term.
        turns: Their turns as a batch, as they were scored.
        masked: For each rollout on which a reward failed, why; these are left out.
        charged: The turns without what the policy on cut and void ones takes off: what an estimator gets.
        keep: ``(B, T)`` bool, the turns that are learned from.
    """

    rollouts: list[Rollout]
    terms: list[RewardTerms]
    turns: TurnBatch
    masked: list[str]
    charged: TurnBatch
    keep: NDArray[np.bool_]


def score(rewards: RewardSum, rollouts: Sequence[Rollout], policy: OverlongPolicy = KEEP_ALL) -> Scored:
    """Score rollouts, and leave out those on which a reward failed or whose outcome none had an opinion on.

    Args:
        rewards: The rewards.
        rollouts: The rollouts.
        policy: What cut episodes, cut turns and void turns count for.

    Raises:
        InfrastructureError: There is none.
        RewardError: A reward failed, and the policy is to stop.
    """
    terms = rewards.score([rollout.episode for rollout in rollouts])
    masked = [next(iter(row.errors.values())) for row in terms if row.errors]
    kept = [i for i, row in enumerate(terms) if not row.errors and not np.isnan(row.columns[OUTCOME]).all()]
    if not kept:
        why = (
            f"a reward failed on {len(masked)} of {len(rollouts)} episodes: {masked[0]}"
            if masked
            else f"{len(rollouts)} were played to their end, and none of these was given an outcome; look at the "
            "environment's tools and at the outcome reward"
        )
        raise InfrastructureError(f"no episode of this update can be learned from: {why}")
    return _scored([rollouts[i] for i in kept], [terms[i] for i in kept], masked, policy)


def join(parts: Sequence[Scored], policy: OverlongPolicy = KEEP_ALL) -> Scored:
    """All rollouts of several rounds, as if they had been scored in one."""
    return _scored(
        [rollout for part in parts for rollout in part.rollouts],
        [row for part in parts for row in part.terms],
        [reason for part in parts for reason in part.masked],
        policy,
    )


def _scored(rollouts: list[Rollout], terms: list[RewardTerms], masked: list[str], policy: OverlongPolicy) -> Scored:
    outcomes = [row.weights[OUTCOME] * float(np.nansum(row.columns[OUTCOME])) for row in terms]
    turns = turn_batch(rollouts, [turn_rewards(row) for row in terms], outcomes)
    turns = replace(turns, anchors=observation_anchors([rollout.episode for rollout in rollouts]))
    return Scored(rollouts, terms, turns, masked, *apply_policy(rollouts, turns, policy))


def turn_rewards(terms: RewardTerms) -> NDArray[np.float64]:
    """Weighted sum ``(T,)`` of the terms that are turn rewards; NaN where none of them scored."""
    columns = [terms.weights[name] * column for name, column in terms.columns.items() if name != OUTCOME]
    if not columns:
        return np.full(len(terms.columns[OUTCOME]), np.nan)
    stacked = np.stack(columns)
    return np.where(np.isnan(stacked).all(axis=0), np.nan, np.nansum(stacked, axis=0))
