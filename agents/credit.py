"""PPO's credit: rewards at the tokens they are due at, and what an estimator makes of them and a critic's values."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.advantages import AdvantageEstimator, TokenEstimator, trm_ppo_rewards
from agents.batch import TokenBatch, TokenTensors, TurnBatch, token_advantages
from agents.config import PPOConfig
from agents.losses import kl_rewards
from toolenv.errors import ConfigError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Credit:
    """What each token earned, and what the critic should have said.

    Attributes:
        advantages: ``(B, L)`` float32, 0 off the action tokens.
        returns: ``(B, L)`` float32, advantages plus values: the critic's targets.
        value_mask: ``(B, L)`` bool, the tokens whose value the estimator read, and the critic learns.
        by_turn: ``(B, T)`` float64, the mean advantage over a turn's tokens.
    """

    advantages: torch.Tensor
    returns: torch.Tensor
    value_mask: torch.Tensor
    by_turn: Floats


def place_rewards(
    config: PPOConfig, turns: TurnBatch, tokens: TokenTensors, ref_logprobs: torch.Tensor | None
) -> Floats:
    """Rewards ``(B, L)`` at the tokens that they are due at.

    A turn reward, times ``alpha``, is due at the last token of its turn's action, the outcome at an episode's last
    action token; with ``kl_in="reward"`` each action token pays for leaving the reference.
    """
    rewards = trm_ppo_rewards(turns, tokens.turn_ids.numpy(), alpha=config.alpha)
    if config.kl_in == "reward" and ref_logprobs is not None:
        rewards = rewards + kl_rewards(tokens.logprobs, ref_logprobs, tokens.action_mask, config.kl_coef).numpy()
    return rewards


def assign_credit(
    config: PPOConfig, tokens: TokenTensors, rewards: Floats, values: torch.Tensor, bootstrap: Floats
) -> Credit:
    """Advantages and value targets.

    Args:
        config: Names the estimator.
        tokens: B packed rollouts of at most L tokens.
        rewards: ``(B, L)``, as ``place_rewards`` makes them.
        values: ``(B, L)``, of the state before each action token.
        bootstrap: ``(B,)``, the value after the last token where it counts, else 0.
    """
    estimator: Any = config.make_estimator()
    turn_ids, known = tokens.turn_ids.numpy(), values.double().numpy()
    if config.over_turns:
        starts = turn_starts(turn_ids)
        batch = _turns(turn_ids, rewards, np.where(starts, known, 0.0), bootstrap)
        by_turn = estimate(estimator, batch, config.estimator)
        advantages, value_mask = token_advantages(by_turn, tokens.turn_ids), torch.from_numpy(starts)
    else:
        facts = TokenBatch(rewards, tokens.action_mask.numpy(), turn_ids, values=known, bootstrap=bootstrap)
        by_token = estimate(estimator, facts, config.estimator)
        by_turn = sum_by_turn(turn_ids, by_token) / np.maximum(sum_by_turn(turn_ids, np.ones_like(by_token)), 1.0)
        advantages, value_mask = torch.from_numpy(by_token).float(), tokens.action_mask
    return Credit(advantages, advantages + values, value_mask, by_turn)


def estimate(estimator: AdvantageEstimator | TokenEstimator, batch: TurnBatch | TokenBatch, name: str) -> Floats:
    """Call an estimator, and look at what it returns: a user's own may return anything.

    Args:
        estimator: The estimator.
        batch: Turns for one of turns, tokens for one of tokens.
        name: What it is called.

    Returns:
        Its advantages, of the mask's shape.

    Raises:
        ConfigError: It cannot take such a batch, or returned another shape, or an advantage of a turn or sampled token
            that is not a finite number.

    Example:
        >>> tokens = TokenBatch(np.zeros((2, 3)), np.ones((2, 3), dtype=bool))
        >>> estimate(lambda batch: batch.rewards.sum(axis=1), tokens, "mine:total")
        Traceback (most recent call last):
        toolenv.errors.ConfigError: estimator 'mine:total' must return advantages of shape (2, 3), not (2,)
    """
    try:
        advantages = np.asarray(estimator(batch), dtype=np.float64)  # type: ignore[arg-type]
    except (TypeError, AttributeError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"estimator {name!r} must make advantages of a {type(batch).__name__}, which it is handed; it failed with "
            f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"
        ) from error
    if advantages.shape != batch.mask.shape:
        raise ConfigError(
            f"estimator {name!r} must return advantages of shape {batch.mask.shape}, not {advantages.shape}"
        )
    wrong = np.argwhere(batch.mask & ~np.isfinite(advantages))
    if wrong.size:
        row, column = wrong[0].tolist()
        raise ConfigError(
            f"estimator {name!r} must return finite advantages; that of episode {row} at {column} is "
            f"{advantages[row, column]}"
        )
    return advantages


def whitened(advantages: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Advantages ``(B, L)`` with mean 0 and spread 1 over the tokens of ``mask``, 0 elsewhere; equal ones become 0.

    Example:
        >>> whitened(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]]))
        tensor([[-1.,  1.,  0.]])
    """
    chosen = advantages[mask].double()
    spread = chosen.std(correction=0)
    scaled = (advantages.double() - chosen.mean()) / torch.where(spread > 0, spread, 1.0)
    return scaled.float().masked_fill(~mask, 0.0)


def turn_starts(turn_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The first token of each turn's action, ``(B, L)``.

    Example:
        >>> turn_starts(np.array([[-1, 0, 0, -1, 1]])).astype(int)
        array([[0, 1, 0, 0, 1]])
    """
    before = np.pad(turn_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    starts: NDArray[np.bool_] = (turn_ids >= 0) & (turn_ids != before)
    return starts


def sum_by_turn(turn_ids: NDArray[np.int64], values: NDArray[Any]) -> Floats:
    """Sum of ``values`` ``(B, L)`` over the action tokens of each turn, ``(B, T)``.

    Example:
        >>> sum_by_turn(np.array([[-1, 0, 0, -1, 1]]), np.array([[9.0, 1.0, 2.0, 9.0, 3.0]]))
        array([[3., 3.]])
    """
    action = turn_ids >= 0
    sums = np.zeros((len(turn_ids), int(turn_ids.max(initial=0)) + 1))
    np.add.at(sums, (np.nonzero(action)[0], turn_ids[action]), values[action])
    return sums


def _turns(turn_ids: NDArray[np.int64], rewards: Floats, values: Floats, bootstrap: Floats) -> TurnBatch:
    """A turn as one action: its tokens' rewards added up, and the value at its first token."""
    rows = len(turn_ids)
    return TurnBatch(
        rewards=sum_by_turn(turn_ids, rewards),
        outcome=np.zeros(rows),
        mask=sum_by_turn(turn_ids, np.ones(turn_ids.shape)) > 0,
        groups=np.arange(rows),
        values=sum_by_turn(turn_ids, values),
        bootstrap=bootstrap,
    )
