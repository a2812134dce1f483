"""Episodes and turns that a limit cut, and turns that said nothing: what they count for, by a stated policy.

Three things can go wrong in length or form, and each has its own setting:

- a *cut episode* was truncated: by ``max_turns``, by the token budget, or by a wrapper;
- a *cut turn* ran into ``max_new_tokens`` (its finish reason is ``"length"``);
- a *void turn* could not be read, or held neither a call nor an answer, so that nothing was executed
  (``turn.error``); a call that failed is none.

By default they are kept: a limit is an end like any other, and the outcome says what it was worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from agents.batch import TurnBatch
from agents.tokens import CONTEXT
from toolenv.errors import ConfigError

if TYPE_CHECKING:  # estimators' users read this module too, and need no torch
    from agents.batch import TokenTensors
    from agents.rollout import Rollout

CutEpisodes = Literal["keep", "mask", "penalise", "bootstrap"]
FlawedTurns = Literal["keep", "mask", "mask-episode", "penalise"]


@dataclass(frozen=True, slots=True)
class OverlongPolicy:
    """What cut episodes, cut turns and void turns count for.

    What is masked teaches the policy nothing: its tokens are in no loss, and in no count that a loss divides by (but
    ``"constant"``, which is a count of nothing in particular). It still is a fact: it stands in the statistics of its
    group, and a critic learns its value.

    Penalties are taken off rewards before credit is assigned, and add up. An outcome's is charged at its full amount;
    a turn's is a turn reward, which an estimator weighs as the others.

    Attributes:
        cut_episodes: ``"keep"``; ``"mask"``: no turn of the episode is learned from (DAPO's overlong filtering);
            ``"penalise"``: ``cut_episode_penalty`` comes off its outcome; ``"bootstrap"``: what a critic expects after
            the cut counts as the last reward (PPO alone; the limit is then no end, as if it were not the policy's own
            doing).
        cut_turns: ``"keep"``; ``"mask"``: the turn is not learned from; ``"mask-episode"``: nor is any other turn of
            its episode; ``"penalise"``: ``cut_turn_penalty`` comes off its reward.
        void_turns: The same for void turns, with ``void_turn_penalty``. SimpleTIR does ``"mask-episode"``, and lets a
            void turn end the episode, as the format ``simpletir`` does; in others the model is told what was wrong,
            and may do better.
        cut_episode_penalty: Above 0.
        cut_turn_penalty: Above 0.
        void_turn_penalty: Above 0.
        soft_limit: Tokens of an episode, counted as ``max_tokens`` is, above which 1 comes off its outcome; and in the
            ``soft_buffer`` tokens below it, a part of 1 (DAPO's soft overlong punishment). ``None``: none.
        soft_buffer: Tokens over which that penalty rises from 0 to 1.

    Raises:
        ConfigError: No such policy, or an amount out of range.

    Source:
        DAPO (arXiv 2503.14476), section 3.4: overlong filtering, and the soft punishment. SimpleTIR:
        ltzheng/SimpleTIR, ``recipe/simpletir``, setting ``mask_void_turns``.

    Example:
        >>> OverlongPolicy(void_turns="drop")
        Traceback (most recent call last):
        toolenv.errors.ConfigError: void_turns must be one of keep, mask, mask-episode, penalise; got 'drop'
    """

    cut_episodes: CutEpisodes = "keep"
    cut_turns: FlawedTurns = "keep"
    void_turns: FlawedTurns = "keep"
    cut_episode_penalty: float = 0.5
    cut_turn_penalty: float = 0.1
    void_turn_penalty: float = 0.1
    soft_limit: int | None = None
    soft_buffer: int = 256

    def __post_init__(self) -> None:
        for name, choices in (("cut_episodes", CutEpisodes), ("cut_turns", FlawedTurns), ("void_turns", FlawedTurns)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(f"{name} must be one of {', '.join(get_args(choices))}; got {getattr(self, name)!r}")
        for name in ("cut_episode_penalty", "cut_turn_penalty", "void_turn_penalty"):
            if not 0 < getattr(self, name) < np.inf:
                raise ConfigError(f"{name} must be above 0, an amount that is taken off; got {getattr(self, name)!r}")
        if self.soft_buffer < 1 or (self.soft_limit is not None and self.soft_limit <= self.soft_buffer):
            raise ConfigError(
                f"soft_limit must be above soft_buffer, and that above 0; got {self.soft_limit} and {self.soft_buffer}"
            )

    @property
    def charges_turns(self) -> bool:
        """Whether turns may be penalised, which an estimator without turn rewards would not notice."""
        return "penalise" in (self.cut_turns, self.void_turns)


def cut_episodes(rollouts: Sequence[Rollout]) -> NDArray[np.bool_]:
    """Which episodes were truncated, ``(B,)``."""
    return np.array([rollout.episode.truncated for rollout in rollouts], dtype=np.bool_)


def cut_turns(rollouts: Sequence[Rollout]) -> NDArray[np.bool_]:
    """Which turns ``max_new_tokens`` cut, ``(B, T)``."""
    return _by_turn([[reason == "length" for reason in rollout.finish_reasons] for rollout in rollouts])


def void_turns(rollouts: Sequence[Rollout]) -> NDArray[np.bool_]:
    """Which turns could not be read, or held neither a call nor an answer, ``(B, T)``."""
    return _by_turn([[turn.error is not None for turn in rollout.episode.turns] for rollout in rollouts])


def apply_policy(
    rollouts: Sequence[Rollout], turns: TurnBatch, policy: OverlongPolicy
) -> tuple[TurnBatch, NDArray[np.bool_]]:
    """Charge penalties, and say which turns are learned from.

    Args:
        rollouts: B rollouts.
        turns: Their turns.
        policy: What counts for what.

    Returns:
        The turns with penalties taken off, for an estimator; and ``(B, T)``, true for turns to learn from, for
        ``kept_tokens``. A turn that was not scored and is charged has the charge as its reward.
    """
    ended, cut, void = cut_episodes(rollouts), cut_turns(rollouts), void_turns(rollouts)
    keep = turns.mask.copy()
    charge = np.zeros(turns.rewards.shape)
    for flawed, choice, amount in (
        (cut, policy.cut_turns, policy.cut_turn_penalty),
        (void, policy.void_turns, policy.void_turn_penalty),
    ):
        if choice == "mask":
            keep &= ~flawed
        elif choice == "mask-episode":
            keep &= ~flawed.any(axis=1, keepdims=True)
        elif choice == "penalise":
            charge += amount * flawed
    if policy.cut_episodes == "mask":
        keep &= ~ended[:, None]
    outcome = turns.outcome - policy.cut_episode_penalty * (ended & (policy.cut_episodes == "penalise"))
    if policy.soft_limit is not None:
        lengths = np.array([len(rollout.tokens) for rollout in rollouts])
        outcome = outcome - soft_penalty(lengths, policy.soft_limit, policy.soft_buffer)
    rewards = np.where(charge > 0, np.nan_to_num(turns.rewards) - charge, turns.rewards)
    return replace(turns, rewards=rewards, outcome=outcome), keep


def soft_penalty(lengths: NDArray[np.int64], limit: int, buffer: int) -> NDArray[np.float64]:
    """DAPO's soft overlong punishment, as an amount to take off.

    ``(length - (limit - buffer)) / buffer``, held within 0 and 1: nothing up to ``limit - buffer``, all from ``limit``
    on.

    Args:
        lengths: ``(B,)``, tokens.
        limit: Length from which on the penalty is 1.
        buffer: Over how many tokens it rises.

    Returns:
        ``(B,)``, from 0 to 1.

    Source:
        DAPO (arXiv 2503.14476), section 3.4.

    Example:
        >>> soft_penalty(np.array([80, 90, 100, 120]), limit=100, buffer=20)
        array([0. , 0.5, 1. , 1. ])
    """
    return np.clip((lengths - (limit - buffer)) / buffer, 0.0, 1.0)


def bootstrap_values(
    rollouts: Sequence[Rollout], last_values: NDArray[np.float64], policy: OverlongPolicy
) -> NDArray[np.float64]:
    """What counts as an episode's last reward, ``(B,)``: the value after its cut where the policy says so, else 0.

    Args:
        rollouts: B rollouts.
        last_values: ``(B,)``, a critic's value of the state after the last token, the last observation included.
        policy: What counts for what.
    """
    counts = cut_episodes(rollouts) & (policy.cut_episodes == "bootstrap")
    return np.where(counts, last_values, 0.0)


def kept_tokens(tokens: TokenTensors, keep: NDArray[np.bool_]) -> TokenTensors:
    """The tokens as a loss sees them: those of turns that are not learned from become context.

    Args:
        tokens: B packed rollouts.
        keep: ``(B, T)``, from ``apply_policy``.

    Returns:
        The same tensors, where tokens of other turns have turn id -1, no log-probability, and are no action. So
        counts, ratios of sequences and all other statistics over action tokens leave them out.
    """
    import torch

    kept = torch.as_tensor(keep).gather(1, tokens.turn_ids.clamp(min=0)) & tokens.action_mask
    return replace(
        tokens,
        turn_ids=tokens.turn_ids.masked_fill(~kept, CONTEXT),
        action_mask=kept,
        logprobs=tokens.logprobs.masked_fill(~kept, 0.0),
    )


def overlong_metrics(
    rollouts: Sequence[Rollout], before: TurnBatch, after: TurnBatch, keep: NDArray[np.bool_]
) -> dict[str, float]:
    """What there was of it, and what the policy did.

    Args:
        rollouts: B rollouts.
        before: Their turns as they were scored.
        after: Their turns as ``apply_policy`` returned them.
        keep: ``(B, T)``, as it returned.

    Returns:
        ``cut_episodes``, ``cut_turns`` and ``void_turns``: shares; ``left_out/episodes`` (no turn is learned from),
        ``left_out/turns`` and ``left_out/tokens`` (sampled ones): shares that no loss sees; ``penalty``: mean amount
        that was taken off an episode, its turns' included, before any weight.
    """
    played, writers = before.mask, [np.array(rollout.tokens.turn_ids) for rollout in rollouts]
    sampled = np.stack([np.bincount(ids[ids >= 0], minlength=keep.shape[1]) for ids in writers])
    total = [batch.outcome + np.nan_to_num(batch.rewards).sum(axis=1) for batch in (before, after)]
    return {
        "cut_episodes": float(cut_episodes(rollouts).mean()),
        "cut_turns": float(cut_turns(rollouts)[played].mean()),
        "void_turns": float(void_turns(rollouts)[played].mean()),
        "left_out/episodes": float((~keep.any(axis=1)).mean()),
        "left_out/turns": float((~keep[played]).mean()),
        "left_out/tokens": float(sampled[~keep].sum() / sampled.sum()),
        "penalty": float((total[0] - total[1]).mean()),
    }


def _by_turn(rows: Sequence[Sequence[bool]]) -> NDArray[np.bool_]:
    """Facts of turns as ``(B, T)``, false at padding."""
    grid = np.zeros((len(rows), max(map(len, rows), default=0)), dtype=np.bool_)
    for row, facts in enumerate(rows):
        grid[row, : len(facts)] = facts
    return grid
