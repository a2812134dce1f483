"""A batch of rollouts as arrays: its turns, which estimators read, and its tokens, which a loss reads.

``turn_ids`` is the only bridge between the two: ``token_advantages`` crosses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agents.tokens import CONTEXT, TokenHistory
from toolenv.errors import ConfigError

if TYPE_CHECKING:  # estimators read this module too, and need no torch
    import torch

    from agents.rollout import Rollout


_TYPES: Mapping[str, type[np.generic]] = {
    "mask": np.bool_, "groups": np.int64, "turn_ids": np.int64, "anchors": np.object_
}  # fmt: skip
"""Of the fields of a batch; of all others it is float64."""


@dataclass(frozen=True, slots=True)
class TurnBatch:
    """The facts of B episodes of at most T turns.

    Each field takes what NumPy can make such an array of: lists, with ``None`` for NaN, or arrays of another precision.

    Attributes:
        rewards: ``(B, T)`` float64, the process reward of each turn; NaN: the turn was not scored.
        outcome: ``(B,)`` float64, the final reward, due at an episode's last turn; an episode without one is left out.
        mask: ``(B, T)`` bool, true where there is a turn; an episode's turns come first.
        groups: ``(B,)`` int, which group an episode belongs to.
        values: ``(B, T)`` float64, a critic's value at the start of each turn.
        bootstrap: ``(B,)`` float64, the value after a truncated episode's last turn; 0 where it terminated.
        anchors: ``(B, T)``, a key of the state in which each turn began.

    Raises:
        ConfigError: Shapes that do not fit together, turns that do not come first, an outcome that is NaN, or anything
            that is no number where there should be one.

    Example:
        >>> batch = TurnBatch(rewards=[[0.5, None], [1, 0]], outcome=[1, 0], mask=[[1, 1], [1, 0]], groups=[7, 7])
        >>> batch.rewards
        array([[0.5, nan],
               [1. , 0. ]])
    """

    rewards: NDArray[np.float64]
    outcome: NDArray[np.float64]
    mask: NDArray[np.bool_]
    groups: NDArray[np.int64]
    values: NDArray[np.float64] | None = None
    bootstrap: NDArray[np.float64] | None = None
    anchors: NDArray[np.object_] | None = None

    def __post_init__(self) -> None:
        _make_arrays(self)
        _check_shapes(self, ("mask", "values", "anchors"))
        _check_numbers(np.where(self.mask, self.rewards, 0.0), self.outcome)
        late = np.argwhere(self.mask[:, 1:] & ~self.mask[:, :-1])
        if late.size:
            b, t = late[0].tolist()
            raise ConfigError(
                f"mask has turn {t + 1} of episode {b}, but not turn {t}; an episode's turns come first, padding after"
            )


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """The facts of B episodes of at most L tokens, for estimators that work token by token.

    Each field takes what NumPy can make such an array of, as in ``TurnBatch``.

    Attributes:
        rewards: ``(B, L)`` float64, the reward due at each token; NaN: nothing was scored there.
        mask: ``(B, L)`` bool, true at the tokens that the policy sampled (its actions).
        turn_ids: ``(B, L)`` int, the turn whose action holds the token, -1 elsewhere; ``None``: all are one turn.
        outcome: ``(B,)`` float64, the final reward, due at an episode's last action token; ``None``: 0.
        groups: ``(B,)`` int, which group an episode belongs to; ``None``: each is its own.
        values: ``(B, L)`` float64, a critic's value of the state before each token; ``None``: 0.
        bootstrap: ``(B,)`` float64, the value after a truncated episode's last token, 0 where it terminated; ``None``:
            0.

    Raises:
        ConfigError: Shapes that do not fit together, a sampled token without a turn, an outcome that is NaN, or
            anything that is no number where there should be one.
    """

    rewards: NDArray[np.float64]
    mask: NDArray[np.bool_]
    turn_ids: NDArray[np.int64] | None = None
    outcome: NDArray[np.float64] | None = None
    groups: NDArray[np.int64] | None = None
    values: NDArray[np.float64] | None = None
    bootstrap: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        _make_arrays(self)
        _check_shapes(self, ("mask", "turn_ids", "values"))
        _check_numbers(self.rewards, np.zeros(len(self.rewards)) if self.outcome is None else self.outcome)
        if self.turn_ids is not None and (self.mask & (self.turn_ids < 0)).any():
            b, column = np.argwhere(self.mask & (self.turn_ids < 0))[0].tolist()
            raise ConfigError(
                f"mask says that token {column} of episode {b} was sampled, and turn_ids that it belongs to no turn, "
                f"{self.turn_ids[b, column]}; number the turns from 0"
            )


def _make_arrays(batch: TurnBatch | TokenBatch) -> None:
    """Have each field be an array of its type; one that is one already stays the same object."""
    for field in fields(batch):
        value = getattr(batch, field.name)
        if value is not None:
            object.__setattr__(batch, field.name, _as_array(field.name, value))


def _as_array(name: str, value: ArrayLike) -> NDArray[Any]:
    kind = _TYPES.get(name, np.float64)
    try:
        with np.errstate(invalid="ignore"):  # NaN is no integer, which is said below
            given, array = np.asarray(value), np.asarray(value, dtype=kind)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be an array of {kind.__name__}, but NumPy can make none: {error}") from error
    if kind in (np.bool_, np.int64) and given.dtype != kind and not np.array_equal(given, array):
        allowed = "true and false" if kind is np.bool_ else "whole numbers"
        raise ConfigError(f"{name} must hold {allowed}; got {given.ravel()[:8].tolist()}")
    return array


def _check_shapes(batch: TurnBatch | TokenBatch, grids: Sequence[str]) -> None:
    """``grids`` are as large as the rewards, ``(B, T)`` or ``(B, L)``; the others are ``(B,)``."""
    shape = batch.rewards.shape
    if len(shape) != 2 or not shape[1]:
        raise ConfigError(f"rewards must be a row an episode, and a column at least; got shape {shape}")
    expected = {**dict.fromkeys(grids, shape), **dict.fromkeys(("outcome", "groups", "bootstrap"), shape[:1])}
    for name, wanted in expected.items():
        value = getattr(batch, name)
        if value is not None and value.shape != wanted:
            raise ConfigError(f"{name} must have shape {wanted} to fit rewards {shape}, not {value.shape}")


def _check_numbers(rewards: NDArray[np.float64], outcome: NDArray[np.float64]) -> None:
    unknown = np.flatnonzero(np.isnan(outcome))
    if unknown.size:
        raise ConfigError(f"the outcome of episode {unknown[0]} is NaN; leave out what nobody judged, it is no 0")
    endless = np.flatnonzero(np.isinf(rewards).any(axis=1) | np.isinf(outcome))
    if endless.size:
        raise ConfigError(f"episode {endless[0]} has an infinite reward or outcome; clip it, for no mean can hold it")


def turn_batch(
    rollouts: Sequence[Rollout],
    rewards: Sequence[ArrayLike],
    outcomes: ArrayLike,
    groups: ArrayLike | None = None,
) -> TurnBatch:
    """Turns of rollouts, with what they were worth.

    Args:
        rollouts: B rollouts.
        rewards: One array ``(turns of the episode,)`` a rollout; NaN where a turn was not scored.
        outcomes: ``(B,)``, the final rewards.
        groups: ``(B,)``; by default episodes of one seed are a group.

    Raises:
        ConfigError: No rollout, or rewards that do not fit the turns.
    """
    if not rollouts:
        raise ConfigError("a batch needs at least one rollout; got none")
    counts = [len(rollout.episode.turns) for rollout in rollouts]
    arrays = [np.asarray(row, dtype=np.float64) for row in rewards]
    if [row.shape for row in arrays] != [(count,) for count in counts]:
        raise ConfigError(f"rewards have lengths {[row.shape for row in arrays]}, the episodes {counts} turns")
    mask = np.arange(max(counts))[None, :] < np.array(counts)[:, None]
    padded = np.zeros(mask.shape, dtype=np.float64)
    padded[mask] = np.concatenate(arrays)
    if groups is None:
        groups = np.unique([_group_key(rollout) for rollout in rollouts], return_inverse=True)[1]
    return TurnBatch(
        rewards=padded,
        outcome=np.asarray(outcomes, dtype=np.float64),
        mask=mask,
        groups=np.asarray(groups),
        bootstrap=np.zeros(len(rollouts)),
    )


def _group_key(rollout: Rollout) -> str:
    # An evaluation may name tasks for one seed, so that the seed alone is not the group.
    return f"{rollout.episode.seed}/{rollout.episode.task.id}"


@dataclass(frozen=True, slots=True)
class TokenTensors:
    """The tokens of B rollouts, padded on the right to L.

    Attributes:
        input_ids: ``(B, L)`` int64.
        attention_mask: ``(B, L)`` int64, 1 for tokens, 0 for padding.
        turn_ids: ``(B, L)`` int64, the turn whose action holds the token, -1 elsewhere.
        action_mask: ``(B, L)`` bool, true for sampled tokens: ``turn_ids >= 0``.
        logprobs: ``(B, L)`` float32, log-probability with which a token was sampled, 0 elsewhere. All stand at the
            position of the token itself, not of the one before it.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    turn_ids: torch.Tensor
    action_mask: torch.Tensor
    logprobs: torch.Tensor

    def to(self, device: torch.device | str) -> TokenTensors:
        """The same tensors on another device."""
        return TokenTensors(*(getattr(self, field.name).to(device) for field in fields(self)))

    def rows(self, index: slice | torch.Tensor | Sequence[int]) -> TokenTensors:
        """Some rows, without columns that are padding in all of them: a micro-batch."""
        length = int(self.attention_mask[index].sum(dim=1).max())
        return TokenTensors(*(getattr(self, field.name)[index][:, :length] for field in fields(self)))


def pack(rollouts: Sequence[Rollout], pad_id: int | None, *, keep_tail: bool = False) -> TokenTensors:
    """Tokens of rollouts as tensors.

    Args:
        rollouts: B rollouts.
        pad_id: Token id that fills the rows; ``None``: any, since nothing looks at it.
        keep_tail: Keep what follows the last action, such as the last observation of an episode that was cut: a
            critic needs it for the value after the end; a policy loss does not.

    Raises:
        ConfigError: No rollout.
    """
    if not rollouts:
        raise ConfigError("a batch needs at least one rollout; got none")
    return pack_histories([rollout.tokens for rollout in rollouts], pad_id, keep_tail=keep_tail)


def pack_histories(histories: Sequence[TokenHistory], pad_id: int | None, *, keep_tail: bool = True) -> TokenTensors:
    """Token histories as tensors; see ``pack``."""
    import torch

    lengths = [len(history) if keep_tail else _without_tail(history) for history in histories]
    shape = (len(histories), max(lengths))
    input_ids = torch.full(shape, pad_id or 0, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    turn_ids = torch.full(shape, CONTEXT, dtype=torch.int64)
    logprobs = torch.zeros(shape, dtype=torch.float32)
    for row, (history, length) in enumerate(zip(histories, lengths, strict=True)):
        input_ids[row, :length] = torch.tensor(history.ids[:length])
        attention_mask[row, :length] = 1
        turn_ids[row, :length] = torch.tensor(history.turn_ids[:length])
        logprobs[row, :length] = torch.tensor(history.logprobs[:length])
    return TokenTensors(input_ids, attention_mask, turn_ids, turn_ids >= 0, logprobs)


def _without_tail(history: TokenHistory) -> int:
    """Length up to the last action."""
    length = len(history)
    while length > 1 and history.turn_ids[length - 1] == CONTEXT:
        length -= 1
    return length


def token_advantages(advantages: NDArray[np.float64], turn_ids: torch.Tensor) -> torch.Tensor:
    """Hand each sampled token its turn's advantage.

    Args:
        advantages: ``(B, T)``.
        turn_ids: ``(B, L)``.

    Returns:
        ``(B, L)`` float32, 0 where ``turn_ids`` is -1.

    Raises:
        ConfigError: Shapes that do not fit together.
    """
    import torch

    if len(advantages) != len(turn_ids) or int(turn_ids.max()) >= advantages.shape[1]:
        raise ConfigError(
            f"advantages {advantages.shape} do not cover turn_ids {tuple(turn_ids.shape)}, "
            f"whose last turn is {int(turn_ids.max())}"
        )
    by_turn = torch.as_tensor(advantages, dtype=torch.float32, device=turn_ids.device)
    return by_turn.gather(1, turn_ids.clamp(min=0)).masked_fill(turn_ids < 0, 0.0)
