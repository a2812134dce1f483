"""Options that both trainers share: each resumes bitwise, and does what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peek import peek_envs, peek_model, peek_rewards, peek_tokenizer
from transformers import AutoModelForCausalLM

from agents import grpo, ppo
from agents.config import GRPOConfig, PPOConfig
from agents.metrics import read_metrics
from agents.records import read_scored_episodes
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
    return train(
        replace(config, output_dir=directory, **changes),
        model=model or peek_model(), tokenizer=peek_tokenizer(), envs=peek_envs(5), eval_envs=peek_envs(4),
        rewards=peek_rewards(), quiet=True,
    )  # fmt: skip


def timeless(folder):
    lines = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in line.items() if not key.startswith("seconds/")} for line in lines]


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


def test_a_sampler_that_is_not_the_policy_stops_the_run_before_a_step(tmp_path, monkeypatch):
    from agents.sampling.hf import HFSampler

    draw = HFSampler._draw

    def raw(self, logits, uniforms):
        chosen, logprobs = draw(self, logits, uniforms)
        return chosen, logprobs - 0.01

    monkeypatch.setattr(HFSampler, "_draw", raw)
    model = peek_model()
    with pytest.raises(SamplerError, match=r"differs from the trainer's by 0\.01, more than 0\.001"):
        run("grpo", tmp_path / "run", model=model)
    assert same(weights(model), weights(peek_model()))
    assert run("grpo", tmp_path / "loose", max_parity=0.1).update == 4


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
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        replace(TRAINERS["grpo"][1], output_dir=tmp_path, **changes)
