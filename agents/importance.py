"""Importance correction between two engines: the sampler that wrote a token and the trainer that learns from it.

Both hold the same weights, and yet they give a token slightly different probabilities: other kernels, another
precision, a batch of another shape; and where rollouts run ahead of updates, other weights too. The weight
``w = trainer / sampler`` makes up for that. It is a number that multiplies a token's loss, with no gradient of its
own, and it stands beside the clipped ratio of the policy loss, which is between two policies of the trainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from agents.units import Level, unit_index, unit_sums
from toolenv.errors import ConfigError

Correction = Literal["truncate", "mask"]

MAX_LOG_WEIGHT = 20.0


@dataclass(frozen=True, slots=True)
class ImportanceWeights:
    """Weights for the token losses, and what to watch about them.

    A unit is a token, a turn or a sequence, as the level says; units without an action token count nowhere. Weighing
    micro-batches by ``units`` makes the means add up; ``effective_share`` is meant for a whole batch.

    Attributes:
        weights: ``(B, L)``, no gradient, 0 outside the mask; ``policy_loss`` takes them.
        mean: Mean of a unit's weight before it was limited; 1 where the engines agree.
        max: Largest of them.
        limited: Share of units whose weight was truncated or set to 0.
        effective_share: Effective sample size of the limited weights over the number of units, in [0, 1]:
            ``(sum w)^2 / (n sum w^2)``.
        mean_delta: Mean of ``|trainer - sampler|`` over action tokens, in nats.
        max_delta: Largest of them.
        unknown: Action tokens whose sampler log-probability is NaN; they count as equal.
        units: How many units there are.
    """

    weights: Tensor
    mean: float
    max: float
    limited: float
    effective_share: float
    mean_delta: float
    max_delta: float
    unknown: int
    units: int


@torch.no_grad()
def importance_weights(
    trainer_logprobs: Tensor,
    sampler_logprobs: Tensor,
    mask: Tensor,
    *,
    mode: Correction = "truncate",
    level: Level = "token",
    geometric: bool = False,
    low: float | None = None,
    high: float = 2.0,
    turn_ids: Tensor | None = None,
) -> ImportanceWeights:
    """Weights ``trainer / sampler`` of tokens, turns or sequences, limited.

    ``"truncate"`` gives ``min(w, high)`` (truncated importance sampling); ``"mask"`` gives ``w`` inside
    ``[low, high]`` and 0 outside (IcePop, masked importance sampling). Of a turn or a sequence, ``w`` is the product
    over its action tokens, or with ``geometric`` its geometric mean. The product is the true ratio, and it grows with
    length: 100 tokens that each differ by 0.012 nats, all one way, make 3.3, so that a limit of 3 drops long episodes.

    Divide the loss by a count taken *before* this masking (``policy_loss`` does), or what is kept is weighed up.

    Args:
        trainer_logprobs: Log-probabilities ``(B, L)`` under the trainer, of the weights that sampled (or the
            proximal policy where those are gone).
        sampler_logprobs: What the sampler said, ``(B, L)``. NaN: it said nothing, and the difference counts as 0.
        mask: Action tokens, ``(B, L)``; what stands elsewhere, even NaN, is ignored.
        mode: What happens to a weight beyond the limits.
        level: What a weight is of.
        geometric: Geometric mean instead of product, for turns and sequences.
        low: Lower limit, in [0, 1], of ``"mask"``; ``None``: there is none.
        high: Upper limit, at least 1.
        turn_ids: Turn of each token, -1 for none, ``(B, L)``; needed for ``"turn"``.

    Raises:
        ConfigError: Settings out of range or that do not fit together, or turns without ``turn_ids``.

    Source:
        Truncation: Ionides (2008), between engines Yao et al., On the rollout-training mismatch (2025); masking:
        IcePop, in arXiv 2510.18855.

    Example:
        >>> trainer, sampler = torch.tensor([[0.5, 0.25, 0.2]]).log(), torch.tensor([[0.1, 0.5, 0.2]]).log()
        >>> mask = torch.ones(1, 3, dtype=torch.bool)
        >>> importance_weights(trainer, sampler, mask, high=2.0).weights
        tensor([[2.0000, 0.5000, 1.0000]])
        >>> importance_weights(trainer, sampler, mask, mode="mask", low=0.6, high=2.0).weights
        tensor([[0., 0., 1.]])
    """
    check_correction(mode, level, geometric, low, high)
    mask = mask.bool()
    known = mask & ~sampler_logprobs.isnan()
    delta = torch.where(known, trainer_logprobs, 0.0) - torch.where(known, sampler_logprobs, 0.0).to(trainer_logprobs)
    index = unit_index(mask, level, turn_ids)
    size = unit_sums(mask.to(delta), index)
    total = unit_sums(delta, index)
    raw = (total / size.clamp(min=1) if geometric else total).clamp(-MAX_LOG_WEIGHT, MAX_LOG_WEIGHT).exp()
    beyond = raw > high
    if mode == "mask":
        beyond = beyond | (raw < (low or 0.0))
    limited = torch.where(beyond, high if mode == "truncate" else 0.0, raw)
    return _summary(limited, raw, beyond, delta, mask, mask.double() / size.double().clamp(min=1), mask & ~known)


def check_correction(mode: Correction, level: Level, geometric: bool, low: float | None, high: float) -> None:
    """Check settings of ``importance_weights`` before there is anything to weigh.

    Raises:
        ConfigError: Settings out of range or that do not fit together.
    """
    if mode not in get_args(Correction):
        raise ConfigError(f"mode must be one of {', '.join(get_args(Correction))}; got {mode!r}")
    if geometric and level == "token":
        raise ConfigError("geometric means of single tokens are the tokens; leave it out, or take turns or sequences")
    if low is not None and mode == "truncate":
        raise ConfigError(f"low={low!r} is for mode 'mask'; truncation has only the upper limit")
    if not (high >= 1 and 0 <= (low or 0.0) <= 1):
        raise ConfigError(f"high must be at least 1 and low in [0, 1] or None; got {high!r}, {low!r}")


def _summary(
    limited: Tensor, raw: Tensor, beyond: Tensor, delta: Tensor, mask: Tensor, share: Tensor, unknown: Tensor
) -> ImportanceWeights:
    """What to log; ``share`` is a token's share of its unit, so that sums weighed by it are sums over units."""
    units = max(float(share.sum()), 1.0)
    squares = float((share * limited.double().square()).sum())
    total = float((share * limited.double()).sum())
    differences = delta.abs()
    return ImportanceWeights(
        weights=torch.where(mask, limited, 0.0),
        mean=float((share * raw.double()).sum()) / units,
        max=float(torch.where(mask, raw, 0.0).max()) if mask.numel() else 0.0,
        limited=float((share * beyond).sum()) / units,
        effective_share=total**2 / (units * squares) if squares else 0.0,
        mean_delta=float(differences.double().sum()) / max(int(mask.sum()), 1),
        max_delta=float(differences.max()) if mask.numel() else 0.0,
        unknown=int(unknown.sum()),
        units=round(float(share.sum())),
    )
