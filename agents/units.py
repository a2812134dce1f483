"""Units of a batch: the token, turn or sequence that a token of ``(B, L)`` belongs to, and sums over it."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from toolenv.errors import ConfigError

Level = Literal["token", "turn", "sequence"]


def same_shape(wanted: Tensor, like: str, **tensors: Tensor | None) -> None:
    """Refuse tensors of another shape, which broadcasting would turn into a wrong number in silence.

    Args:
        wanted: The tensor whose shape all must have.
        like: Its name.
        tensors: The others, by name; ``None`` where one was not given.

    Raises:
        ConfigError: One has another shape.
    """
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != wanted.shape:
            raise ConfigError(f"{name} must have shape {tuple(wanted.shape)} as {like} has, not {tuple(tensor.shape)}")


def unit_index(mask: Tensor, level: Level, turn_ids: Tensor | None) -> Tensor:
    """A number for each token's unit, ``(B, L)``.

    Tokens outside of any turn share a number that is theirs alone; what is masked is the caller's to leave out.

    Args:
        mask: Action tokens, ``(B, L)``.
        level: What a unit is.
        turn_ids: Turn of each token, -1 for none, ``(B, L)``; needed where a unit is a turn.

    Raises:
        ConfigError: No such level, turns without turn ids, or turn ids of another shape.
    """
    if level not in get_args(Level):
        raise ConfigError(f"a level is one of {', '.join(get_args(Level))}; got {level!r}")
    rows = torch.arange(mask.shape[0], device=mask.device)[:, None].expand(mask.shape)
    if level == "token":
        return torch.arange(mask.numel(), device=mask.device).view(mask.shape)
    if level == "sequence":
        return rows
    if turn_ids is None:
        raise ConfigError("turn_ids are needed to count turns; pass the (B, L) tensor of the batch")
    same_shape(mask, "the mask", turn_ids=turn_ids)
    width = int(turn_ids.max()) + 2 if turn_ids.numel() else 1
    return rows * width + turn_ids + 1


def unit_sums(values: Tensor, index: Tensor) -> Tensor:
    """Sum over each unit, at each of its tokens, ``(B, L)``.

    Args:
        values: ``(B, L)``, 0 where a token shall not count.
        index: ``(B, L)``, from ``unit_index``.

    Example:
        >>> turn_ids = torch.tensor([[0, 0, -1, 1]])
        >>> index = unit_index(turn_ids >= 0, "turn", turn_ids)
        >>> unit_sums(torch.tensor([[1.0, 2.0, 0.0, 4.0]]), index)
        tensor([[3., 3., 0., 4.]])
    """
    flat = index.flatten()
    size = int(flat.max()) + 1 if flat.numel() else 0
    sums = torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, flat, values.flatten())
    return sums[flat].view_as(values)


def unit_means(values: Tensor, mask: Tensor, level: Level, turn_ids: Tensor | None = None) -> Tensor:
    """Mean over the action tokens of each unit, at each token of it, ``(B, L)``.

    Args:
        values: ``(B, L)``.
        mask: Action tokens, ``(B, L)`` bool.
        level: What a unit is.
        turn_ids: Turn of each token, -1 for none, ``(B, L)``; needed where a unit is a turn.

    Raises:
        ConfigError: No such level, or turns without turn ids.
    """
    if level == "token":
        return values
    index, action = unit_index(mask, level, turn_ids), mask.to(values.dtype)
    return unit_sums(torch.where(mask, values, 0.0), index) / unit_sums(action, index).clamp(min=1)
