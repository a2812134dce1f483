"""Defects that were published in other trainers: each is rebuilt in a few lines, gives its wrong number, and ours not.

The rebuilt ones are written from descriptions of the defects, as plainly as they go; names say where they were seen.
"""

from __future__ import annotations

import ast
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from estimator_batches import NAN, make_batch, make_tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from stopping import expected_gradient

from agents.advantages import (
    ESTIMATORS,
    dr_grpo,
    gigpo,
    grpo,
    igpo,
    make_estimator,
    matchtir,
    mt_grpo,
    rloo,
    token_gae,
    trm_grpo,
    trm_ppo_rewards,
    turn_aware_gae,
    turn_gae,
    turn_loo,
)
from toolenv.errors import ConfigError

pytestmark = pytest.mark.core

DOCS = Path(__file__).resolve().parents[1] / "docs" / "estimators.md"


def gae_over_every_token(rewards, values, gamma, gae_lambda):
    """The textbook recursion, which takes observation tokens for actions."""
    advantages, advantage, next_value = [], 0.0, 0.0
    for reward, value in zip(rewards[::-1], values[::-1], strict=True):
        advantage = reward + gamma * next_value - value + gamma * gae_lambda * advantage
        next_value = value
        advantages.append(advantage)
    return np.array(advantages[::-1])


def gae_that_skips(rewards, values, turn_ids, gamma, gae_lambda):
    """The recursion over sampled tokens alone; what stands on the others is not read, rewards neither."""
    sampled = [i for i, turn in enumerate(turn_ids) if turn >= 0]
    advantages = np.zeros(len(turn_ids))
    advantages[sampled] = gae_over_every_token(
        [rewards[i] for i in sampled], [values[i] for i in sampled], gamma, gae_lambda
    )
    return advantages


def bi_level_gae(rewards, values, gamma, gae_lambda, turn_gamma):
    """From turn end to turn end, then back through the tokens of each turn; a turn ends where a reward is not 0."""
    ends = [i for i, reward in enumerate(rewards) if reward]
    upper = gae_over_every_token([rewards[i] for i in ends], [values[i] for i in ends], turn_gamma, gae_lambda)
    advantages = np.zeros(len(rewards))
    for i in reversed(range(len(rewards))):
        if i in ends:
            advantages[i] = upper[ends.index(i)]
        else:
            delta = gamma * values[i + 1] - values[i]
            advantages[i] = delta + gamma * gae_lambda * advantages[i + 1]
    return advantages


def row(turn_ids, rewards, values=None):
    return make_tokens([turn_ids], [rewards], None if values is None else [values])


# GAE -----------------------------------------------------------------------------------------------------------------


def test_openrlhf_credit_decays_with_the_length_of_a_tool_result():
    turn_ids, rewards = [0, -1, -1, -1, -1, 1, 1], [0, 0, 0, 0, 0, 0, 1]
    assert gae_over_every_token(rewards, [0] * 7, 1, 0.95)[0] == pytest.approx(0.735, abs=5e-4)
    for ours in (token_gae(row(turn_ids, rewards), gae_lambda=0.95), turn_aware_gae(row(turn_ids, rewards), 1, 0.95)):
        assert ours[0, 0] == pytest.approx(0.9025)


def test_openrlhf_bootstraps_from_the_zeroed_value_of_an_observation():
    turn_ids, rewards = [0, -1, 1], [0, 0, 0.5]
    zeroed = [0.5, 0, 0.5]
    assert gae_over_every_token(rewards, zeroed, 1, 0)[0] == pytest.approx(-0.5)
    assert token_gae(row(turn_ids, rewards, [0.5] * 3), gae_lambda=0)[0, 0] == pytest.approx(0)


def test_skyrl_values_on_observations_leak():
    turn_ids, rewards = [0, 0, -1, -1, 1, 1], [0, 0, 0, 0, 0, 1]
    values = [0.5, 0.5, 9, -6.54, 0.5, 0.5]
    np.testing.assert_allclose(gae_over_every_token(rewards, values, 1, 0.95)[:2], [0.473, 0.498], atol=5e-4)
    ours = token_gae(row(turn_ids, rewards, values), gae_lambda=0.95)
    np.testing.assert_allclose(ours[0, :2], [0.429, 0.451], atol=5e-4)


def test_slime_has_no_mask_so_that_the_same_turns_earn_less_after_a_longer_observation():
    theirs, ours = [], []
    for gap in (0, 4):
        turn_ids, rewards = [0] + [-1] * gap + [1, 1], [0] * (gap + 2) + [1]
        theirs.append(gae_over_every_token(rewards, [0.5] * len(rewards), 1, 0.95)[0])
        ours.append(token_gae(row(turn_ids, rewards, [0.5] * len(rewards)), gae_lambda=0.95)[0, 0])
    assert theirs == pytest.approx([0.5 * 0.95**2, 0.5 * 0.95**6])
    assert ours == pytest.approx([0.5 * 0.95**2] * 2)


def test_verl_loses_a_reward_on_an_observation():
    turn_ids, values = [0, 0, -1, 1], [0.5] * 4
    without, rewarded = [0, 0, 0, 1], [0, 0, 1, 1]
    skipping = partial(gae_that_skips, values=values, turn_ids=turn_ids, gamma=1, gae_lambda=0.95)
    np.testing.assert_array_equal(skipping(rewarded), skipping(without))
    ours = [token_gae(row(turn_ids, rewards, values), gae_lambda=0.95)[0] for rewards in (without, rewarded)]
    np.testing.assert_allclose(ours[1] - ours[0], [0.95, 1, 0, 0])


def test_verl_discounts_a_turn_by_how_many_tokens_the_next_one_has():
    theirs, ours = [], []
    for length in (2, 5):
        turn_ids, rewards = [0, -1, *[1] * length], [0] * (length + 1) + [1]
        theirs.append(gae_that_skips(rewards, [0] * len(rewards), turn_ids, 0.9, 1)[0])
        ours.append(turn_aware_gae(row(turn_ids, rewards), turn_gamma=0.9, turn_lambda=1)[0, 0])
    assert theirs == pytest.approx([0.9**2, 0.9**5])
    assert ours == pytest.approx([0.9, 0.9])


def test_ragen_fails_where_the_last_turn_is_worth_0():
    turn_ids, rewards = [0, 0, 1, 1], [0, 1, 0, 0]
    with pytest.raises(IndexError):
        bi_level_gae(rewards, [0] * 4, 1, 1, 0.5)
    np.testing.assert_array_equal(turn_aware_gae(row(turn_ids, rewards), turn_gamma=0.5, turn_lambda=1), [[1, 1, 0, 0]])


def test_ragen_takes_two_turns_for_one_where_the_first_is_worth_0():
    turn_ids, rewards = [0, 0, 1, 1], [0, 0, 0, 1]
    assert bi_level_gae(rewards, [0] * 4, 1, 1, 0.5)[0] == 1.0
    assert turn_aware_gae(row(turn_ids, rewards), turn_gamma=0.5, turn_lambda=1)[0, 0] == 0.5


# Placement -----------------------------------------------------------------------------------------------------------


def test_skyrl_drops_rewards_of_turns_that_were_cut_off():
    turns = make_batch([[0.25, 0.5, NAN]], [1])
    ends, length = [1, 4, 7], 6
    theirs = np.zeros(length)
    for end, reward in zip(ends, [0.25, 0.5, 1], strict=True):
        if end < length:
            theirs[end] += reward
    assert theirs.sum() == 0.75
    with pytest.raises(ConfigError, match="turn 2 of episode 0 has no token in turn_ids"):
        trm_ppo_rewards(turns, [[0, 0, -1, 1, 1, -1]], alpha=1.0)
    assert trm_ppo_rewards(turns, [[0, 0, -1, 1, 1, -1, 2, 2]], alpha=1.0).sum() == 1.75


# Groups --------------------------------------------------------------------------------------------------------------


def test_verl_pays_an_episode_alone_in_its_group_its_raw_reward():
    mean, spread = 0, 1  # what stands in for the statistics of a single value
    assert (0.8 - mean) / (spread + 1e-6) == pytest.approx(0.8, abs=1e-5)
    assert grpo(make_batch([[NAN]], [0.8]))[0, 0] == 0


def test_a_spread_of_rounding_errors_is_no_spread():
    outcome = np.array([0.7] * 3)
    spread = outcome.std(ddof=1)
    assert 0 < spread < 1e-15
    assert np.abs((outcome - outcome.mean()) / spread).max() > 0.8
    assert not grpo(make_batch([[NAN]] * 3, outcome), eps=0.0).any()


def to_go(rewards):
    return np.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]


def mean_over_the_living(batch):
    """MT-GRPO's baseline, undivided: each turn's reward minus its mean over those who play that turn."""
    rewards = np.where(batch.mask, batch.rewards, 0)
    for group in np.unique(batch.groups):
        rows = batch.groups == group
        rewards[rows] -= rewards[rows].sum(axis=0) / np.maximum(batch.mask[rows].sum(axis=0), 1)
    return to_go(rewards * batch.mask) * batch.mask


def padded_group_mean(batch):
    """Return-to-go minus the group's mean, in which an episode that ended counts 0, and its own return stands too."""
    returns = to_go(np.where(batch.mask, batch.rewards, 0))
    for group in np.unique(batch.groups):
        rows = batch.groups == group
        returns[rows] -= returns[rows].mean(axis=0)
    return returns * batch.mask


# In the stopping problem E[return] = p, so that the gradient in theta is p (1 - p) = 0.25.


def test_mt_grpo_and_its_port_give_no_credit_for_going_on():
    assert expected_gradient(mean_over_the_living, 0.5, 8) == pytest.approx(0, abs=1e-12)
    # Ours of that name is faithful to it, and so is TRM's: the docs say so. Leave-one-out over padded turns is right.
    assert expected_gradient(mt_grpo, 0.5, 8) == pytest.approx(0, abs=1e-12)
    assert expected_gradient(partial(trm_grpo, alpha=1.0), 0.5, 8) == pytest.approx(0, abs=1e-12)
    assert expected_gradient(turn_loo, 0.5, 8) == pytest.approx(0.25, abs=1e-12)


def test_a_padded_group_mean_falls_short_by_one_over_the_group():
    assert expected_gradient(padded_group_mean, 0.5, 8) == pytest.approx(0.25 * 7 / 8, abs=1e-12)
    assert expected_gradient(turn_loo, 0.5, 8) == pytest.approx(0.25, abs=1e-12)


def test_a_further_turn_below_the_mean_pays_and_pooled_normalisation_charges_for_it():
    # E[return] = 0.9 + 0.4 p, so that the gradient is 0.1.
    pays = (0.9, 0.4)
    pooled = [partial(trm_grpo, alpha=1.0, normalize="group")]
    pooled += [partial(igpo, normalize=pool) for pool in ("joint", "separate")]
    assert all(expected_gradient(estimator, 0.5, 8, pays) < -0.02 for estimator in pooled)
    assert expected_gradient(turn_loo, 0.5, 8, pays) == pytest.approx(0.1, abs=1e-12)


@pytest.mark.parametrize("estimator", [matchtir, gigpo])
def test_returns_compared_among_those_who_play_a_turn_give_credit_for_going_on(estimator):
    assert expected_gradient(estimator, 0.5, 4, (0, 0, 1)) > 0.2
    assert expected_gradient(estimator, 0.5, 4, (0.9, 0.4, 0.4)) > 0.2
    assert expected_gradient(mt_grpo, 0.5, 4, (0, 0, 1)) == pytest.approx(0, abs=1e-12)


@settings(max_examples=20)
@given(st.floats(0.05, 0.95), st.integers(2, 4))
def test_igpo_by_position_falls_short_by_one_over_those_who_play_the_turn(p, group_size):
    # E[return] = p^2; each of the two decisions has gradient p^2 (1 - p). All play the first turn; the second one is
    # played, beside an episode that plays it, by Binomial(n - 1, p) others.
    others = range(group_size)
    chances = [math.comb(group_size - 1, k) * p**k * (1 - p) ** (group_size - 1 - k) for k in others]
    kept = sum(chance * k / (k + 1) for chance, k in zip(chances, others, strict=True))
    want = p**2 * (1 - p) * ((group_size - 1) / group_size + kept)
    assert expected_gradient(igpo, p, group_size, (0, 0, 1)) == pytest.approx(want, rel=1e-9)
    assert kept == pytest.approx(1 - (1 - (1 - p) ** group_size) / (group_size * p))  # as its docstring says


@settings(max_examples=20)
@given(st.floats(0.05, 0.95), st.integers(2, 4), st.booleans())
def test_turn_loo_is_unbiased_over_several_decisions(p, group_size, hold):
    # E[return] = p + p^2 + P(outcome), with outcome 1 for exactly one continue: p (1 - p).
    d_return = 1 + 2 * p + (1 - 2 * p)
    estimator = partial(turn_loo, hold_outcome=hold)
    got = expected_gradient(estimator, p, group_size, (0, 1, 1), outcome=lambda turns: float(turns == 2))
    assert got == pytest.approx(d_return * p * (1 - p), rel=1e-9)


@settings(max_examples=20)
@given(st.floats(0.05, 0.95), st.integers(2, 4))
def test_rloo_is_unbiased_and_dr_grpo_is_short_by_one_over_group_size(p, group_size):
    want = (1 + 2 * p) * p * (1 - p)
    got = expected_gradient(partial(rloo, include_turn_rewards=True), p, group_size, (0, 1, 1))
    assert got == pytest.approx(want, rel=1e-9)
    got = expected_gradient(partial(dr_grpo, include_turn_rewards=True), p, group_size, (0, 1, 1))
    assert got == pytest.approx(want * (group_size - 1) / group_size, rel=1e-9)


@settings(max_examples=20)
@given(st.floats(0.05, 0.95), st.integers(1, 3))
def test_turn_gae_with_lambda_1_is_unbiased_whatever_the_critic_says(p, group_size):
    want = (1 + 2 * p) * p * (1 - p)
    got = expected_gradient(partial(turn_gae, gae_lambda=1.0), p, group_size, (0, 1, 1))
    assert got == pytest.approx(want, rel=1e-9)


def test_turn_credit_has_less_variance_than_episode_credit():
    # Two-turn episodes; only the second turn's reward varies with what happens there.
    random = np.random.default_rng(0)
    rewards = random.integers(0, 2, size=(400, 2)).astype(float)
    groups = np.repeat(np.arange(100), 4)
    batch = make_batch(rewards.tolist(), np.zeros(400), groups)
    late = turn_loo(batch)[:, 1].var()
    assert late < 0.75 * rloo(batch, include_turn_rewards=True)[:, 1].var()


def documented_gradients():
    """Rows of the table in the docs: a call in backticks, and the two gradients."""
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and re.fullmatch(r"-?\d\.\d{3}", cells[1]):
            yield cells[0].strip("`"), float(cells[1]), float(cells[2])


@pytest.mark.parametrize(("call", "first", "second"), list(documented_gradients()), ids=lambda value: str(value))
def test_the_gradients_in_the_docs_are_those_of_the_estimators(call, first, second):
    parsed = ast.parse(call, mode="eval").body
    keywords = parsed.keywords if isinstance(parsed, ast.Call) else []
    name = parsed.func.id if isinstance(parsed, ast.Call) else parsed.id
    estimator = make_estimator(name, **{word.arg: ast.literal_eval(word.value) for word in keywords})
    for pays, want in (((0, 1), first), ((0.9, 0.4), second)):
        assert expected_gradient(estimator, 0.5, 8, pays, alone=name == "rebn") == pytest.approx(want, abs=6e-4)


def test_the_docs_give_the_gradients_of_every_estimator():
    assert {call.split("(")[0] for call, _, _ in documented_gradients()} == set(ESTIMATORS)
