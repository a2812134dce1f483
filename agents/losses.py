"""Losses over action tokens: the clipped objective, KL estimates, and how tokens are averaged.

All tensors are ``(B, L)``. ``mask`` is true at the tokens that the policy wrote; what stands elsewhere (even NaN) is
ignored. Averages divide by a *global* count, handed in by the caller, so that the losses of micro-batches add up to
the loss of the whole batch, whatever the split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from toolenv.errors import ConfigError

Ratio = Literal["token", "turn", "sequence"]
Normalizer = Literal["token-mean", "turn-mean", "episode-mean", "constant"]
KL = Literal["k1", "k2", "k3"]

MAX_LOG_RATIO = 20.0


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The clipped loss, and what to watch about it.

    Attributes:
        loss: Scalar; ``backward`` starts here.
        clip_fraction_low: Share of action tokens whose ratio fell below ``1 - clip_low`` with a negative advantage:
            they have no gradient.
        clip_fraction_high: The same above ``1 + clip_high`` with a positive advantage.
        dual_clip_fraction: Share of action tokens that the dual clip stopped.
        approx_kl: Mean of ``r - 1 - log r`` over action tokens, ``r`` the token's ratio: KL from the old policy.
        tokens: How many action tokens there were, to weigh micro-batches by.
    """

    loss: Tensor
    clip_fraction_low: float
    clip_fraction_high: float
    dual_clip_fraction: float
    approx_kl: float
    tokens: int


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    ratio: Ratio = "token",
    turn_ids: Tensor | None = None,
    normalizer: Normalizer = "token-mean",
    count: float | None = None,
) -> PolicyLoss:
    """PPO's clipped objective, as a loss.

    ``-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)``, averaged; with ``dual_clip = c``, where ``A < 0``, the loss
    is at most ``-c A``. ``r`` is the ratio of new to old probability: of the token; or of its turn or its sequence, as
    the geometric mean over the action tokens in there. In the latter two a token keeps its own gradient and advantage
    (GSPO's token form), so turn credit is not averaged away.

    Args:
        logprobs: Log-probabilities under the policy that is trained.
        old_logprobs: Log-probabilities under the policy that sampled.
        advantages: Advantage of each token.
        mask: Action tokens.
        clip_low: How far the ratio may fall, in (0, 1].
        clip_high: How far it may rise; above ``clip_low`` it is DAPO's clip-higher.
        dual_clip: ``c``, above 1; ``None``: no such limit.
        ratio: What the ratio is of.
        turn_ids: Turn of each token, -1 for none; needed where a turn is counted.
        normalizer: What is averaged over; see ``token_weights``.
        count: How many of those the whole batch has; ``None``: as many as this call has.

    Raises:
        ConfigError: A setting out of its range, or turns asked for without ``turn_ids``.

    Source:
        Schulman et al. (arXiv 1707.06347); dual clip: Ye et al. (arXiv 1912.09729); sequence ratio: GSPO (arXiv
        2507.18071); the clamp of the log-ratio at 20 as in verl.

    Example:
        >>> old, mask = torch.zeros(1, 2), torch.tensor([[True, True]])
        >>> policy_loss(torch.tensor([[0.5, 0.0]]), old, torch.ones(1, 2), mask).loss  # (1.2 + 1) / 2, negated
        tensor(-1.1000)
    """
    if not 0 < clip_low <= 1 or clip_high <= 0 or (dual_clip is not None and dual_clip <= 1):
        raise ConfigError(
            "clip_low must lie in (0, 1], clip_high above 0, dual_clip above 1 or None; "
            f"got {clip_low!r}, {clip_high!r}, {dual_clip!r}"
        )
    mask = mask.bool()
    advantages = torch.where(mask, advantages, 0.0).to(logprobs.dtype)
    log_ratio = torch.where(mask, logprobs, 0.0) - torch.where(mask, old_logprobs, 0.0)
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    r = _pooled(log_ratio, mask, ratio, turn_ids).exp()
    clipped = r.clamp(1 - clip_low, 1 + clip_high)
    losses = torch.maximum(-r * advantages, -clipped * advantages)
    stopped = torch.zeros_like(mask)
    if dual_clip is not None:
        ceiling = -dual_clip * advantages
        stopped = mask & (advantages < 0) & (losses > ceiling)
        losses = torch.where(stopped, ceiling, losses)
    loss = masked_average(losses, mask, normalizer=normalizer, turn_ids=turn_ids, count=count)
    tokens = max(int(mask.sum()), 1)
    with torch.no_grad():
        low = mask & (advantages < 0) & (r < 1 - clip_low)
        high = mask & (advantages > 0) & (r > 1 + clip_high)
        approx_kl = (log_ratio.exp() - 1 - log_ratio).sum() / tokens
    return PolicyLoss(
        loss=loss,
        clip_fraction_low=int(low.sum()) / tokens,
        clip_fraction_high=int(high.sum()) / tokens,
        dual_clip_fraction=int(stopped.sum()) / tokens,
        approx_kl=float(approx_kl),
        tokens=int(mask.sum()),
    )


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: KL = "k3") -> Tensor:
    """Estimate KL(policy || reference) token by token, from samples of the policy.

    With ``d = ref - policy``: k1 is ``-d``, k2 is ``d^2 / 2``, k3 is ``exp(d) - d - 1``. As a number, k1 and k3 are
    unbiased, and k3 varies less. As a loss, only k2 has the gradient of the KL: the one of k1 is 0 on average, and the
    one of k3 is that of the reversed KL.

    Args:
        logprobs: Of the policy, ``(B, L)``.
        ref_logprobs: Of the reference, ``(B, L)``.
        kind: ``"k1"``, ``"k2"`` or ``"k3"``.

    Raises:
        ConfigError: Another kind.

    Source:
        Schulman, Approximating KL divergence (2020).

    Example:
        >>> kl_estimate(torch.tensor([0.5]), torch.tensor([0.0]), "k2")
        tensor([0.1250])
    """
    difference = (ref_logprobs - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    match kind:
        case "k1":
            return -difference
        case "k2":
            return difference.square() / 2
        case "k3":
            return difference.exp() - difference - 1
    raise ConfigError(f"kind must be one of {', '.join(get_args(KL))}; got {kind!r}")


def masked_average(
    values: Tensor,
    mask: Tensor,
    *,
    normalizer: Normalizer = "token-mean",
    turn_ids: Tensor | None = None,
    count: float | None = None,
) -> Tensor:
    """Average over action tokens: the sum of ``token_weights * values``, divided by ``count``.

    Args:
        values: ``(B, L)``.
        mask: Action tokens.
        normalizer: What is averaged over; see ``token_weights``.
        turn_ids: Turn of each token; needed for ``"turn-mean"``.
        count: How many tokens, turns or episodes the whole batch has; ``None``: as many as this call has.

    Raises:
        ConfigError: ``"constant"`` without a count, or ``"turn-mean"`` without turn ids.
    """
    weights = token_weights(mask, normalizer, turn_ids)
    if count is None:
        count = unit_count(mask, normalizer, turn_ids)
    values = torch.where(mask.bool(), values, 0.0)
    return (weights.to(values.dtype) * values).sum() / max(count, 1.0)


def token_weights(mask: Tensor, normalizer: Normalizer, turn_ids: Tensor | None = None) -> Tensor:
    """How much each token weighs, ``(B, L)``.

    ``"token-mean"`` and ``"constant"``: 1 a token, so that long episodes weigh more; ``"turn-mean"``: the tokens of a
    turn share 1; ``"episode-mean"``: the tokens of an episode share 1. The choice is a signal of its own: under a mean
    over episodes a token of a long failed episode is punished less than one of a short failed episode.

    Raises:
        ConfigError: ``"turn-mean"`` without turn ids, or another normalizer.
    """
    action = mask.to(torch.float64)
    match normalizer:
        case "token-mean" | "constant":
            return action
        case "turn-mean":
            return action / _unit_sums(action, _unit_index(mask, "turn", turn_ids)).clamp(min=1)
        case "episode-mean":
            return action / action.sum(dim=1, keepdim=True).clamp(min=1)
    raise ConfigError(f"normalizer must be one of {', '.join(get_args(Normalizer))}; got {normalizer!r}")


def unit_count(mask: Tensor, normalizer: Normalizer, turn_ids: Tensor | None = None) -> float:
    """How many action tokens, turns or episodes there are: what ``normalizer`` divides by.

    Add it up over all micro-batches, of all processes, before the first of their losses.

    Raises:
        ConfigError: ``"constant"``, which is the caller's own choice, such as episodes times ``max_new_tokens``.

    Example:
        >>> unit_count(torch.tensor([[True, True, False], [False, False, False]]), "episode-mean")
        1.0
    """
    if normalizer == "constant":
        raise ConfigError("normalizer 'constant' needs a count, such as episodes times max_new_tokens")
    return float(token_weights(mask, normalizer, turn_ids).sum().round())


def _pooled(log_ratio: Tensor, mask: Tensor, level: Ratio, turn_ids: Tensor | None) -> Tensor:
    """Log-ratio of a token's unit; its value is the unit's mean, its gradient the token's own."""
    if level == "token":
        return log_ratio
    if level not in get_args(Ratio):
        raise ConfigError(f"ratio must be one of {', '.join(get_args(Ratio))}; got {level!r}")
    index = _unit_index(mask, level, turn_ids)
    action = mask.to(log_ratio.dtype)
    mean = _unit_sums(log_ratio.detach() * action, index) / _unit_sums(action, index).clamp(min=1)
    return mean + log_ratio - log_ratio.detach()


def _unit_index(mask: Tensor, level: Ratio, turn_ids: Tensor | None) -> Tensor:
    """A number for each token's turn or sequence; tokens outside of any turn share a number that is theirs alone."""
    rows = torch.arange(mask.shape[0], device=mask.device)[:, None].expand(mask.shape)
    if level == "sequence":
        return rows
    if turn_ids is None:
        raise ConfigError("turn_ids are needed to count turns; pass the (B, L) tensor of the batch")
    width = int(turn_ids.max()) + 2 if turn_ids.numel() else 1
    return rows * width + turn_ids + 1


def _unit_sums(values: Tensor, index: Tensor) -> Tensor:
    """Sum over each unit, at each of its tokens, ``(B, L)``."""
    flat = index.flatten()
    size = int(flat.max()) + 1 if flat.numel() else 0
    sums = torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, flat, values.flatten())
    return sums[flat].view_as(values)
