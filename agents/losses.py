"""Losses over action tokens: the clipped objectives of policy and critic, KL, and how tokens are averaged.

All tensors are ``(B, L)``. ``mask`` is true at the tokens that the policy wrote; what stands elsewhere (even NaN) is
ignored. Averages divide by a *global* count, handed in by the caller, so that the losses of micro-batches add up to
the loss of the whole batch, whatever the split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from agents.units import Level, same_shape, unit_index, unit_means, unit_sums
from toolenv.errors import ConfigError

Ratio = Level
Normalizer = Literal["token-mean", "turn-mean", "episode-mean", "constant"]
KL = Literal["k1", "k2", "k3"]

MAX_LOG_RATIO = 20.0


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The clipped loss, and what to watch about it.

    Attributes:
        loss: Scalar; ``backward`` starts here.
        clip_fraction_low: Share of action tokens of ratio below ``1 - clip_low``, negative advantage and no gradient.
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
    weights: Tensor | None = None,
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
        weights: Multiply the token losses, clipped or not, without a gradient of their own; from
            ``agents.importance.importance_weights``. A token of weight 0 still counts in the average.
        normalizer: What is averaged over; see ``token_weights``.
        count: How many of those the whole batch has; ``None``: as many as this call has.

    Raises:
        ConfigError: A setting out of its range, turns asked for without ``turn_ids``, or tensors of unlike shapes.

    Source:
        Schulman et al. (arXiv 1707.06347); dual clip: Ye et al. (arXiv 1912.09729); sequence ratio: GSPO (arXiv
        2507.18071); the clamp of the log-ratio at 20 as in verl.

    Example:
        >>> old, mask = torch.zeros(1, 2), torch.tensor([[True, True]])
        >>> policy_loss(torch.tensor([[0.5, 0.0]]), old, torch.ones(1, 2), mask).loss  # (1.2 + 1) / 2, negated
        tensor(-1.1000)
    """
    if not (0 < clip_low <= 1 and clip_high > 0 and (dual_clip is None or dual_clip > 1)):
        raise ConfigError(
            "clip_low must lie in (0, 1], clip_high above 0, dual_clip above 1 or None; "
            f"got {clip_low!r}, {clip_high!r}, {dual_clip!r}"
        )
    same_shape(logprobs, "logprobs", old_logprobs=old_logprobs, advantages=advantages, mask=mask, weights=weights)
    mask = mask.bool()
    advantages = torch.where(mask, advantages, 0.0).to(logprobs.dtype)
    log_ratio = torch.where(mask, logprobs, 0.0) - torch.where(mask, old_logprobs, 0.0)
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    # The value is the unit's, the gradient the token's own.
    r = (unit_means(log_ratio.detach(), mask, ratio, turn_ids) + log_ratio - log_ratio.detach()).exp()
    clipped = r.clamp(1 - clip_low, 1 + clip_high)
    losses = torch.maximum(-r * advantages, -clipped * advantages)
    stopped = torch.zeros_like(mask)
    if dual_clip is not None:
        ceiling = -dual_clip * advantages
        stopped = mask & (advantages < 0) & (losses > ceiling)
        losses = torch.where(stopped, ceiling, losses)
    if weights is not None:
        losses = losses * torch.where(mask, weights.detach(), 0.0).to(losses.dtype)
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


@dataclass(frozen=True, slots=True)
class ValueLoss:
    """The critic's loss, and what to watch about it.

    Attributes:
        loss: Scalar; ``backward`` starts here.
        clip_fraction: Share of action tokens whose clipped error was the larger one: they have no gradient.
        tokens: How many action tokens there were, to weigh micro-batches by.
    """

    loss: Tensor
    clip_fraction: float
    tokens: int


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip: float | None = None,
    normalizer: Normalizer = "token-mean",
    turn_ids: Tensor | None = None,
    count: float | None = None,
) -> ValueLoss:
    """Squared error of a critic, halved; with ``clip``, a value gains nothing by leaving its old one further behind.

    ``max((v - R)^2, (clip(v, v_old - clip, v_old + clip) - R)^2) / 2``, averaged.

    Args:
        values: The critic's values, ``(B, L)``.
        old_values: Its values before the update, ``(B, L)``.
        returns: What they should have been, ``(B, L)``.
        mask: The tokens whose value is learned: all action tokens, or the first of each turn.
        clip: How far a value may move, above 0; ``None``: as far as it likes.
        normalizer: As in ``masked_average``, like ``turn_ids`` and ``count``.
        turn_ids: Turn of each token.
        count: What the average divides by.

    Raises:
        ConfigError: ``clip`` out of its range, tensors of unlike shapes, or what ``masked_average`` raises.

    Source:
        Schulman et al., Proximal policy optimization, as in OpenAI's baselines (ppo2).

    Example:
        >>> one, mask = torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool)
        >>> value_loss(0.5 * one, 0 * one, one, mask, clip=0.2).loss  # (0.2 - 1)^2 / 2, not (0.5 - 1)^2 / 2
        tensor(0.3200)
    """
    if clip is not None and not clip > 0:
        raise ConfigError(f"clip must be above 0, or None for no clipping; got {clip!r}")
    same_shape(values, "values", old_values=old_values, returns=returns, mask=mask)
    mask = mask.bool()
    values = torch.where(mask, values, 0.0)
    old_values, returns = (torch.where(mask, x, 0.0).to(values.dtype) for x in (old_values, returns))
    errors = (values - returns).square()
    clipped = torch.zeros_like(mask)
    if clip is not None:
        limited = (values.clamp(old_values - clip, old_values + clip) - returns).square()
        clipped = limited > errors
        errors = torch.maximum(errors, limited)
    return ValueLoss(
        loss=masked_average(errors / 2, mask, normalizer=normalizer, turn_ids=turn_ids, count=count),
        clip_fraction=int(clipped.sum()) / max(int(mask.sum()), 1),
        tokens=int(mask.sum()),
    )


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float | None:
    """How much of the returns' variance the values explain: ``1 - Var(returns - values) / Var(returns)``.

    1: all of it; 0: as much as a constant; below 0: less than that. ``None``: all returns are equal.

    Args:
        values: ``(B, L)``.
        returns: ``(B, L)``.
        mask: The tokens that count.

    Example:
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> explained_variance(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 2.0]]), mask)
        0.75
    """
    wanted = returns[mask.bool()].double()
    missed = wanted - values[mask.bool()].detach().double()
    if not len(wanted) or wanted.max() == wanted.min():
        return None
    return 1.0 - float(missed.var(correction=0) / wanted.var(correction=0))


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: KL = "k3") -> Tensor:
    """Estimate KL(policy || reference) token by token, from samples of the policy.

    With ``d = ref - policy``: k1 is ``-d``, k2 is ``d^2 / 2``, k3 is ``exp(d) - d - 1``. As a number, k1 and k3 are
    unbiased, and k3 varies less. As a loss, only k2 has the gradient of the KL: the one of k1 is 0 on average, and the
    one of k3 is that of the reversed KL. ``kl_loss`` has the value of any and always that gradient.

    Args:
        logprobs: Of the policy, ``(B, L)``.
        ref_logprobs: Of the reference, ``(B, L)``.
        kind: ``"k1"``, ``"k2"`` or ``"k3"``.

    Raises:
        ConfigError: Another kind, or tensors of unlike shapes.

    Source:
        Schulman, Approximating KL divergence (2020).

    Example:
        >>> kl_estimate(torch.tensor([0.5]), torch.tensor([0.0]), "k2")
        tensor([0.1250])
    """
    same_shape(logprobs, "logprobs", ref_logprobs=ref_logprobs)
    difference = (ref_logprobs - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    match kind:
        case "k1":
            return -difference
        case "k2":
            return difference.square() / 2
        case "k3":
            return difference.exp() - difference - 1
    raise ConfigError(f"kind must be one of {', '.join(get_args(KL))}; got {kind!r}")


def kl_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    *,
    kind: KL = "k3",
    old_logprobs: Tensor | None = None,
    normalizer: Normalizer = "token-mean",
    turn_ids: Tensor | None = None,
    count: float | None = None,
) -> Tensor:
    """KL(policy || reference) as a loss: the value is that of ``kind``, the gradient that of the KL, whatever ``kind``.

    A token's gradient is ``(log policy - log reference)`` times that of ``log policy``, as k2's is: in expectation the
    exact gradient of the KL at each state. How a token changes later states only KL as a reward (``kl_rewards``) has.

    Args:
        logprobs: Of the policy, ``(B, L)``.
        ref_logprobs: Of the reference, ``(B, L)``.
        mask: Action tokens.
        kind: The estimate that the value is of.
        old_logprobs: Of the policy that sampled, ``(B, L)``, where it is not the one that is trained: value and
            gradient are weighed by the token's ratio between the two, which keeps both right. ``None``: on policy.
        normalizer: As in ``masked_average``, like ``turn_ids`` and ``count``.
        turn_ids: Turn of each token.
        count: What the average divides by.

    Raises:
        ConfigError: Another kind, tensors of unlike shapes, or what ``masked_average`` raises.

    Source:
        Tang and Munos, On a few pitfalls in KL divergence gradient estimation for RL (arXiv 2506.09477).

    Example:
        >>> logprobs = torch.tensor([[0.5]], requires_grad=True)
        >>> loss = kl_loss(logprobs, torch.tensor([[0.0]]), torch.tensor([[True]]), kind="k1")
        >>> loss.backward()
        >>> loss.item(), logprobs.grad.item()
        (0.5, 0.5)
    """
    same_shape(logprobs, "logprobs", ref_logprobs=ref_logprobs, mask=mask, old_logprobs=old_logprobs)
    mask = mask.bool()
    logprobs = torch.where(mask, logprobs, 0.0)
    policy, reference = logprobs.detach(), torch.where(mask, ref_logprobs, 0.0).to(logprobs.dtype)
    value, slope = kl_estimate(policy, reference, kind), kl_estimate(policy, reference, "k1")
    losses = value + slope * (logprobs - policy)
    if old_logprobs is not None:
        old = torch.where(mask, old_logprobs, 0.0).to(logprobs.dtype)
        losses = losses * (policy - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return masked_average(losses, mask, normalizer=normalizer, turn_ids=turn_ids, count=count)


def kl_rewards(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, coef: float) -> Tensor:
    """KL in the reward: ``-coef * k1`` at each action token, 0 elsewhere, no gradient, ``(B, L)``.

    Summed over an episode it estimates, without bias, the KL between the two distributions over episodes; as an
    undiscounted reward it has that KL's gradient.

    Args:
        logprobs: Of the policy that sampled, ``(B, L)``.
        ref_logprobs: Of the reference, ``(B, L)``.
        mask: Action tokens.
        coef: Weight of the KL, at least 0.

    Raises:
        ConfigError: ``coef`` below 0, or tensors of unlike shapes.

    Source:
        Ziegler et al. (arXiv 1909.08593), equation 2.

    Example:
        >>> kl_rewards(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, 9.0]]), torch.tensor([[True, False]]), 0.1)
        tensor([[-0.0500,  0.0000]])
    """
    if not coef >= 0:
        raise ConfigError(f"coef must be at least 0; got {coef!r}: a negative one would pay for leaving the reference")
    same_shape(logprobs, "logprobs", ref_logprobs=ref_logprobs, mask=mask)
    return torch.where(mask.bool(), -coef * kl_estimate(logprobs.detach(), ref_logprobs.detach(), "k1"), 0.0)


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
        ConfigError: ``"constant"`` without a count, ``"turn-mean"`` without turn ids, or tensors of unlike shapes.
    """
    same_shape(values, "values", mask=mask)
    weights = token_weights(mask, normalizer, turn_ids)
    count = unit_count(mask, normalizer, turn_ids) if count is None else count
    return (weights.to(values.dtype) * torch.where(mask.bool(), values, 0.0)).sum() / max(count, 1.0)


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
            return action / unit_sums(action, unit_index(mask, "turn", turn_ids)).clamp(min=1)
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
