"""What a limit cut and what said nothing counts for what the policy says, and for nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from agents_fixtures import TextSampler, make_envs, make_model, make_tokenizer

from agents.batch import TokenTensors, TurnBatch, pack, turn_batch
from agents.config import GRPOConfig
from agents.logprobs import action_logprobs
from agents.losses import policy_loss, unit_count
from agents.overlong import (
    OverlongPolicy,
    apply_policy,
    bootstrap_values,
    cut_episodes,
    cut_turns,
    kept_tokens,
    overlong_metrics,
    soft_penalty,
    void_turns,
)
from agents.rollout import Rollout, collect
from agents.sampling import Generation
from agents.tokens import ConversationEncoder
from toolenv.envs.function_call import FunctionCallEnv
from toolenv.episode import Task
from toolenv.errors import ConfigError
from toolenv.vector import ToolVectorEnv


class Scripted(TextSampler):
    """Says its texts; one that ends in ``...`` was cut."""

    def _say(self, text: str, seed: int) -> Generation:
        return replace(super()._say(text, seed), finish_reason="length" if text.endswith("...") else "stop")


CALL, ANSWER = "<search>Lyon</search>", "<answer>4</answer>"
SCRIPTS = (
    [CALL, ANSWER],
    ["hm", CALL, ANSWER],  # a void turn
    [CALL, "<search>Ly...", CALL],  # a turn that was cut, and is void too; then max_turns
    [CALL, "<answer>4</answer> and..."],  # cut where nothing counts any more: no cut turn
    [CALL, CALL, "<search>nothing</search>"],  # a call that fails is no void turn; max_turns
)


def play(seed: int, script: list[str]) -> Rollout:
    envs = make_envs(1, max_turns=3)
    encoder = ConversationEncoder(make_tokenizer(), envs.envs[0].format)
    [rollout] = collect(Scripted(*script), envs, [seed], encoder=encoder, sampler_seed=0).rollouts
    return rollout


@pytest.fixture(scope="module")
def rollouts() -> list[Rollout]:
    return [play(seed, script) for seed, script in enumerate(SCRIPTS)]


@pytest.fixture
def turns(rollouts: list[Rollout]) -> TurnBatch:
    rewards = [[0.25] * len(r.episode.turns) for r in rollouts]
    rewards[1][0] = rewards[2][2] = np.nan
    return turn_batch(rollouts, rewards, [1.0, 1.0, 0.0, 1.0, 0.0])


def grid(*rows: str) -> Any:
    """``"x."``: true, then false."""
    width = max(map(len, rows))
    return np.array([[mark == "x" for mark in row.ljust(width, ".")] for row in rows])


def test_what_is_what(rollouts: list[Rollout]) -> None:
    assert [len(r.episode.turns) for r in rollouts] == [2, 3, 3, 2, 3]
    assert cut_episodes(rollouts).tolist() == [False, False, True, False, True]
    assert (cut_turns(rollouts) == grid("...", "...", ".x.", "...", "...")).all()
    assert (void_turns(rollouts) == grid("...", "x..", ".x.", "...", "...")).all()


def test_a_reply_that_the_user_follows_up_is_not_void() -> None:
    schema = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    follow_up = {"prompt": "And now?", "functions": ()}
    task = Task(id="t", prompt="?", functions=(schema,), metadata={"follow_ups": [follow_up], "accepted": []})
    envs = ToolVectorEnv([lambda: FunctionCallEnv([task])], "Disabled")
    encoder = ConversationEncoder(make_tokenizer(), envs.envs[0].format)
    [rollout] = collect(TextSampler("No.", "Done."), envs, [0], encoder=encoder, sampler_seed=0).rollouts
    assert len(rollout.episode.turns) == 2
    assert not void_turns([rollout]).any()


def test_by_default_nothing_changes(rollouts: list[Rollout], turns: TurnBatch) -> None:
    after, keep = apply_policy(rollouts, turns, OverlongPolicy())
    for name in ("rewards", "outcome", "mask", "groups", "bootstrap"):
        np.testing.assert_array_equal(getattr(after, name), getattr(turns, name))
    assert (keep == turns.mask).all()
    tokens = pack(rollouts, 0)
    kept = kept_tokens(tokens, keep)
    assert all(torch.equal(getattr(kept, name), getattr(tokens, name)) for name in TokenTensors.__slots__)
    assert not bootstrap_values(rollouts, np.ones(5), OverlongPolicy()).any()
    metrics = overlong_metrics(rollouts, turns, after, keep)
    assert metrics == pytest.approx(
        {
            "cut_episodes": 2 / 5,
            "cut_turns": 1 / 13,
            "void_turns": 2 / 13,
            "left_out/episodes": 0,
            "left_out/turns": 0,
            "left_out/tokens": 0,
            "penalty": 0,
        }
    )


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (OverlongPolicy(cut_episodes="mask"), ("xx.", "xxx", "...", "xx.", "...")),
        (OverlongPolicy(cut_turns="mask"), ("xx.", "xxx", "x.x", "xx.", "xxx")),
        (OverlongPolicy(void_turns="mask"), ("xx.", ".xx", "x.x", "xx.", "xxx")),
        (OverlongPolicy(void_turns="mask-episode"), ("xx.", "...", "...", "xx.", "xxx")),
        (OverlongPolicy(cut_turns="mask-episode", void_turns="mask"), ("xx.", ".xx", "...", "xx.", "xxx")),
    ],
)
def test_what_is_masked(
    policy: OverlongPolicy, expected: tuple[str, ...], rollouts: list[Rollout], turns: TurnBatch
) -> None:
    after, keep = apply_policy(rollouts, turns, policy)
    assert (keep == grid(*expected)).all()
    np.testing.assert_array_equal(after.rewards, turns.rewards)
    np.testing.assert_array_equal(after.outcome, turns.outcome)
    kept = kept_tokens(pack(rollouts, 0), keep)
    for row, marks in enumerate(expected):
        assert set(kept.turn_ids[row].tolist()) - {-1} == {turn for turn, mark in enumerate(marks) if mark == "x"}
    assert torch.equal(kept.action_mask, kept.turn_ids >= 0)
    assert (kept.logprobs[~kept.action_mask] == 0).all()


@pytest.mark.parametrize("ratio", ["token", "turn", "sequence"])
@pytest.mark.parametrize("normalizer", ["token-mean", "turn-mean", "episode-mean"])
def test_a_masked_episode_is_as_if_it_were_not_in_the_batch(
    normalizer: Any, ratio: Any, rollouts: list[Rollout], turns: TurnBatch
) -> None:
    _, keep = apply_policy(rollouts, turns, OverlongPolicy(cut_episodes="mask"))
    tokens = kept_tokens(pack(rollouts, 0), keep)
    generator = torch.Generator().manual_seed(0)
    logprobs = torch.randn(tokens.logprobs.shape, generator=generator) - 1.0
    advantages = torch.randn(tokens.logprobs.shape, generator=generator)

    def loss_of(rows: list[int]) -> tuple[float, float, torch.Tensor]:
        part, leaf = tokens.rows(rows), logprobs[rows].clone().requires_grad_()
        width = part.input_ids.shape[1]
        step = policy_loss(
            leaf[:, :width], part.logprobs, advantages[rows][:, :width], part.action_mask, ratio=ratio,
            turn_ids=part.turn_ids, normalizer=normalizer,
        )  # fmt: skip
        step.loss.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return step.loss.item(), unit_count(part.action_mask, normalizer, part.turn_ids), leaf.grad

    loss, count, gradient = loss_of([0, 1, 2, 3, 4])
    expected_loss, expected_count, expected_gradient = loss_of([0, 1, 3])
    assert (loss, count) == pytest.approx((expected_loss, expected_count))
    torch.testing.assert_close(gradient[[0, 1, 3]], expected_gradient)
    assert not gradient[[2, 4]].any()


def test_a_batch_with_nothing_left_has_a_loss_of_zero(rollouts: list[Rollout]) -> None:
    tokens = kept_tokens(pack(rollouts, 0), np.zeros((5, 3), dtype=np.bool_))
    model = make_model()
    logprobs, _ = action_logprobs(model, tokens)
    step = policy_loss(logprobs, tokens.logprobs, torch.ones_like(logprobs), tokens.action_mask)
    assert step.loss.item() == 0.0


def test_penalties(rollouts: list[Rollout], turns: TurnBatch) -> None:
    policy = OverlongPolicy(
        cut_episodes="penalise", cut_turns="penalise", void_turns="penalise",
        cut_episode_penalty=0.5, cut_turn_penalty=0.125, void_turn_penalty=0.0625,
    )  # fmt: skip
    after, keep = apply_policy(rollouts, turns, policy)
    assert after.outcome.tolist() == [1.0, 1.0, -0.5, 1.0, -0.5]
    expected = [
        [0.25, 0.25, 0.0],
        [-0.0625, 0.25, 0.25],  # was not scored
        [0.25, 0.0625, np.nan],  # both charges; and what is neither charged nor scored stays unscored
        [0.25, 0.25, 0.0],
        [0.25, 0.25, 0.25],
    ]
    np.testing.assert_array_equal(after.rewards, expected)
    assert (keep == turns.mask).all()
    charged = 2 * 0.5 + 0.125 + 2 * 0.0625
    assert overlong_metrics(rollouts, turns, after, keep)["penalty"] == pytest.approx(charged / 5)
    assert np.isnan(turns.rewards[1, 0])
    assert turns.outcome[2] == 0.0


def test_what_is_left_out_is_counted(rollouts: list[Rollout], turns: TurnBatch) -> None:
    after, keep = apply_policy(rollouts, turns, OverlongPolicy(cut_episodes="mask", void_turns="mask"))
    metrics = overlong_metrics(rollouts, turns, after, keep)
    tokens, kept = pack(rollouts, 0), kept_tokens(pack(rollouts, 0), keep)
    assert metrics["left_out/episodes"] == pytest.approx(2 / 5)
    assert metrics["left_out/turns"] == pytest.approx(7 / 13)
    assert metrics["left_out/tokens"] == pytest.approx(1 - float(kept.action_mask.sum() / tokens.action_mask.sum()))


def test_dapos_soft_punishment() -> None:
    lengths = np.array([1, 16384, 17408, 18432, 20480, 30000])
    assert soft_penalty(lengths, 20480, 4096).tolist() == [0, 0, 0.25, 0.5, 1, 1]


def test_the_soft_limit_counts_as_max_tokens_does(rollouts: list[Rollout], turns: TurnBatch) -> None:
    longest = max(len(r.tokens) for r in rollouts)
    after, keep = apply_policy(rollouts, turns, OverlongPolicy(soft_limit=longest, soft_buffer=longest - 1))
    for b, rollout in enumerate(rollouts):
        assert turns.outcome[b] - after.outcome[b] == pytest.approx((len(rollout.tokens) - 1) / (longest - 1))
    assert (keep == turns.mask).all()


def test_only_what_was_cut_is_bootstrapped(rollouts: list[Rollout]) -> None:
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    policy = OverlongPolicy(cut_episodes="bootstrap")
    assert bootstrap_values(rollouts, values, policy).tolist() == [0.0, 0.0, 0.3, 0.0, 0.5]


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="cut_turns must be one of keep, mask, mask-episode, penalise"):
        OverlongPolicy(cut_turns="bootstrap")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="void_turn_penalty must be above 0"):
        OverlongPolicy(void_turn_penalty=-0.1)
    with pytest.raises(ConfigError, match="soft_limit must be above soft_buffer"):
        OverlongPolicy(soft_limit=100, soft_buffer=256)
    assert [OverlongPolicy().charges_turns, OverlongPolicy(void_turns="penalise").charges_turns] == [False, True]


def test_a_run_that_sets_nothing_has_the_defaults() -> None:
    """They stand twice, for the command line is flat."""
    assert GRPOConfig().overlong == OverlongPolicy()
