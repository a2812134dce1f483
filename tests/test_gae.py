"""Estimators with a critic, and where rewards are placed: laws of observation tokens, turns, rewards and cuts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from estimator_batches import NAN, fill, make_batch, make_tokens, ragged, token_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.advantages import token_gae, trm_ppo_rewards, turn_aware_gae, turn_gae
from agents.batch import TokenBatch, TurnBatch
from toolenv.errors import ConfigError

pytestmark = pytest.mark.core

SHARES = st.sampled_from([0.0, 0.5, 0.9, 1.0])
BOTH = [
    partial(token_gae, gamma=0.9, gae_lambda=0.8),
    partial(turn_aware_gae, gamma=0.9, gae_lambda=0.8, turn_gamma=0.7, turn_lambda=0.6),
]
FIELDS = ("rewards", "mask", "turn_ids", "outcome", "values", "bootstrap")


def rows_of(batch, rows):
    return replace(batch, **{name: getattr(batch, name)[rows] for name in FIELDS})


# Observation tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", BOTH)
@settings(max_examples=30)
@given(token_rows(), st.randoms(use_true_random=False))
def test_inserting_observation_tokens_changes_nothing(estimator, data, random):
    turn_ids, rewards, values, outcome, bootstrap = data
    batch = make_tokens(turn_ids, rewards, values, outcome, bootstrap)
    places = sorted(random.choices(range(batch.mask.shape[1] + 1), k=4))
    wider = replace(
        batch,
        rewards=np.insert(batch.rewards, places, 0.0, axis=1),
        mask=np.insert(batch.mask, places, False, axis=1),
        turn_ids=np.insert(batch.turn_ids, places, -1, axis=1),
        values=np.insert(batch.values, places, NAN, axis=1),
    )
    np.testing.assert_array_equal(estimator(wider), np.insert(estimator(batch), places, 0.0, axis=1))


@pytest.mark.parametrize("estimator", BOTH)
@settings(max_examples=30)
@given(token_rows())
def test_what_a_critic_says_of_observations_and_padding_does_not_matter(estimator, data):
    turn_ids, rewards, values, outcome, bootstrap = data
    batch = make_tokens(turn_ids, rewards, values, outcome, bootstrap)
    advantages = estimator(batch)
    assert advantages.dtype == np.float64
    assert np.isfinite(advantages).all()
    assert not advantages[~batch.mask].any()
    for garbage in (NAN, 1e9):
        noisy = replace(batch, values=np.where(batch.mask, batch.values, garbage))
        np.testing.assert_array_equal(estimator(noisy), advantages)


@pytest.mark.parametrize("estimator", BOTH)
@settings(max_examples=30)
@given(token_rows(), st.randoms(use_true_random=False))
def test_episodes_are_apart_and_their_order_is_free(estimator, data, random):
    batch = make_tokens(*data)
    advantages = estimator(batch)
    order = list(range(len(advantages)))
    random.shuffle(order)
    np.testing.assert_array_equal(estimator(rows_of(batch, order)), advantages[order])
    for row in order:
        np.testing.assert_array_equal(estimator(rows_of(batch, [row])), advantages[[row]])


# Rewards -------------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(token_rows(min_turns=1))
def test_rewards_are_conserved_wherever_they_stand(data):
    turn_ids, rewards, _, outcome, bootstrap = data
    batch = make_tokens(turn_ids, rewards, None, outcome, bootstrap)
    first = batch.mask.argmax(axis=1)
    want = np.nansum(batch.rewards, axis=1) + outcome + bootstrap
    for whole_return in (token_gae(batch), turn_aware_gae(batch, turn_lambda=1.0)):
        np.testing.assert_allclose(whole_return[np.arange(len(first)), first], want, atol=1e-12)


@settings(max_examples=30)
@given(token_rows(min_turns=1))
def test_lambda_1_makes_the_value_target_the_return_whatever_the_critic_says(data):
    batch = make_tokens(*data)
    without = replace(batch, values=None)
    targets = np.where(batch.mask, token_gae(batch) + batch.values, 0.0)
    np.testing.assert_allclose(targets, token_gae(without), atol=1e-12)


@settings(max_examples=30)
@given(token_rows())
def test_a_reward_on_an_observation_is_one_on_the_action_before(data):
    turn_ids, rewards, values, outcome, bootstrap = data
    batch = make_tokens(turn_ids, rewards, values, outcome, bootstrap)
    moved = np.zeros(batch.rewards.shape)
    for b, row in enumerate(batch.rewards):
        actions = np.flatnonzero(batch.mask[b])
        for column, reward in enumerate(row):
            if actions.size and not np.isnan(reward):
                before = actions[actions <= column]
                moved[b, before[-1] if before.size else actions[0]] += reward
    for estimator in BOTH:
        np.testing.assert_allclose(estimator(replace(batch, rewards=moved)), estimator(batch), atol=1e-12)


def test_zero_rewards_are_rewards():
    batch = make_tokens([[0, 0, -1, 1, 1]], values=[[0.5] * 5])
    np.testing.assert_allclose(token_gae(batch, gae_lambda=0.5), [[-0.0625, -0.125, 0, -0.25, -0.5]])
    np.testing.assert_array_equal(token_gae(replace(batch, values=None)), np.zeros((1, 5)))


def test_a_cut_counts_as_what_the_critic_expects_and_an_end_as_nothing():
    cut = make_tokens([[0, 0], [0, 0]], values=[[0.5, 0.5]] * 2, bootstrap=[0.5, 0.0])
    np.testing.assert_allclose(token_gae(cut), [[0, 0], [-0.5, -0.5]])
    np.testing.assert_allclose(turn_aware_gae(cut), [[0, 0], [-0.5, -0.5]])
    turns = make_batch([[NAN], [NAN]], [0, 0], values=[[0.5], [0.5]], bootstrap=[0.5, 0])
    np.testing.assert_allclose(turn_gae(turns), [[0], [-0.5]])


# Turns ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(token_rows(), SHARES, SHARES)
def test_with_both_scales_alike_or_a_single_turn_it_is_plain_gae(data, gamma, gae_lambda):
    batch = make_tokens(*data)
    plain = token_gae(batch, gamma, gae_lambda)
    np.testing.assert_array_equal(turn_aware_gae(batch, gamma, gae_lambda, gamma, gae_lambda), plain)
    one_turn = replace(batch, turn_ids=None, bootstrap=None)
    plain = token_gae(one_turn, gamma, gae_lambda)
    np.testing.assert_array_equal(turn_aware_gae(one_turn, gamma, gae_lambda, 0.3, 0.4), plain)


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, NAN]), min_size=1, max_size=4), min_size=1, max_size=3))
def test_one_token_turns_know_no_scale_within(rewards):
    batch = make_tokens([[t for t, _ in enumerate(row)] for row in rewards], rewards)
    across = {"turn_gamma": 0.9, "turn_lambda": 0.8}
    np.testing.assert_array_equal(turn_aware_gae(batch, 0.1, 0.2, **across), turn_aware_gae(batch, **across))
    turns = make_batch(rewards, [0] * len(rewards), values=[[0.0] * len(row) for row in rewards])
    np.testing.assert_allclose(turn_aware_gae(batch, **across), turn_gae(turns, gamma=0.9, gae_lambda=0.8))


@st.composite
def turns_and_tokens(draw):
    """A batch of turns, and turn ids of tokens that hold them."""
    rewards, outcome, _ = draw(ragged())
    gap = st.lists(st.just(-1), max_size=2)
    number = st.floats(-2, 2).map(lambda x: round(x, 2))
    turn_ids, values = [], []
    for row in rewards:
        ids = draw(gap)
        for turn, _ in enumerate(row):
            ids = [*ids, *[turn] * draw(st.integers(1, 3)), *draw(gap)]
        turn_ids.append(ids)
        values.append(draw(st.lists(number, min_size=len(ids), max_size=len(ids))))
    bootstrap = draw(st.lists(number, min_size=len(rewards), max_size=len(rewards)))
    return rewards, outcome, turn_ids, values, bootstrap


@settings(max_examples=40)
@given(turns_and_tokens(), SHARES, SHARES)
def test_without_decay_within_turns_it_is_gae_over_turns_read_at_their_starts(data, gamma, gae_lambda):
    rewards, outcome, turn_ids, values, bootstrap = data
    ids = fill(turn_ids, max(map(len, turn_ids)), -1).astype(np.int64)
    starts = [[row.index(turn) for turn in range(max(row) + 1)] for row in turn_ids]
    at_starts = [[value[start] for start in row] for value, row in zip(values, starts, strict=True)]
    turns = make_batch(rewards, outcome, values=at_starts, bootstrap=bootstrap, padding=1e6)
    placed = trm_ppo_rewards(turns, ids, alpha=0.5)
    tokens = replace(make_tokens(turn_ids, values=values, bootstrap=bootstrap), rewards=placed)
    by_token = turn_aware_gae(tokens, turn_gamma=gamma, turn_lambda=gae_lambda)
    by_turn = turn_gae(turns, alpha=0.5, gamma=gamma, gae_lambda=gae_lambda)
    for b, row in enumerate(starts):
        np.testing.assert_allclose(by_token[b, row], by_turn[b, : len(row)], atol=1e-9)

    # Where the critic says one thing of a whole turn, every token of the turn gets the same.
    held = np.where(ids >= 0, np.take_along_axis(fill(at_starts, ids.max() + 1, 0.0), ids.clip(0), axis=1), NAN)
    spread = turn_aware_gae(replace(tokens, values=held), turn_gamma=gamma, turn_lambda=gae_lambda)
    want = np.where(ids >= 0, np.take_along_axis(by_turn, ids.clip(0), axis=1), 0.0)
    np.testing.assert_allclose(spread, want, atol=1e-9)


# Placement -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(turns_and_tokens(), st.sampled_from([0.05, 1.0]))
def test_placed_rewards_are_paid_once_and_stand_at_the_ends_of_actions(data, alpha):
    rewards, outcome, turn_ids, _, _ = data
    turns = make_batch(rewards, outcome, padding=1e6)
    ids = fill(turn_ids, max(map(len, turn_ids)), -1).astype(np.int64)
    placed = trm_ppo_rewards(turns, ids, alpha)
    want = [alpha * np.nansum(row) + final for row, final in zip(rewards, outcome, strict=True)]
    np.testing.assert_allclose(placed.sum(axis=1), want)
    after = np.pad(ids, ((0, 0), (0, 1)), constant_values=-2)[:, 1:]
    assert not placed[(ids < 0) | (ids == after)].any()
    # Rewards of turns alone, and the outcome beside them: the same, paid by the estimator.
    alone = trm_ppo_rewards(replace(turns, outcome=np.zeros(len(outcome))), ids, alpha)
    beside = TokenBatch(alone, ids >= 0, ids, outcome=np.array(outcome))
    np.testing.assert_allclose(token_gae(beside), token_gae(TokenBatch(placed, ids >= 0, ids)), atol=1e-12)


def test_trm_pays_a_twentieth_of_a_score():
    turns = make_batch([[0.8, 0.4, NAN]], [1])
    np.testing.assert_allclose(trm_ppo_rewards(turns, [[0, 0, -1, 1, -1, 2, 2]]), [[0, 0.04, 0, 0.02, 0, 0, 1]])


@pytest.mark.parametrize(
    ("turn_ids", "said"),
    [
        (
            [[0, -1, 1]],
            r"turn_ids \(1, 3\), whose last turn is 1, do not fit a batch of 2 episodes with at most 2",
        ),
        ([[0, 1, 2], [0, -1, -1]], r"turn_ids \(2, 3\), whose last turn is 2, do not fit"),
        ([0, 1], r"turn_ids \(2,\), whose last turn is 1, do not fit"),
        ([[0, -1, 1], [-1, -1, -1]], "turn 0 of episode 1 has no token in turn_ids; both must come from the same"),
        ([[0, -1, 1], [0, 1, -1]], "turn 1 of episode 1 has tokens in turn_ids, but is none of the batch's"),
    ],
)
def test_turns_and_tokens_that_do_not_fit_are_refused(turn_ids, said):
    with pytest.raises(ConfigError, match=said):
        trm_ppo_rewards(make_batch([[1.0, NAN], [NAN]], [1, 0]), turn_ids)


def test_a_critic_in_float32_gives_advantages_in_float64():
    turns = make_batch([[0.1, NAN]], [1], values=[[0.3, 0.7]])
    tokens = make_tokens([[0, 1]], [[0.1, 1]], [[0.3, 0.7]])
    for estimator, batch in ((turn_gae, turns), (token_gae, tokens), (turn_aware_gae, tokens)):
        got = estimator(replace(batch, values=batch.values.astype(np.float32)))
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, estimator(batch), atol=1e-6)


def test_turn_gae_without_a_critic_is_refused():
    batch = TurnBatch(np.zeros((1, 1)), np.zeros(1), np.ones((1, 1), dtype=bool), np.zeros(1, dtype=int))
    with pytest.raises(ConfigError, match=r"turn_gae needs batch\.values.*turn_loo"):
        turn_gae(batch)


def test_a_long_episode_is_one_scan():
    rows, length = 4, 3000
    turn_ids = np.tile(np.arange(length) // 100, (rows, 1))
    rewards = np.zeros((rows, length))
    rewards[:, -1] = 1.0
    advantages = turn_aware_gae(TokenBatch(rewards, turn_ids >= 0, turn_ids), turn_gamma=0.5, turn_lambda=1.0)
    np.testing.assert_allclose(advantages[:, ::100], np.tile(0.5 ** np.arange(29, -1, -1.0), (rows, 1)))
