"""Generalised advantage estimation, with a critic: over tokens, over tokens and turns, over turns.

The two token estimators are one backward scan over the tokens that the policy sampled; between two of them there may
stand any number of observation tokens, which change nothing. A critic's value on a token that was not sampled is never
read.

- *A reward on a token that was not sampled* counts at the last sampled token before it, and where there is none at the
  first one after it, so that the sum of the rewards is kept. Padding cannot be told from an observation, so that a
  reward there counts too: leave it 0 or NaN.
- *An episode without a sampled token* has nothing that could learn: 0 everywhere.
- *Cut episode.* ``bootstrap`` holds the value of the state after it, and 0 where the task ended by itself. That state
  begins a turn, so it is reached with the discount between turns. Where the cut is to count as a failure, leave
  ``bootstrap`` 0 and say so in the outcome.
- *NaN reward*: nothing was scored there; it counts as 0.

What a critic is to learn, the value target, is ``advantages + values`` at the sampled tokens (or turns).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.advantages.base import Floats, check_batch
from agents.advantages.returns import masked, rewards_due
from agents.batch import TokenBatch, TurnBatch
from toolenv.errors import ConfigError


def token_gae(batch: TokenBatch, gamma: float = 1.0, gae_lambda: float = 1.0) -> Floats:
    """GAE over the sampled tokens; turns are not looked at.

    With ``n`` the next sampled token after ``l``: ``A[b, l] = d[b, l] + gamma * gae_lambda * A[b, n]``, where
    ``d[b, l] = r[b, l] + gamma * V[b, n] - V[b, l]``. After the last one, ``V[b, n]`` is the bootstrap and ``A`` is 0.

    ``gamma`` and ``gae_lambda`` count tokens: below 1, a turn earns the less the more tokens the later turns have. So
    keep ``gamma`` at 1, and take ``turn_aware_gae`` to discount by turns.

    Args:
        batch: The tokens, with ``values``.
        gamma: Discount a token.
        gae_lambda: Lambda of a token; 1 is the return minus the value.

    Source:
        Schulman et al., High-Dimensional Continuous Control Using Generalized Advantage Estimation (arXiv 1506.02438),
        equation 16, over sampled tokens only as in verl and AReaL.

    Example:
        >>> mask = np.array([[True, False, True]])
        >>> batch = TokenBatch(np.array([[0.0, 0.0, 1.0]]), mask, values=np.array([[0.25, 9.0, 0.5]]))
        >>> token_gae(batch, gae_lambda=0.5).tolist()
        [[0.5, 0.0, 0.5]]
    """
    check_batch(batch, TokenBatch)
    one_turn = np.zeros(batch.mask.shape, dtype=np.int64)
    return _scan(batch, one_turn, within=(gamma, gae_lambda), across=(gamma, gae_lambda))


def turn_aware_gae(
    batch: TokenBatch,
    gamma: float = 1.0,
    gae_lambda: float = 1.0,
    turn_gamma: float = 1.0,
    turn_lambda: float = 0.95,
) -> Floats:
    """GAE with one discount and lambda from token to token, and another from turn to turn.

    As ``token_gae``, with ``(turn_gamma, turn_lambda)`` in place of ``(gamma, gae_lambda)`` where the next sampled
    token belongs to another turn, and from the last one to the bootstrap. What a turn earns so does not depend on how
    many tokens it or another took.

    With the defaults within a turn, its first token gets exactly what ``turn_gae`` gives the turn, whatever the critic
    says about the tokens after it. With both pairs alike it is ``token_gae``.

    Args:
        batch: The tokens, with ``values`` and ``turn_ids`` (without these, all tokens are one turn).
        gamma: Discount from token to token of one turn.
        gae_lambda: Lambda from token to token of one turn.
        turn_gamma: Discount from turn to turn.
        turn_lambda: Lambda from turn to turn.

    Source:
        GAE (arXiv 1506.02438) on two time scales. RAGEN's bi-level GAE (arXiv 2504.20073) has the same aim; it finds
        turns by rewards other than 0, where here they are named.

    Example:
        >>> turn_ids = np.array([[0, 0, -1, 1, 1]])
        >>> rewards = np.array([[0.0, 0.0, 0.0, 0.0, 1.0]])
        >>> turn_aware_gae(TokenBatch(rewards, turn_ids >= 0, turn_ids), turn_gamma=0.5, turn_lambda=1.0).tolist()
        [[0.5, 0.5, 0.0, 1.0, 1.0]]
    """
    check_batch(batch, TokenBatch)
    turn_ids = np.zeros(batch.mask.shape, dtype=np.int64) if batch.turn_ids is None else batch.turn_ids
    return _scan(batch, turn_ids, within=(gamma, gae_lambda), across=(turn_gamma, turn_lambda))


def turn_gae(batch: TurnBatch, alpha: float = 1.0, gamma: float = 1.0, gae_lambda: float = 0.95) -> Floats:
    """GAE where a turn is one action: every token of a turn gets the turn's advantage.

    ``A[b, t] = d[b, t] + gamma * gae_lambda * A[b, t + 1]``, where ``d[b, t] = r[b, t] + gamma * V[b, t + 1] -
    V[b, t]``, ``r`` is ``alpha`` times the turn's reward, and at the last turn the outcome too. After the last turn
    ``V`` is the bootstrap and ``A`` is 0.

    Args:
        batch: The turns, with ``values`` at their starts, and ``bootstrap`` for episodes that were cut.
        alpha: Weight of turn rewards against the outcome.
        gamma: Discount a turn; Turn-PPO is reported to use about 0.99.
        gae_lambda: Lambda of a turn; Turn-PPO is reported to use about 0.9.

    Raises:
        ConfigError: The batch has no values.

    Source:
        Li et al., Turn-PPO (arXiv 2512.17008): GAE (arXiv 1506.02438) on the decision process of turns.

    Example:
        >>> batch = TurnBatch(
        ...     np.array([[0.5, np.nan]]), np.ones(1), np.ones((1, 2), dtype=bool), np.zeros(1),
        ...     values=np.array([[0.75, 0.5]]),
        ... )
        >>> turn_gae(batch, gae_lambda=0.5).tolist()
        [[0.5, 0.5]]
    """
    check_batch(batch, TurnBatch)
    if batch.values is None:
        raise ConfigError(
            "turn_gae needs batch.values, a critic's value at the start of each turn, (B, T), but they are None; train "
            "a critic (agents.ppo does), or take an estimator that compares within a group, such as turn_loo"
        )
    rewards, values = rewards_due(batch, alpha), batch.values
    next_value = _or_zeros(batch.bootstrap, len(values))
    next_advantage = np.zeros(len(values))
    advantages = np.zeros_like(rewards)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantages[:, t] = delta + gamma * gae_lambda * next_advantage
        next_value = np.where(batch.mask[:, t], values[:, t], next_value)
        next_advantage = np.where(batch.mask[:, t], advantages[:, t], next_advantage)
    return masked(batch, advantages)


# Inside --------------------------------------------------------------------------------------------------------------


def _scan(
    batch: TokenBatch, turn_ids: NDArray[np.int64], within: tuple[float, float], across: tuple[float, float]
) -> Floats:
    """One backward pass over the sampled tokens; ``within`` and ``across`` turns are discount and lambda."""
    mask, rewards = batch.mask, _rewards_due(batch)
    values = np.zeros_like(rewards) if batch.values is None else batch.values
    next_value = _or_zeros(batch.bootstrap, len(rewards))
    next_advantage = np.zeros(len(rewards))
    next_turn = np.full(len(rewards), -1)  # the end is another turn than the last one
    advantages = np.zeros_like(rewards)
    for column in reversed(range(rewards.shape[1])):
        sampled, turn = mask[:, column], turn_ids[:, column]
        gamma, gae_lambda = (np.where(turn == next_turn, *pair) for pair in zip(within, across, strict=True))
        delta = rewards[:, column] + gamma * next_value - values[:, column]
        advantage = delta + gamma * gae_lambda * next_advantage
        advantages[:, column] = np.where(sampled, advantage, 0.0)
        next_value = np.where(sampled, values[:, column], next_value)
        next_advantage = np.where(sampled, advantage, next_advantage)
        next_turn = np.where(sampled, turn, next_turn)
    return advantages


def _rewards_due(batch: TokenBatch) -> Floats:
    """Rewards ``(B, L)`` on sampled tokens alone, the outcome at the last of them."""
    rows, length = batch.mask.shape
    last_so_far = np.maximum.accumulate(np.where(batch.mask, np.arange(length), -1), axis=1)
    payee = np.where(last_so_far < 0, batch.mask.argmax(axis=1)[:, None], last_so_far)
    due = np.zeros((rows, length))
    np.add.at(due, (np.arange(rows)[:, None], payee), np.nan_to_num(batch.rewards))
    if batch.outcome is not None:
        due[np.arange(rows), payee[:, -1]] += batch.outcome
    return np.where(batch.mask, due, 0.0)


def _or_zeros(x: Floats | None, rows: int) -> Floats:
    return np.zeros(rows) if x is None else x
