"""Options that both trainers share: each resumes bitwise, and does what it says."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from peek import peek_model, peek_train, timeless
from transformers import AutoModelForCausalLM

from agents import grpo, ppo
from agents.config import GRPOConfig, PPOConfig
from agents.records import read_scored_episodes
from agents.sampling.hf import HFSampler
from toolenv.errors import ConfigError, SamplerError

SETTINGS = {
    "num_updates": 4, "max_new_tokens": 1, "learning_rate": 3e-3, "alpha": 0.5, "device": "cpu",
    "minibatch_episodes": 6, "micro_batch_episodes": 4, "checkpoint_every": 2,
}  # fmt: skip
TRAINERS = {
    "grpo": (grpo.train, GRPOConfig(groups_per_update=3, group_size=4, **SETTINGS)),
    "ppo": (ppo.train, PPOConfig(episodes_per_update=12, **SETTINGS)),
}
OPTIONS = {
    "overlap": {"overlap": True},
    "overlap, corrected": {"overlap": True, "correction": "truncate", "correction_level": "turn"},
    "LoRA": {"lora_rank": 2, "kl_coef": 0.1},
    "LoRA, overlap": {"lora_rank": 2, "overlap": True, "eval_every": 2, "eval_episodes": 4},
    "masks": {"cut_episodes": "mask", "void_turns": "mask-episode"},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def run(name, directory, model=None, **changes):
    train, config = TRAINERS[name]
    return peek_train(train, replace(config, output_dir=directory, **changes), model=model or peek_model())


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("option", OPTIONS)
def test_a_resumed_run_is_bitwise_the_run_that_never_stopped(tmp_path, name, option):
    changes = OPTIONS[option]
    whole = run(name, tmp_path / "whole", **changes)
    run(name, tmp_path / "halves", num_updates=2, **changes)
    resumed = run(name, tmp_path / "halves", resume=True, **changes)
    assert resumed.metrics[0]["update"] == 3
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "halves")
    assert same(weights(whole.model), weights(resumed.model))
    assert not same(weights(whole.model), weights(run(name, tmp_path / "short", num_updates=3, **changes).model))


@pytest.mark.parametrize("name", TRAINERS)
def test_with_overlap_all_but_the_first_episodes_are_one_update_old(tmp_path, name):
    result = run(name, tmp_path / "run", overlap=True)
    assert [line["staleness/max"] for line in result.metrics] == [0, 1, 1, 1]
    assert [line["staleness/mean"] for line in result.metrics] == [0, 1, 1, 1]
    # The first update sees what a run without overlap sees, the second the episodes of the same weights.
    plain = run(name, tmp_path / "plain")
    assert [line["staleness/max"] for line in plain.metrics] == [0] * 4
    first, second = (list(read_scored_episodes(tmp_path / n / "episodes.jsonl")) for n in ("run", "plain"))
    assert [r.episode for r in first if r.update == 1] == [r.episode for r in second if r.update == 1]
    assert max(line["sync_parity/max"] for line in result.metrics) < 1e-5


def test_an_evaluation_leaves_the_sampler_its_weights(tmp_path):
    """What is played in place of flat groups, after an evaluation, is as old as what was played before it."""
    changes = {"overlap": True, "dynamic_sampling": 2, "eval_every": 1, "eval_episodes": 4}
    whole = run("grpo", tmp_path / "whole", **changes)
    assert any(line["episodes"] > 12 for line in whole.metrics[1:])
    assert [line["staleness/mean"] for line in whole.metrics] == [0, 1, 1, 1]
    run("grpo", tmp_path / "halves", num_updates=1, **changes)
    run("grpo", tmp_path / "halves", resume=True, **changes)
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "halves")


def test_stale_episodes_are_weighed_by_the_correction(tmp_path):
    result = run("grpo", tmp_path, overlap=True, correction="mask", correction_low=0.5, learning_rate=3e-2)
    assert result.metrics[0]["mismatch/mean_delta"] < 1e-6
    assert all(line["mismatch/mean_delta"] > 1e-3 for line in result.metrics[1:])


@pytest.mark.parametrize("name", TRAINERS)
def test_lora_trains_its_matrices_alone_and_its_checkpoint_goes_beside_the_base(tmp_path, name):
    peek_model().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    result = run(name, tmp_path / "run", model=base, lora_rank=2, kl_coef=0.1, minibatch_episodes=None)
    state, fresh = weights(result.model), peek_model().state_dict()
    trained = [key for key in state if "lora_" in key]
    assert trained
    for key, value in fresh.items():
        owner, _, kind = key.rpartition(".")
        names = [name for name in state if name.endswith((key, f"{owner}.base_layer.{kind}"))]
        assert names, key
        assert torch.equal(state[names[0]], value), key
    assert any(state[key].abs().max() > 0 for key in trained if "lora_B" in key)
    # The matrices switched off are the reference: the policy starts where it is.
    assert result.metrics[0]["kl_reference"] < 1e-9
    assert result.metrics[-1]["kl_reference"] > 0
    loaded = AutoModelForCausalLM.from_pretrained(result.checkpoint)
    ids = torch.tensor([[2, 3, 4, 6]])
    torch.testing.assert_close(loaded(input_ids=ids).logits, result.model(input_ids=ids).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TRAINERS)
def test_recomputed_activations_change_no_number(tmp_path, name):
    one, other = (run(name, tmp_path / str(on), num_updates=1, gradient_checkpointing=on) for on in (False, True))
    for key, value in weights(one.model).items():
        torch.testing.assert_close(weights(other.model)[key], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", TRAINERS)
def test_masked_turns_teach_nothing_and_are_counted(tmp_path, name):
    result = run(name, tmp_path, void_turns="mask-episode", num_updates=1)
    line = result.metrics[0]
    records = list(read_scored_episodes(tmp_path / "episodes.jsonl"))
    void = [any(turn.error is not None for turn in record.episode.turns) for record in records]
    assert 0 < sum(void) < len(void)
    assert line["left_out/episodes"] == pytest.approx(sum(void) / len(void))
    everything_void = run(name, tmp_path / "all", cut_turns="mask", num_updates=2)  # every action is cut after 1 token
    assert everything_void.metrics[0]["left_out/turns"] <= 1.0


@pytest.mark.parametrize("name", TRAINERS)
def test_async_rollouts_are_those_of_lock_step(tmp_path, name):
    run(name, tmp_path / "async", num_updates=1, rollout="async")
    run(name, tmp_path / "lockstep", num_updates=1)
    ours, theirs = (
        [record.episode for record in read_scored_episodes(tmp_path / kind / "episodes.jsonl")]
        for kind in ("async", "lockstep")
    )
    assert ours == theirs


def zeros(batch):
    """An estimator of turns or tokens that credits nothing."""
    return np.zeros(batch.mask.shape)


def one_too_few(batch):
    """An estimator that would be spread over all turns or tokens of an episode without a word."""
    return np.ones((len(batch.mask), 1))


def not_a_number(batch):
    return np.where(batch.mask, np.nan, 0.0)


def of_the_other_trainer(batch):
    """A batch of tokens has no groups, one of turns no turn_ids."""
    return batch.groups + batch.turn_ids


NOT_A_FUNCTION = 3.0


@pytest.mark.parametrize(("name", "batch"), [("grpo", "TurnBatch"), ("ppo", "TokenBatch")])
def test_an_estimator_that_cannot_take_the_batch_is_named_with_what_it_is_handed(tmp_path, name, batch):
    own = {"alpha": None} if name == "grpo" else {}
    said = rf"of_the_other_trainer' must make advantages of a {batch}.* .*Error: .*test_train_options.py, line \d"
    with pytest.raises(ConfigError, match=said):
        run(name, tmp_path, estimator=f"{__name__}:of_the_other_trainer", **own)
    with pytest.raises(ConfigError, match=r"NOT_A_FUNCTION' must be a function of a batch, not 3\.0"):
        run(name, tmp_path, estimator=f"{__name__}:NOT_A_FUNCTION", **own)


@pytest.mark.parametrize("name", TRAINERS)
def test_an_estimator_of_ones_own_is_looked_at(tmp_path, name):
    own = {"alpha": None} if name == "grpo" else {}
    result = run(name, tmp_path / "zeros", estimator=f"{__name__}:zeros", num_updates=1, **own)
    assert same(weights(result.model), weights(peek_model()))
    with pytest.raises(ConfigError, match=r"one_too_few' must return advantages of shape \(12, \d+\), not \(12, 1\)"):
        run(name, tmp_path / "few", estimator=f"{__name__}:one_too_few", **own)
    with pytest.raises(ConfigError, match="not_a_number' must return finite advantages; that of episode 0 at"):
        run(name, tmp_path / "nan", estimator=f"{__name__}:not_a_number", **own)


@contextmanager
def shift_logprobs(by, share=1):
    """Let the sampler say another log-probability than it drew with, of one action in ``share``."""
    generate = HFSampler.generate

    def wrong(self, prompts, *, seeds):
        return [
            replace(said, logprobs=tuple(logprob + by for logprob in said.logprobs)) if place % share == 0 else said
            for place, said in enumerate(generate(self, prompts, seeds=seeds))
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HFSampler, "generate", wrong)
        yield


def test_a_sampler_that_is_not_the_policy_stops_the_run_before_a_step(tmp_path):
    model = peek_model()
    with shift_logprobs(-0.01):
        with pytest.raises(SamplerError, match=r"differs from the trainer's by 0\.01, more than 0\.001"):
            run("grpo", tmp_path / "run", model=model)
        assert same(weights(model), weights(peek_model()))
        assert run("grpo", tmp_path / "loose", max_parity=0.1).update == 4


def test_the_parity_that_is_asked_for_is_that_of_the_weights_not_of_the_settings(tmp_path):
    """The nano policy is float32 whatever is asked for, and a model that is handed over may be anything."""
    with shift_logprobs(0.01):
        run("grpo", tmp_path / "rough", model=peek_model().bfloat16(), num_updates=1)
        with pytest.raises(SamplerError, match=r"more than 0\.001"):
            run("grpo", tmp_path / "precise", precision="bfloat16")


@pytest.mark.parametrize("name", TRAINERS)
def test_a_sampler_without_logprobs_stops_the_run_unless_a_correction_does_without(tmp_path, name):
    model = peek_model()
    with shift_logprobs(math.nan, share=3):
        with pytest.raises(SamplerError, match="differs from the trainer's by nan"):
            run(name, tmp_path / "run", model=model)
        assert same(weights(model), weights(peek_model()))
        corrected = run(name, tmp_path / "corrected", correction="truncate")
    assert corrected.update == 4
    assert all(line["mismatch/unknown"] > 0 for line in corrected.metrics)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cut_episodes": "bootstrap"}, "needs a critic"),
        ({"void_turns": "penalise", "estimator": "grpo", "alpha": None}, "would not look at what penalise takes off"),
        ({"estimator": "turn_gae", "alpha": None}, "needs a critic"),
        ({"void_turns": "drop"}, "void_turns must be one of"),
        ({"rollout": "fast"}, "rollout must be one of lockstep, async"),
        ({"correction": "mask", "correction_high": 0.5}, "high must be at least 1"),
        ({"lora_rank": -1}, "lora_rank must be at least 0"),
        ({"trackers": ("tensorbord",)}, "tensorbord"),
        ({"trackers": ("wandb", "wandb")}, "named once each"),
        ({"normalizer": "tokens"}, "normalizer must be one of token-mean"),
        ({"precision": "bf16"}, "precision must be one of float32, bfloat16; got 'bf16'"),
        ({"num_updates": 2.5}, "num_updates must be a whole number, not 2.5"),
        ({"learning_rate": "1e-4"}, "learning_rate must be a number, not '1e-4'"),
        ({"overlap": "no"}, "overlap must be True or False"),
        ({"env_kwargs": "split"}, "env_kwargs must be of type dict, not 'split'"),
        ({"sampler": "vllm-server"}, "needs sampler_urls"),
        ({"sampler_urls": "http://one:8000"}, "are for the sampler 'vllm-server', not for 'hf'"),
        ({"lora_alpha": 32.0}, "lora_alpha is 32.0, but without lora_rank there is no LoRA"),
        ({"correction_low": 0.5}, "correction is 'none'"),
        ({"correction_level": "turn"}, "correction_level is 'turn', and correction is 'none'"),
        ({"correction_high": 3.0}, "correction_high is 3.0, and correction is 'none'"),
        ({"estimator_kwargs": {"alpha": 0.1}}, "alpha of the estimator is given twice: 0.5, and 0.1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        replace(TRAINERS["grpo"][1], output_dir=tmp_path, **changes)
