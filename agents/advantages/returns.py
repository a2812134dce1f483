"""Rewards of a batch of turns, and what is still to come of them."""

from __future__ import annotations

import numpy as np

from agents.advantages.base import Floats, check_batch
from agents.batch import TurnBatch


def known_rewards(batch: TurnBatch) -> Floats:
    """Turn rewards ``(B, T)``; NaN where a turn was not scored, and at padding."""
    check_batch(batch, TurnBatch)
    return np.where(batch.mask, batch.rewards, np.nan)


def rewards_due(batch: TurnBatch, alpha: float = 1.0) -> Floats:
    """Everything that a turn is paid, ``(B, T)``: ``alpha`` times its reward, and at the last turn the outcome.

    Example:
        >>> batch = TurnBatch(
        ...     np.array([[0.5, np.nan]]), np.array([1.0]), np.ones((1, 2), dtype=bool), np.array([0])
        ... )
        >>> rewards_due(batch, alpha=0.5).tolist()
        [[0.25, 1.0]]
    """
    rewards = alpha * np.nan_to_num(known_rewards(batch))
    lengths = batch.mask.sum(axis=1)
    played = lengths > 0
    rewards[played, lengths[played] - 1] += batch.outcome[played]
    return rewards


def returns_to_go(rewards: Floats, gamma: float) -> Floats:
    """``G[b, t] = rewards[b, t] + gamma * G[b, t + 1]``.

    Example:
        >>> returns_to_go(np.array([[1.0, 0.0, 4.0]]), gamma=0.5).tolist()
        [[2.0, 2.0, 4.0]]
    """
    returns = np.zeros_like(rewards)
    running = np.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * running
        returns[:, t] = running
    return returns


def episode_returns(batch: TurnBatch, include_turn_rewards: bool = True) -> Floats:
    """What an episode came to, ``(B,)``: its outcome, and where asked for the sum of its turn rewards."""
    check_batch(batch, TurnBatch)
    if not include_turn_rewards:
        return batch.outcome
    turns: Floats = np.nan_to_num(known_rewards(batch)).sum(axis=1)
    return batch.outcome + turns


def to_turns(batch: TurnBatch, advantages: Floats) -> Floats:
    """Hand every turn ``(B, T)`` what its episode ``(B,)`` got; 0 at padding."""
    return np.where(batch.mask, advantages[:, None], 0.0)


def masked(batch: TurnBatch, advantages: Floats) -> Floats:
    """Advantages ``(B, T)`` with 0 at padding."""
    return np.where(batch.mask, advantages, 0.0)
