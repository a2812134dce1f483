"""The optimiser steps of an update: of the policy, once each token has its advantage, and of PPO's critic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.batch import TokenTensors
from agents.config import PPOConfig, TrainConfig
from agents.distributed import idle
from agents.importance import importance_weights
from agents.logprobs import action_logprobs
from agents.lora import without_lora
from agents.losses import (
    explained_variance,
    kl_estimate,
    kl_loss,
    masked_average,
    policy_loss,
    unit_count,
    value_loss,
)
from agents.metrics import WeightedMeans
from agents.run import Metrics, Run
from agents.sharding import clip_gradients
from toolenv.errors import SamplerError
from toolenv.seeding import rng

DRIFT_IN_FLOAT32 = 1e-3
"""Largest difference of a token's log-probability between sampler and trainer that rounding may make in float32."""


@dataclass(frozen=True, slots=True)
class PolicyBatch:
    """What a policy learns from: B rollouts of at most L tokens.

    Attributes:
        tokens: The tokens; ``tokens.logprobs`` are those that the sampler recorded.
        advantages: ``(B, L)`` float32.
        ref_logprobs: ``(B, L)`` float32 under the reference policy; ``None`` where no penalty needs them.
        old_logprobs: ``(B, L)`` float32 under the trainer before the update; ``None``: the sampler's are as good.
        weights: ``(B, L)``, how much each token's loss weighs; ``None``: 1.
    """

    tokens: TokenTensors
    advantages: torch.Tensor
    ref_logprobs: torch.Tensor | None = None
    old_logprobs: torch.Tensor | None = None
    weights: torch.Tensor | None = None

    def rows(self, index: list[int], device: torch.device) -> PolicyBatch:
        """A micro-batch, on the model's device, without columns that are padding in all of its rows."""
        tokens, cut = _part(self.tokens, index, device)
        optional = (
            None if grid is None else cut(grid) for grid in (self.ref_logprobs, self.old_logprobs, self.weights)
        )
        return PolicyBatch(tokens, cut(self.advantages), *optional)


def _part(
    tokens: TokenTensors, rows: list[int], device: torch.device
) -> tuple[TokenTensors, Callable[[torch.Tensor], torch.Tensor]]:
    """Some rows of the tokens, and what cuts the same rows out of another grid; of no row, an idle pass."""
    part = (tokens.rows(rows) if rows else idle(tokens)).to(device)
    width = part.input_ids.shape[1]
    chosen = rows or [0]
    return part, lambda grid: grid[chosen][:, :width].to(device)


def minibatches(config: TrainConfig, update: int, rows: int) -> Iterator[NDArray[np.int64]]:
    """Rows of each optimiser step of an update, in order: every pass has them all, in an order of its own."""
    size = config.minibatch_episodes or rows
    for epoch in range(config.inner_epochs):
        order = rng(config.seed, "minibatches", update, epoch).permutation(rows)
        for start in range(0, rows, size):
            yield order[start : start + size]


def micro_batches(run: Run, tokens: TokenTensors, rows: NDArray[np.int64]) -> list[list[int]]:
    """This rank's rows, as they go through a model at once; an empty list is an idle pass.

    Rows of like length go together, which saves padding.
    """
    by_length = rows[np.argsort(tokens.attention_mask.sum(dim=1).numpy()[rows], kind="stable")]
    return run.ranks.parts(by_length.tolist(), run.config.micro_batch_episodes)


def warmed_up(config: TrainConfig, rate: float, update: int) -> float:
    """The learning rate of an update.

    Example:
        >>> from agents.config import GRPOConfig
        >>> [warmed_up(GRPOConfig(warmup=4), 1.0, update) for update in (1, 2, 4, 9)]
        [0.25, 0.5, 1.0, 1.0]
    """
    return rate * min(1.0, update / max(config.warmup, 1))


def take_step(optimizer: torch.optim.Optimizer, rate: float, max_grad_norm: float) -> float:
    """Clip the gradients that have gathered, step, and clear them; returns the norm before clipping.

    Raises:
        RuntimeError: A gradient is not finite.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    norm = clip_gradients([weight for group in optimizer.param_groups for weight in group["params"]], max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


@torch.no_grad()
def batch_logprobs(run: Run, model: Any, tokens: TokenTensors) -> torch.Tensor:
    """Log-probabilities ``(B, L)`` of all rollouts under ``model``, on the CPU, micro-batch by micro-batch."""
    grid = torch.zeros(tokens.input_ids.shape, dtype=torch.float32)
    for rows in micro_batches(run, tokens, np.arange(len(grid))):
        part, _ = _part(tokens, rows, run.device)
        logprobs, _ = action_logprobs(model, part, run.config.temperature)
        if rows:
            grid[rows, : logprobs.shape[1]] = logprobs.cpu()
    return run.ranks.sum_tensor(grid)


def reference_logprobs(run: Run, tokens: TokenTensors) -> torch.Tensor | None:
    """Log-probabilities ``(B, L)`` under the policy as it was before the first update, where a penalty needs them."""
    if not run.config.kl_coef:
        return None
    if run.reference is not None:
        return batch_logprobs(run, run.reference, tokens)
    with without_lora(run.model):
        return batch_logprobs(run, run.model, tokens)


def update_policy(run: Run, batch: PolicyBatch, update: int) -> Metrics:
    """Take the policy's optimiser steps of an update.

    Args:
        run: The run.
        batch: What is learned from.
        update: Number of the update.

    Returns:
        Metrics of the loss.
    """
    config, means = run.config, WeightedMeans()
    rate = warmed_up(config, config.learning_rate, update)
    batch, seen = _corrected(run, batch)
    parity: float | None = None
    for minibatch in minibatches(config, update, len(batch.advantages)):
        drift = _accumulate(run, batch, minibatch, means)
        if parity is None:  # after a step the two differ on purpose
            parity = drift
            if not config.overlap:  # then the sampler's weights are older ones
                check_drift(run, drift)
        means.add(1.0, grad_norm=take_step(run.optimizer, rate, config.max_grad_norm))
    return {**_over_ranks(run, means), **seen, "parity_max": parity, "learning_rate": rate}


def check_drift(run: Run, drift: float) -> None:
    """Stop before a step is taken on probabilities that are not the sampler's.

    Raises:
        SamplerError: Sampler and trainer differ by more than the settings allow.
    """
    limit = run.config.max_parity
    if limit is None:
        precise = torch.finfo(next(iter(run.model.parameters())).dtype).bits >= 32
        limit = DRIFT_IN_FLOAT32 if precise else math.inf
    if not drift <= limit:
        raise SamplerError(
            f"the sampler's log-probability of a token differs from the trainer's by {drift:.3g}, more than {limit:g} "
            "(max_parity): they do not see the same weights, tokens or temperature; the policy's weights are as they "
            "were before this update"
        )


def _corrected(run: Run, batch: PolicyBatch) -> tuple[PolicyBatch, Metrics]:
    """The batch with weights for the mismatch of sampler and trainer, where they are asked for; and their metrics."""
    config = run.config
    if config.correction == "none":
        return batch, {}
    tokens = batch.tokens
    old_logprobs = batch_logprobs(run, run.model, tokens)
    found = importance_weights(
        old_logprobs,
        tokens.logprobs,
        tokens.action_mask,
        mode=config.correction,
        level=config.correction_level,
        geometric=config.correction_geometric,
        low=config.correction_low,
        high=config.correction_high,
        turn_ids=tokens.turn_ids,
    )
    names = ("mean", "max", "limited", "effective_share", "mean_delta", "max_delta", "unknown")
    seen = {f"mismatch/{name}": getattr(found, name) for name in names}
    return replace(batch, old_logprobs=old_logprobs, weights=found.weights), seen


@dataclass(frozen=True, slots=True)
class ValueBatch:
    """What a critic learns from: B rollouts of at most L tokens.

    Attributes:
        tokens: The tokens.
        values: ``(B, L)`` float32, the critic's values before the update.
        returns: ``(B, L)`` float32, what they should have been.
        mask: ``(B, L)`` bool, the tokens whose value is learned.
    """

    tokens: TokenTensors
    values: torch.Tensor
    returns: torch.Tensor
    mask: torch.Tensor

    def rows(self, index: list[int], device: torch.device) -> ValueBatch:
        """A micro-batch, on the model's device, without columns that are padding in all of its rows."""
        tokens, cut = _part(self.tokens, index, device)
        return ValueBatch(tokens, cut(self.values), cut(self.returns), cut(self.mask))


@torch.no_grad()
def batch_values(run: Run, tokens: TokenTensors) -> tuple[torch.Tensor, torch.Tensor]:
    """The critic's values ``(B, L)`` of all rollouts, and ``(B,)`` after their last tokens, on the CPU."""
    assert run.critic is not None
    values, last = torch.zeros(tokens.input_ids.shape), torch.zeros(len(tokens.input_ids))
    for rows in micro_batches(run, tokens, np.arange(len(last))):
        part_values, part_last = run.critic(_part(tokens, rows, run.device)[0])
        if rows:
            values[rows, : part_values.shape[1]], last[rows] = part_values.cpu(), part_last.cpu()
    return run.ranks.sum_tensor(values), run.ranks.sum_tensor(last)


def update_critic(run: Run, batch: ValueBatch, update: int) -> Metrics:
    """Take the critic's optimiser steps of an update, in the same minibatches as the policy's.

    Args:
        run: The run.
        batch: What is learned from.
        update: Number of the update.

    Returns:
        Metrics of the loss. ``explained_variance`` is that of the values before these steps.
    """
    config, means = run.config, WeightedMeans()
    assert isinstance(config, PPOConfig)
    assert run.critic is not None
    assert run.critic_optimizer is not None
    rate = warmed_up(config, config.critic_learning_rate, update)
    for minibatch in minibatches(config, update, len(batch.values)):
        count, total = float(batch.mask[minibatch].sum()), 0.0
        for rows in micro_batches(run, batch.tokens, minibatch):
            part = batch.rows(rows, run.device)
            values, _ = run.critic(part.tokens)
            step = value_loss(values, part.values, part.returns, part.mask, clip=config.value_clip, count=count)
            step.loss.backward()  # type: ignore[no-untyped-call]
            total += step.loss.item()
            means.add(step.tokens, value_clip_fraction=step.clip_fraction)
        norm = take_step(run.critic_optimizer, rate, config.max_grad_norm)
        means.add(1.0, value_loss=run.ranks.sum(total), critic_grad_norm=norm)
    explained = explained_variance(batch.values, batch.returns, batch.mask)
    return {**_over_ranks(run, means), **({} if explained is None else {"explained_variance": explained})}


def _accumulate(run: Run, batch: PolicyBatch, minibatch: NDArray[np.int64], means: WeightedMeans) -> float:
    """Gradients of one minibatch, micro-batch by micro-batch.

    Returns:
        Largest difference between the sampler's log-probabilities and the trainer's; NaN where the sampler has none for
        a token, and no correction that does without.
    """
    config = run.config
    whole = batch.tokens.rows(minibatch.tolist())
    count = (
        float(len(minibatch) * config.max_new_tokens)
        if config.normalizer == "constant"
        else unit_count(whole.action_mask, config.normalizer, whole.turn_ids)
    )
    total, drift = 0.0, torch.zeros(())
    for rows in micro_batches(run, batch.tokens, minibatch):
        part = batch.rows(rows, run.device)
        logprobs, entropy = action_logprobs(run.model, part.tokens, config.temperature, entropy=True)
        assert entropy is not None
        loss = _loss(config, part, logprobs, entropy, count, means)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
        apart = (logprobs.detach() - part.tokens.logprobs)[part.tokens.action_mask].abs()
        if part.weights is not None:
            apart = apart.nan_to_num(0.0)
        if apart.numel():
            drift = torch.maximum(drift, apart.max().cpu())  # unlike Python's max, torch's keep a NaN
    means.add(1.0, loss=run.ranks.sum(total))
    return float(torch.tensor(run.ranks.gather([float(drift)])).max())


def _over_ranks(run: Run, means: WeightedMeans) -> Metrics:
    """Means over the micro-batches of all ranks."""
    return WeightedMeans.joined(run.ranks.gather([means])).metrics()


def _loss(
    config: TrainConfig,
    part: PolicyBatch,
    logprobs: torch.Tensor,
    entropy: torch.Tensor,
    count: float,
    means: WeightedMeans,
) -> torch.Tensor:
    """A micro-batch's share of the minibatch's loss: the clipped objective, and the penalties that are asked for."""
    mask, turn_ids = part.tokens.action_mask, part.tokens.turn_ids
    old_logprobs = part.tokens.logprobs if part.old_logprobs is None else part.old_logprobs
    units: dict[str, Any] = {"normalizer": config.normalizer, "turn_ids": turn_ids, "count": count}
    policy = policy_loss(
        logprobs,
        old_logprobs,
        part.advantages,
        mask,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
        ratio=config.ratio,
        weights=part.weights,
        **units,
    )
    loss = policy.loss
    seen = {
        "clip_fraction/low": policy.clip_fraction_low,
        "clip_fraction/high": policy.clip_fraction_high,
        "approx_kl": policy.approx_kl,
        "entropy": float(masked_average(entropy.detach(), mask)),
    }
    if config.dual_clip is not None:
        seen["dual_clip_fraction"] = policy.dual_clip_fraction
    if config.entropy_coef:
        loss = loss - config.entropy_coef * masked_average(entropy, mask, **units)
    if part.ref_logprobs is not None:
        with torch.no_grad():
            seen["kl_reference"] = float(masked_average(kl_estimate(logprobs, part.ref_logprobs, "k3"), mask))
        if config.kl_in_loss:
            loss = loss + config.kl_coef * kl_loss(
                logprobs, part.ref_logprobs, mask, old_logprobs=old_logprobs, **units
            )
    means.add(policy.tokens, **seen)
    return loss
