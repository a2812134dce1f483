"""PPO's trainer: it resumes bitwise, and its credit is what an estimator says of the critic's values."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from agents_fixtures import make_model
from peek import peek_model, peek_train, timeless
from transformers import AutoModelForCausalLM

from agents.batch import TokenTensors, TurnBatch
from agents.checkpoint import latest
from agents.command_line import parse_command_line
from agents.config import PPOConfig
from agents.credit import assign_credit, place_rewards, whitened
from agents.critic import Critic
from agents.ppo import main, task_seeds, train
from toolenv.errors import ConfigError, DataError


def settings(directory, **changes):
    """A small run with everything in it: KL in the reward, value clipping, whitening, minibatches, warm-up."""
    return PPOConfig(
        **{
            "output_dir": directory, "num_updates": 4, "episodes_per_update": 12, "max_new_tokens": 1,
            "learning_rate": 3e-3, "warmup": 3, "inner_epochs": 2, "minibatch_episodes": 6, "micro_batch_episodes": 4,
            "kl_coef": 0.1, "kl_in": "reward", "entropy_coef": 0.01, "alpha": 0.5, "value_clip": 0.2,
            "weight_decay": 0.1, "checkpoint_every": 2, "eval_every": 2, "eval_episodes": 4, **changes,
        }
    )  # fmt: skip


run = partial(peek_train, train)


def state_of(checkpoint):
    """All tensors of a checkpoint: policy, critic, both optimisers."""
    names = ("critic.pt", "optimizer.pt", "critic_optimizer.pt")
    parts = {name: torch.load(checkpoint / name, weights_only=True) for name in names}
    policy = AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
    return json.dumps({**parts, "policy": policy}, default=lambda tensor: tensor.tolist(), sort_keys=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four updates that nothing interrupted."""
    torch.set_num_threads(1)
    return run(settings(tmp_path_factory.mktemp("whole") / "run"))


# Learning ------------------------------------------------------------------------------------------------------------


def test_micro_batches_change_nothing_but_speed(tmp_path):
    results = [
        run(settings(tmp_path / str(size), num_updates=1, micro_batch_episodes=size, minibatch_episodes=None, warmup=0))
        for size in (12, 5)
    ]
    for ours, theirs in zip(*(result.model.parameters() for result in results), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    critics = [torch.load(result.checkpoint / "critic.pt", weights_only=True) for result in results]
    torch.testing.assert_close(*critics, atol=1e-5, rtol=1e-4)
    for name in ("loss", "grad_norm", "value_loss", "critic_grad_norm"):
        one, other = (result.metrics[0][name] for result in results)
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_the_policy_waits_until_the_critic_is_warm(tmp_path):
    result = run(settings(tmp_path / "run", num_updates=2, critic_warmup=2))
    for ours, fresh in zip(result.model.parameters(), peek_model().parameters(), strict=True):
        assert torch.equal(ours, fresh)
    assert all("value_loss" in line and "loss" not in line for line in result.metrics)


# Nothing lost --------------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_bitwise_the_run_that_never_stopped(tmp_path, whole):
    half = settings(tmp_path / "run", num_updates=2)
    run(half)
    resumed = run(replace(half, num_updates=4, resume=True))
    folder = whole.checkpoint.parents[1]
    assert timeless(tmp_path / "run") == timeless(folder)
    assert state_of(resumed.checkpoint) == state_of(latest(folder / "checkpoints"))


def test_a_checkpoint_without_a_critic_is_refused(tmp_path):
    config = settings(tmp_path / "run", num_updates=2)
    checkpoint = run(config).checkpoint
    (checkpoint / "critic.pt").unlink()
    with pytest.raises(DataError, match="holds no 'critic'"):
        run(replace(config, num_updates=4, resume=True))


# The critic ----------------------------------------------------------------------------------------------------------


def tensors(turn_ids, pad=0):
    """Rows of drawn tokens, padded on the right."""
    rows = [torch.tensor(row) for row in turn_ids]
    length = max(map(len, rows)) + pad
    ids, mask, turns = (torch.full((len(rows), length), fill) for fill in (3, 0, -1))
    generator = torch.Generator().manual_seed(0)
    for b, row in enumerate(rows):
        ids[b, : len(row)] = torch.randint(5, 300, (len(row),), generator=generator)
        mask[b, : len(row)], turns[b, : len(row)] = 1, row
    return TokenTensors(ids, mask, turns, turns >= 0, torch.zeros(turns.shape))


def critic_of(model):
    critic = Critic(model)
    torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(1))
    return critic


@torch.no_grad()
def test_a_value_is_of_the_state_before_its_token():
    critic, tokens = critic_of(make_model()), tensors([[-1, -1, 0, 0, -1, 1], [-1, 0, -1]])
    values, last = critic(tokens)
    assert (values[~tokens.action_mask] == 0).all()
    changed = tokens.input_ids.clone()
    changed[0, 3] += 1  # an action token: its own value stands before it, those after it see it
    seen, after = critic(replace(tokens, input_ids=changed))
    assert torch.equal(seen[0, :4], values[0, :4])
    assert seen[0, 5] != values[0, 5]
    assert after[0] != last[0]
    assert torch.equal(seen[1], values[1])
    # After the end: what the value of one more token would be.
    longer = tensors([[-1, 0, -1, 1]])
    one = tokens.rows([1])
    longer.input_ids[0, :3] = one.input_ids[0, :3]
    torch.testing.assert_close(critic(longer)[0][0, 3], last[1])


@torch.no_grad()
def test_padding_changes_no_value():
    critic, rows = critic_of(make_model()), [[-1, -1, 0, 0, -1, 1], [-1, 0, -1]]
    (values, last), (padded, padded_last) = critic(tensors(rows)), critic(tensors(rows, pad=4))
    torch.testing.assert_close(padded[:, :6], values)
    torch.testing.assert_close(padded_last, last)


def test_a_new_critic_expects_nothing_and_shares_no_weight():
    model = make_model()
    critic = Critic(model)
    values, last = critic(tensors([[-1, 0, 0]]))
    assert (values == 0).all()
    assert (last == 0).all()
    assert not {p.data_ptr() for p in critic.parameters()} & {p.data_ptr() for p in model.parameters()}


# Credit --------------------------------------------------------------------------------------------------------------

TURN_IDS = [[-1, 0, 0, -1, 1, 1], [-1, 0, -1, -1, -1, -1]]
TURNS = TurnBatch(
    rewards=np.array([[0.5, np.nan], [np.nan, 0.0]]),
    outcome=np.array([1.0, 0.25]),
    mask=np.array([[True, True], [True, False]]),
    groups=np.arange(2),
)


def credit(config, values, bootstrap=(0.0, 0.0), ref_logprobs=None):
    tokens = tensors(TURN_IDS)
    rewards = place_rewards(config, TURNS, tokens, ref_logprobs)
    return assign_credit(config, tokens, rewards, torch.tensor(values), np.array(bootstrap))


def test_credit_over_tokens_by_hand(tmp_path):
    config = PPOConfig(output_dir=tmp_path, alpha=0.5, gamma=0.5, gae_lambda=1.0, whiten=False)
    values = [[0.0, 0.5, 0.25, 0.0, 0.75, 0.5], [0.0, 0.125, 0.0, 0.0, 0.0, 0.0]]
    got = credit(config, values)
    # Returns: the last turn's is 1; the first's 0.25 (half of 0.5) and half of 1.
    assert got.returns.tolist()[0] == [0, 0.75, 0.75, 0, 1, 1]
    assert got.advantages.tolist()[0] == [0, 0.25, 0.5, 0, 0.25, 0.5]
    assert got.by_turn.tolist() == [[0.375, 0.375], [0.125, 0.0]]
    assert got.value_mask.tolist() == tensors(TURN_IDS).action_mask.tolist()


def test_credit_over_turns_by_hand(tmp_path):
    config = PPOConfig(output_dir=tmp_path, estimator="turn_gae", alpha=0.5, gamma=0.5, gae_lambda=1.0)
    values = [[0.0, 0.5, 9.0, 0.0, 0.75, 9.0], [0.0, 0.125, 0.0, 0.0, 0.0, 0.0]]  # 9: no turn starts there
    got = credit(config, values)
    assert got.by_turn.tolist() == [[0.25, 0.25], [0.125, 0.0]]
    assert got.advantages.tolist()[0] == [0, 0.25, 0.25, 0, 0.25, 0.25]
    assert got.value_mask.tolist() == [[False, True, False, False, True, False], [False, True] + [False] * 4]
    assert got.returns[got.value_mask].tolist() == [0.75, 1.0, 0.25]


@pytest.mark.parametrize("estimator", ["turn_aware_gae", "turn_gae"])
def test_a_bootstrap_counts_as_the_last_reward(tmp_path, estimator):
    config = PPOConfig(output_dir=tmp_path, estimator=estimator, gamma=0.5, gae_lambda=1.0)
    values = np.zeros((2, 6), dtype=np.float32).tolist()
    without, with_it = credit(config, values), credit(config, values, bootstrap=(0.0, 4.0))
    assert (with_it.by_turn - without.by_turn).tolist() == [[0.0, 0.0], [2.0, 0.0]]


def test_kl_in_the_reward_is_charged_where_the_policy_left(tmp_path):
    config = PPOConfig(output_dir=tmp_path, alpha=0.5, kl_coef=0.1, kl_in="reward")
    reference = torch.full((2, 6), -0.5)  # the sampler's are 0: each action token is 0.5 nats likelier
    rewards = place_rewards(config, TURNS, tensors(TURN_IDS), reference)
    np.testing.assert_allclose(rewards, [[0, -0.05, 0.2, 0, -0.05, 0.95], [0, 0.2, 0, 0, 0, 0]], atol=1e-7)
    in_loss = place_rewards(replace(config, kl_in="loss"), TURNS, tensors(TURN_IDS), reference)
    np.testing.assert_allclose(in_loss.sum(axis=1), [1.25, 0.25])


def test_whitening_equal_advantages_gives_nothing():
    mask = torch.tensor([[True, True, False]])
    assert whitened(torch.tensor([[0.1, 0.1, 7.0]]), mask).tolist() == [[0.0, 0.0, 0.0]]


def test_bootstrap_is_for_cut_episodes_alone(tmp_path):
    """The two runs differ in episodes that ran into the turn limit, and in nothing else of the first update."""
    ends = {}
    for policy in ("keep", "bootstrap"):
        folder = tmp_path / policy
        run(settings(folder, num_updates=2, cut_episodes=policy, learning_rate=1e-9))
        lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
        ends[policy] = [(line["episode"]["truncated"], line["advantages"]) for line in lines if line["update"] == 2]
    pairs = list(zip(*ends.values(), strict=True))
    assert any(cut for (cut, _), _ in pairs)
    for (cut, without), (_, with_it) in pairs:
        assert (without != pytest.approx(with_it, abs=1e-6)) == cut


# Settings ------------------------------------------------------------------------------------------------------------


def test_every_episode_is_of_a_task_of_its_own(tmp_path):
    config = settings(tmp_path, episodes_per_update=50)
    one, two = task_seeds(config, 1), task_seeds(config, 2)
    assert len({*one, *two}) == 100
    assert task_seeds(replace(config, seed=1), 1) != one


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"estimator": "grpo"}, "estimator 'grpo' is one of turns"),
        ({"value_clip": 0.0}, "value_clip must be above 0"),
        ({"critic_learning_rate": -1.0}, "critic_learning_rate must be above 0"),
        ({"minibatch_episodes": 13}, "minibatch_episodes is 13, but an update has only 12 episodes"),
        ({"gae_lambda": 1.5}, "gae_lambda must lie in .0, 1., not 1.5"),
        ({"estimator_kwargs": {"lamda": 1.0}}, "takes no 'lamda'"),
        ({"kl_in": "gradient"}, "kl_in must be one of loss, reward"),
        ({"kl_in": "reward", "kl_coef": 0.0}, "with kl_coef 0 there is no penalty"),
        ({"estimator": "turn_gea"}, "token_gae, turn_aware_gae, turn_gae, or .*; did you mean turn_gae"),
        ({"estimator": "turn_gae", "estimator_kwargs": {"alpha": 0.1}}, "would scale the outcome too"),
        ({"gamma": 0.9, "estimator_kwargs": {"turn_gamma": 0.5}}, "turn_gamma of the estimator is given twice"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_construction(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        settings(tmp_path, **changes)


def test_the_command_line(tmp_path, capsys):
    config = parse_command_line(PPOConfig, ["--estimator", "turn_gae", "--value-clip", "0.1", "--cut-episodes", "mask"])
    assert (config.estimator, config.value_clip, config.cut_episodes) == ("turn_gae", 0.1, "mask")
    assert PPOConfig(**json.loads(json.dumps(config.to_json()))) == config
    assert main(["--output-dir", str(tmp_path / "none"), "--resume"]) == 2
    assert "there is no run to resume" in capsys.readouterr().err
