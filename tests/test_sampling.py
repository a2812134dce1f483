"""The sampler draws from the model's own distribution, each row from a stream of its own."""

from __future__ import annotations

import copy
import math
from typing import Any

import peft
import pytest
import torch
from agents_fixtures import make_model, make_tokenizer

from agents.sampling import FixedScript, Generation, SamplingParams
from agents.sampling.hf import HFSampler
from agents.tokens import TokenHistory
from toolenv.episode import Task, Turn
from toolenv.errors import ConfigError, SamplerError

PROMPTS = ["What is the capital of France?", "<search>Lyon", "Answer:", "a"]


def history(text: str) -> TokenHistory:
    made = TokenHistory()
    made.append_context(make_tokenizer()(text)["input_ids"])
    return made


def sampler(model: Any = None, reuse: bool = True, **params: Any) -> HFSampler:
    params = {"max_new_tokens": 10, **params}
    return HFSampler(model or make_model(), make_tokenizer(), SamplingParams(**params), reuse=reuse)


def next_logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1]


def same(a: Generation, b: Generation) -> bool:
    close = all(math.isclose(x, y, abs_tol=1e-5) for x, y in zip(a.logprobs, b.logprobs, strict=True))
    return (a.ids, a.text, a.finish_reason) == (b.ids, b.text, b.finish_reason) and close


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    together = sampler().generate([history(text) for text in PROMPTS], seeds=[5, 6, 7, 8])
    for text, seed, generation in zip(PROMPTS, [5, 6, 7, 8], together, strict=True):
        [alone] = sampler().generate([history(text)], seeds=[seed])
        assert same(alone, generation)


def test_equal_prompts_share_a_pass_and_differ_by_seed() -> None:
    model = make_model()
    shapes: list[tuple[int, ...]] = []
    forward = model.forward
    model.forward = lambda **kwargs: shapes.append(tuple(kwargs["input_ids"].shape)) or forward(**kwargs)
    prompts = [history(PROMPTS[0]) for _ in range(6)]
    drawn = sampler(model).generate(prompts, seeds=range(6))
    assert shapes[0] == (1, len(prompts[0]))
    assert len({generation.ids for generation in drawn}) == 6


def test_logprobs_are_those_of_the_tempered_model() -> None:
    model = make_model()
    [generation] = sampler(model, temperature=0.7).generate([history(PROMPTS[1])], seeds=[3])
    start = history(PROMPTS[1]).ids
    for position, (token, logprob) in enumerate(zip(generation.ids, generation.logprobs, strict=True)):
        logits = next_logits(model, start + list(generation.ids[:position])) / 0.7
        assert logprob == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-5)


def test_draws_follow_the_distribution() -> None:
    model = make_model()
    expected = next_logits(model, history("a").ids).softmax(-1)
    drawn = sampler(model, max_new_tokens=1).generate([history("a")] * 4000, seeds=range(4000))
    counts = torch.bincount(torch.tensor([g.ids[0] for g in drawn]), minlength=len(expected)) / 4000
    frequent = expected > 0.02
    assert frequent.sum() >= 3
    spread = (expected * (1 - expected) / 4000).sqrt()
    assert ((counts - expected).abs() < 4.5 * spread)[frequent].all()
    assert counts[~frequent].sum() == pytest.approx(float(expected[~frequent].sum()), abs=0.035)


def test_greedy_is_what_generate_finds() -> None:
    model = make_model()
    ids = history(PROMPTS[0]).ids
    model.generation_config.eos_token_id = [0, 2]
    with torch.no_grad():
        expected = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=10, pad_token_id=0)[
            0, len(ids) :
        ]
    [generation] = sampler(model, greedy=True).generate([history(PROMPTS[0])], seeds=[0])
    assert list(generation.ids) == expected.tolist()


def test_an_action_ends_at_a_stop_string_an_end_token_or_the_limit() -> None:
    model = make_model()
    model.get_input_embeddings().weight.data[2] *= 3  # makes <|im_end|> frequent
    tokenizer = make_tokenizer()
    drawn = sampler(model, stop=("e", "is")).generate([history("a")] * 80, seeds=range(80))
    kinds = set()
    for generation in drawn:
        ended = generation.ids[-1] in (0, 2)
        spoken = generation.ids[: -1 if ended else None]
        assert generation.text == tokenizer.decode(spoken)
        before = tokenizer.decode(generation.ids[:-1])
        assert "e" not in before
        assert "is" not in before
        stopped = "e" in generation.text or "is" in generation.text
        kinds.add((generation.finish_reason, ended, stopped))
        assert (generation.finish_reason == "length") == (not ended and not stopped)
    assert kinds >= {("stop", True, False), ("stop", False, True), ("length", False, False)}


def play_turns(model: Any, reuse: bool, change: bool) -> list[Generation]:
    """Three turns of four histories, which end at different times; the weights may change before the last."""
    policy = sampler(model, reuse=reuse, stop=("e",))
    histories = [history(text) for text in PROMPTS]
    drawn: list[Generation] = []
    for turn in range(3):
        if change and turn == 2:
            with torch.no_grad():
                model.get_input_embeddings().weight.mul_(1.1)
        generations = policy.generate(histories, seeds=[10 * turn + i for i in range(len(histories))])
        for made, generation in zip(histories, generations, strict=True):
            made.append_action(generation.ids, generation.logprobs)
            made.append_context(history(PROMPTS[turn]).ids * (turn + 1))
        drawn += generations
        histories = histories[: len(histories) - turn]
    return drawn


@pytest.mark.parametrize("change", [False, True])
def test_reused_keys_and_values_change_nothing(change: bool) -> None:
    reused, fresh = play_turns(make_model(), True, change), play_turns(make_model(), False, change)
    assert all(same(a, b) for a, b in zip(reused, fresh, strict=True))


def test_reuse_runs_only_what_is_new() -> None:
    model = make_model()
    policy = sampler(model, max_new_tokens=4)
    made = history(PROMPTS[0])
    [generation] = policy.generate([made], seeds=[0])
    made.append_action(generation.ids, generation.logprobs)
    made.append_context([50, 51])
    widths: list[int] = []
    forward = model.forward
    model.forward = lambda **kwargs: widths.append(kwargs["input_ids"].shape[1]) or forward(**kwargs)
    policy.generate([made], seeds=[1])
    assert widths[0] == 3  # the last sampled token and the two of the observation


def with_lora(model: Any, *more: str) -> Any:
    """The model with a low-rank adapter that does something."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj", *more])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = peft.get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(std=0.3)
    return adapted.eval()


def draw(policy: HFSampler) -> list[Generation]:
    return policy.generate([history(text) for text in PROMPTS], seeds=range(4))


def test_sync_takes_the_version_of_weights_that_are_shared() -> None:
    model = make_model()
    policy = sampler(model)
    policy.sync(model, 3)
    assert policy.model is model
    assert {generation.version for generation in draw(policy)} == {3}


def test_sync_copies_into_a_model_of_its_own() -> None:
    trained, policy = make_model(seed=1), sampler(make_model(seed=0))
    assert draw(policy) != draw(sampler(trained))
    policy.sync(trained, 1)
    assert [g.ids for g in draw(policy)] == [g.ids for g in draw(sampler(trained))]
    with torch.no_grad():
        trained.get_input_embeddings().weight.zero_()  # a copy, and no second name of the same memory
    assert policy.model.get_input_embeddings().weight.abs().sum() > 0


def test_sync_copies_adapters_and_merges_them_where_there_are_none() -> None:
    trained = with_lora(make_model())
    want = draw(sampler(trained))
    assert all(not same(a, b) for a, b in zip(want, draw(sampler(make_model())), strict=True))
    for own in (make_model(), copy.deepcopy(trained)):
        with torch.no_grad():
            for parameter in own.parameters():
                parameter.mul_(0.9)
        policy = sampler(own)
        policy.sync(trained, 1)
        assert all(same(a, b) for a, b in zip(draw(policy), want, strict=True))


def test_sync_refuses_an_adapter_that_cannot_be_merged() -> None:
    with pytest.warns(UserWarning, match="tie"), pytest.raises(ConfigError, match="tied embeddings"):
        sampler(make_model()).sync(with_lora(make_model(), "embed_tokens"), 1)


def test_sync_refuses_another_shape() -> None:
    with pytest.raises(ConfigError, match=r"no parameter 'model.embed_tokens.weight'"):
        sampler(make_model(hidden=64)).sync(make_model(), 1)
    with pytest.raises(ConfigError, match=r"lacks, such as 'model.layers.1"):
        sampler(make_model(layers=2)).sync(make_model(layers=1), 1)


def test_nothing_else_is_touched() -> None:
    model = make_model().train()
    state = torch.get_rng_state()
    sampler(model).generate([history("a")], seeds=[1])
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert sampler(model).generate([], seeds=[]) == []


def test_broken_weights_stop_the_run() -> None:
    model = make_model()
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(SamplerError, match="not numbers"):
        sampler(model).generate([history("a")], seeds=[1])


def test_wrong_calls() -> None:
    with pytest.raises(ConfigError, match="one seed a prompt"):
        sampler().generate([history("a")], seeds=[])
    with pytest.raises(ConfigError, match="at least one token"):
        sampler().generate([TokenHistory()], seeds=[1])


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"temperature": 0.0}, {"stop": "x"}, {"stop": ("",)}])
def test_wrong_params(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SamplingParams(**wrong)


def test_a_fixed_script_repeats_its_last_action() -> None:
    script, task = FixedScript("look", "answer"), Task(id="t", prompt="?")
    turns = [Turn(0, "look"), Turn(1, "answer")]
    assert [script.act(task, turns[:n]) for n in range(3)] == ["look", "answer", "answer"]
