"""The parity probe: does the sampler hold the weights that are trained, and does it say what it drew from?

A sampler with weights of its own may miss some of them in a sync (a tied output head is the classic), answer from
prefixes that older weights have computed, or leave the temperature out of its log-probabilities. All of that looks
well, and trains a policy on a ratio that is wrong. Here the trained model scores what the sampler has drawn, and the
two have to agree token by token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agents.batch import TokenTensors
from agents.logprobs import action_logprobs
from agents.sampling.base import Generation, SyncedSampler
from agents.tokens import CONTEXT, TokenHistory
from toolenv.errors import ConfigError, SamplerError

TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 0.5, torch.float16: 0.1}
"""Largest difference of one token's log-probability that rounding makes, by the type of the weights."""
MEAN_SHARE = 0.2
"""Share of the tolerance that the mean may reach: rounding makes few large differences, other weights make many."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the sampler's log-probabilities are from the trained model's.

    Attributes:
        mean: Mean absolute difference.
        max: Largest absolute difference.
        tokens: How many tokens were compared.
    """

    mean: float
    max: float
    tokens: int


def check_parity(
    sampler: SyncedSampler,
    model: Any,
    prompts: Sequence[TokenHistory],
    *,
    seeds: Sequence[int],
    tolerance: float | None = None,
) -> Parity:
    """Sample one action for each prompt, and compare its log-probabilities with the model's; best after every sync.

    Args:
        sampler: The sampler.
        model: The trained model, also sharded: then every rank calls this, with as many prompts.
        prompts: Histories that end where the policy goes on writing; some few do.
        seeds: One a prompt.
        tolerance: Largest difference at a token; ``None``: by the type of the model's weights, ``TOLERANCES``. The mean
            may reach ``MEAN_SHARE`` of it.

    Raises:
        SamplerError: They differ by more. The message names the tokens and what is likely the cause.
    """
    generations = sampler.generate(prompts, seeds=seeds)
    return compare_logprobs(model, prompts, generations, temperature=sampler.params.temperature, tolerance=tolerance)


def compare_logprobs(
    model: Any,
    prompts: Sequence[TokenHistory],
    generations: Sequence[Generation],
    *,
    temperature: float = 1.0,
    tolerance: float | None = None,
) -> Parity:
    """Compare the log-probabilities of actions that were sampled with those that a model gives them.

    Args:
        model: The model.
        prompts: What the actions go on from.
        generations: The actions, one a prompt.
        temperature: At which they were sampled.
        tolerance: As for ``check_parity``.

    Raises:
        ConfigError: No action.
        SamplerError: They differ by more.
    """
    if not generations:
        raise ConfigError("parity needs at least one action to compare; give a prompt")
    if tolerance is None:
        tolerance = TOLERANCES[next(iter(model.parameters())).dtype]
    rows = [
        _Row(generation, _score(model, prompt, generation, temperature))
        for prompt, generation in zip(prompts, generations, strict=True)
    ]
    differences = [difference for row in rows for difference in row.differences]
    parity = Parity(sum(differences) / len(differences), max(differences), len(differences))
    if parity.max <= tolerance and parity.mean <= MEAN_SHARE * tolerance:
        return parity
    untempered = [
        _Row(row.generation, _score(model, prompt, row.generation, 1.0))
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    raise SamplerError(
        f"the sampler's log-probabilities are not the trained model's: {_described(rows, parity, tolerance)}. "
        f"Likely: {_likely_cause(rows, untempered, tolerance)}"
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """An action, and what the model says of its tokens."""

    generation: Generation
    logprobs: list[float]

    @property
    def differences(self) -> list[float]:
        """Absolute, one a token; a sampler that says NaN is infinitely wrong."""
        pairs = zip(self.generation.logprobs, self.logprobs, strict=True)
        return [math.inf if math.isnan(a - b) else abs(a - b) for a, b in pairs]

    def shifted(self, by: int) -> list[float]:
        """Differences to the log-probabilities of the tokens before (-1) or after (1)."""
        said = self.generation.logprobs
        pairs = (
            zip(said[1:], self.logprobs[:-1], strict=True) if by < 0 else zip(said[:-1], self.logprobs[1:], strict=True)
        )
        return [abs(a - b) for a, b in pairs]


@torch.no_grad()
def _score(model: Any, prompt: TokenHistory, generation: Generation, temperature: float) -> list[float]:
    """The model's log-probabilities of an action's tokens."""
    ids = torch.tensor([[*prompt.ids, *generation.ids]], device=next(iter(model.parameters())).device)
    turn_ids = torch.full_like(ids, CONTEXT)
    turn_ids[0, len(prompt) :] = 0
    nothing = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)
    tokens = TokenTensors(ids, torch.ones_like(ids), turn_ids, turn_ids >= 0, nothing)
    logprobs, _ = action_logprobs(model, tokens, temperature)
    return [float(logprob) for logprob in logprobs[0, len(prompt) :]]


def _described(rows: Sequence[_Row], parity: Parity, tolerance: float) -> str:
    """Which tokens, and the worst of them."""
    wrong = sum(difference > tolerance for row in rows for difference in row.differences)
    index, place = max(
        ((i, place) for i, row in enumerate(rows) for place in range(len(row.logprobs))),
        key=lambda at: rows[at[0]].differences[at[1]],
    )
    row = rows[index]
    return (
        f"{wrong} of {parity.tokens} tokens differ by more than {tolerance:g}, on average by {parity.mean:.2g}; the "
        f"worst is token {place} of action {index} (id {row.generation.ids[place]}, of weights version "
        f"{row.generation.version}), which the sampler gives {row.generation.logprobs[place]:.5g} and the model "
        f"{row.logprobs[place]:.5g}"
    )


def _likely_cause(rows: Sequence[_Row], untempered: Sequence[_Row], tolerance: float) -> str:
    """What explains the numbers."""
    if max(difference for row in untempered for difference in row.differences) <= tolerance:
        return "it leaves the temperature out; start vLLM with --logprobs-mode processed_logprobs"
    long = [row for row in rows if len(row.logprobs) > 1]
    for by, where in ((1, "after"), (-1, "before")):
        if long and max(difference for row in long for difference in row.shifted(by)) <= tolerance:
            return f"each token carries the log-probability of the one {where} it: they are shifted by one"
    if all(row.differences[0] <= tolerance for row in rows):
        return (
            "the first token of every action agrees, so that the weights may be right: dropout in the trained model, "
            "another attention, or another precision"
        )
    return (
        "it holds other weights: the sync did not reach all of them (a tied output head, on a CPU without "
        "agents.sampling.vllm_worker), its prefix cache was not reset, the base model is another one, or its precision"
    )
