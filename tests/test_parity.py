"""The parity probe stops a run whose sampler draws from other weights, or says what it did not draw from."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from agents_fixtures import make_model, make_tokenizer

from agents.sampling import Generation, SamplingParams
from agents.sampling.hf import HFSampler
from agents.sampling.parity import TOLERANCES, check_parity, compare_logprobs
from agents.tokens import TokenHistory
from toolenv.errors import ConfigError, SamplerError

SEEDS = [1, 2, 3]


def histories() -> list[TokenHistory]:
    """Prompts of several lengths, one of them with turns behind it."""
    made = []
    for text in ("What is the capital of France?", "Answer:", "a"):
        made.append(TokenHistory())
        made[-1].append_context(make_tokenizer()(text)["input_ids"])
    made[-1].append_action([70, 71], [-1.0, -2.0])
    made[-1].append_context([72, 73])
    return made


def sampler(model: Any, temperature: float = 1.0) -> HFSampler:
    return HFSampler(model, make_tokenizer(), SamplingParams(8, temperature))


class Distorted(HFSampler):
    """A sampler that says something else than what it drew from."""

    distort: Callable[[TokenHistory, Generation], Sequence[float]]

    def generate(self, prompts: Sequence[TokenHistory], *, seeds: Sequence[int]) -> list[Generation]:
        drawn = super().generate(prompts, seeds=seeds)
        return [
            replace(generation, logprobs=tuple(self.distort(prompt, generation)))
            for prompt, generation in zip(prompts, drawn, strict=True)
        ]


def distorted(model: Any, distort: Any, temperature: float = 1.0) -> Distorted:
    made = Distorted(model, make_tokenizer(), SamplingParams(8, temperature))
    made.distort = distort
    return made


def raw_logprobs(model: Any) -> Any:
    """What a server says that leaves the temperature out: it draws at 0.7, and reports at 1."""

    def distort(prompt: TokenHistory, generation: Generation) -> list[float]:
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt.ids, *generation.ids]])).logits[0]
        at = range(len(prompt) - 1, len(prompt) - 1 + len(generation.ids))
        return [float(logits[i].log_softmax(-1)[token]) for i, token in zip(at, generation.ids, strict=True)]

    return distort


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_sampler_of_the_same_weights_agrees(temperature: float) -> None:
    model = make_model()
    prompts = histories()
    parity = check_parity(sampler(model, temperature), model, prompts, seeds=SEEDS)
    assert parity.mean <= parity.max < 2e-5
    assert parity.tokens == sum(
        len(generation.ids) for generation in sampler(model, temperature).generate(prompts, seeds=SEEDS)
    )


def test_a_stale_output_head_is_caught() -> None:
    trained = make_model()
    stale = copy.deepcopy(trained)
    stale.lm_head.weight = torch.nn.Parameter(1.05 * trained.lm_head.weight.detach())  # no longer tied
    with pytest.raises(SamplerError, match="tied output head"):
        check_parity(sampler(stale), trained, histories(), seeds=SEEDS)


def test_raw_logprobs_are_caught_but_at_temperature_1() -> None:
    model = make_model()
    with pytest.raises(SamplerError, match="--logprobs-mode processed_logprobs"):
        check_parity(distorted(model, raw_logprobs(model), 0.7), model, histories(), seeds=SEEDS)
    check_parity(distorted(model, raw_logprobs(model), 1.0), model, histories(), seeds=SEEDS)


@pytest.mark.parametrize(
    ("distort", "where"),
    [
        (lambda _, g: [*g.logprobs[1:], -1.0], "after it"),
        (lambda _, g: [-1.0, *g.logprobs[:-1]], "before it"),
    ],
)
def test_logprobs_of_the_neighbour_are_caught(distort: Any, where: str) -> None:
    model = make_model()
    with pytest.raises(SamplerError, match=f"the one {where}: they are shifted by one"):
        check_parity(distorted(model, distort), model, histories(), seeds=SEEDS)


def test_the_worst_token_is_named() -> None:
    model = make_model()
    prompts = histories()
    drawn = sampler(model).generate(prompts, seeds=SEEDS)
    wrong = list(drawn[1].logprobs)
    wrong[2] -= 0.25
    drawn[1] = replace(drawn[1], logprobs=tuple(wrong), version=6)
    token = drawn[1].ids[2]
    pattern = rf"1 of \d+ tokens differ by more than 0.0001.*token 2 of action 1 \(id {token}, of weights version 6\)"
    with pytest.raises(SamplerError, match=pattern):
        compare_logprobs(model, prompts, drawn)
    assert compare_logprobs(model, prompts, drawn, tolerance=0.3).max == pytest.approx(0.25, abs=1e-4)


def test_a_number_that_is_none_never_agrees() -> None:
    model = make_model()
    with pytest.raises(SamplerError, match="nan"):
        check_parity(distorted(model, lambda _, g: [math.nan, *g.logprobs[1:]]), model, histories(), seeds=SEEDS)


def test_nothing_to_compare_is_no_parity() -> None:
    with pytest.raises(ConfigError, match="at least one action"):
        check_parity(sampler(make_model()), make_model(), [], seeds=[])


def test_rounding_is_allowed_for_by_the_type_of_the_weights() -> None:
    trained = make_model(spread=0.05).bfloat16()
    exact = copy.deepcopy(trained).float()
    assert TOLERANCES[torch.float32] < check_parity(sampler(exact), trained, histories(), seeds=SEEDS).max


def test_many_small_differences_are_no_rounding() -> None:
    model = make_model().bfloat16()
    for all_over, agrees in ((0.05, True), (0.2, False)):
        biased = distorted(model, lambda _, g, by=all_over: [logprob - by for logprob in g.logprobs])
        if agrees:
            check_parity(biased, model, histories(), seeds=SEEDS)
            continue
        with pytest.raises(SamplerError, match=r"0 of \d+ tokens differ by more than 0.5, on average by 0.2"):
            check_parity(biased, model, histories(), seeds=SEEDS)
