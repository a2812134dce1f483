"""Estimators: hand-worked numbers, laws, and the exact gradient of a problem where the policy chooses when to stop."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.advantages import ESTIMATORS, dr_grpo, grpo, make_estimator, rloo, trm_grpo, turn_loo
from agents.batch import TurnBatch
from toolenv.errors import ConfigError

pytestmark = pytest.mark.core

NAN = float("nan")
ALL = [
    grpo,
    partial(grpo, include_turn_rewards=True),
    dr_grpo,
    rloo,
    trm_grpo,
    partial(trm_grpo, alpha=1.0, normalize="group"),
    turn_loo,
    partial(turn_loo, hold_outcome=True, gamma=0.9),
]


def make_batch(rewards, outcome, groups=None, padding=0.0):
    """Ragged lists to arrays; ``padding`` fills what is no turn."""
    width = max(map(len, rewards))
    table = np.full((len(rewards), width), padding)
    mask = np.zeros((len(rewards), width), dtype=bool)
    for b, row in enumerate(rewards):
        table[b, : len(row)], mask[b, : len(row)] = row, True
    groups = np.zeros(len(rewards), dtype=np.int64) if groups is None else np.asarray(groups, dtype=np.int64)
    return TurnBatch(table, np.asarray(outcome, dtype=np.float64), mask, groups)


@st.composite
def ragged(draw):
    """Rewards, outcomes and groups of a few episodes; scores on a coarse grid, so that ties occur."""
    score = st.sampled_from([NAN, 0.0, 0.25, 0.5, 1.0, -1.0])
    rewards = draw(st.lists(st.lists(score, min_size=1, max_size=4), min_size=1, max_size=8))
    outcome = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(rewards), max_size=len(rewards)))
    groups = draw(st.lists(st.integers(0, 2), min_size=len(rewards), max_size=len(rewards)))
    return rewards, outcome, groups


# Hand-worked numbers -------------------------------------------------------------------------------------------------

TRM_SCORES = [[0.9, 0.3, NAN], [0.9, 0.4, NAN], [0.8, NAN], [0.7, NAN]]
TRM_OUTCOME = [1, 0, 1, 0]


def test_trm_grpo_turn_level_vector():
    got = trm_grpo(make_batch(TRM_SCORES, TRM_OUTCOME), alpha=1.0)
    want = [[0.9423, 0.1589, 0.8660], [0.6244, -0.1589, -0.8660], [0.6049, 0.8660, 0], [-2.1716, -0.8660, 0]]
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_trm_grpo_group_level_vector():
    got = trm_grpo(make_batch(TRM_SCORES, TRM_OUTCOME), alpha=1.0, normalize="group")
    want = [[0.3496, -0.5541, 0.8660], [-0.9951, -1.8988, -0.8660], [1.3824, 0.8660, 0], [-0.7369, -0.8660, 0]]
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_trm_grpo_alpha_weighs_turns_against_the_outcome_and_gamma_discounts_turns_only():
    batch = make_batch([[1.0, 1.0, NAN], [0.0, 0.0, NAN]], [1, 0])
    s = 1 / np.sqrt(2)  # two values a distance 1 apart, over their unbiased spread
    got = trm_grpo(batch, alpha=0.1, gamma=0.5)
    np.testing.assert_allclose(got[0], [s + 0.1 * 1.5 * s, s + 0.1 * s, s], rtol=1e-5)


def test_grpo_by_hand():
    got = grpo(make_batch([[0.0], [0.0], [0.0], [0.0]], [1, 0, 0, 1]))
    np.testing.assert_allclose(got[:, 0], np.array([1, -1, -1, 1]) * 0.5 / np.sqrt(1 / 3), rtol=1e-5)


def test_episode_level_estimators_may_count_turn_rewards():
    batch = make_batch([[0.5, 0.5, NAN], [0.0, NAN]], [1, 0])
    np.testing.assert_allclose(dr_grpo(batch), [[0.5, 0.5, 0.5], [-0.5, -0.5, 0]])
    np.testing.assert_allclose(dr_grpo(batch, include_turn_rewards=True), [[1, 1, 1], [-1, -1, 0]])
    np.testing.assert_allclose(rloo(batch, include_turn_rewards=True), [[2, 2, 2], [-2, -2, 0]])


def test_turn_loo_by_hand():
    # Returns-to-go with alpha 0.5 and gamma 0.5: a: 0.5 + 0.5 * (0 + 1) = 1.0, 1.0; b: 0; c: 0.5 + 1 = 1.5.
    batch = make_batch([[1.0, NAN], [NAN], [1.0]], [1, 0, 1])
    got = turn_loo(batch, alpha=0.5, gamma=0.5)
    np.testing.assert_allclose(got, [[1.0 - 0.75, 1.0], [0 - 1.25, 0], [1.5 - 0.5, 0]])


def test_turn_loo_held_outcomes_give_no_credit_for_length_alone():
    batch = make_batch([[NAN, NAN, NAN], [NAN]], [1, 1])
    np.testing.assert_allclose(turn_loo(batch), [[0, 1, 1], [0, 0, 0]])
    np.testing.assert_allclose(turn_loo(batch, hold_outcome=True), np.zeros((2, 3)))


def test_a_turn_reward_of_zero_is_a_reward_and_one_of_nan_is_none():
    scored = trm_grpo(make_batch([[0.0, NAN], [1.0, NAN]], [0, 0]), alpha=1.0)
    unscored = trm_grpo(make_batch([[NAN, NAN], [1.0, NAN]], [0, 0]), alpha=1.0)
    np.testing.assert_allclose(scored[:, 0], [-1 / np.sqrt(2), 1 / np.sqrt(2)], rtol=1e-5)
    np.testing.assert_array_equal(unscored, np.zeros((2, 2)))


# Laws ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ALL)
@settings(deadline=None, max_examples=40)
@given(ragged())
def test_padding_neither_leaks_in_nor_out(estimator, data):
    rewards, outcome, groups = data
    clean = estimator(make_batch(rewards, outcome, groups))
    for garbage in (NAN, 1e9):
        batch = make_batch(rewards, outcome, groups, padding=garbage)
        wider = TurnBatch(
            np.pad(batch.rewards, ((0, 0), (0, 2)), constant_values=garbage),
            batch.outcome,
            np.pad(batch.mask, ((0, 0), (0, 2))),
            batch.groups,
        )
        got = estimator(wider)
        np.testing.assert_array_equal(got[:, : clean.shape[1]], clean)
        assert not got[~wider.mask].any()
        assert got.dtype == np.float64


@pytest.mark.parametrize("estimator", ALL)
@settings(deadline=None, max_examples=40)
@given(ragged(), st.randoms(use_true_random=False))
def test_permuting_episodes_permutes_advantages(estimator, data, random):
    rewards, outcome, groups = data
    order = list(range(len(rewards)))
    random.shuffle(order)
    batch = make_batch(rewards, outcome, groups)
    shuffled = TurnBatch(batch.rewards[order], batch.outcome[order], batch.mask[order], batch.groups[order])
    np.testing.assert_allclose(estimator(shuffled), estimator(batch)[order], atol=1e-9)


@pytest.mark.parametrize("estimator", ALL)
@settings(deadline=None, max_examples=40)
@given(ragged())
def test_groups_do_not_mix(estimator, data):
    rewards, outcome, groups = data
    whole = estimator(make_batch(rewards, outcome, groups))
    for group in set(groups):
        rows = [b for b, g in enumerate(groups) if g == group]
        alone = estimator(make_batch([rewards[b] for b in rows], [outcome[b] for b in rows]))
        np.testing.assert_array_equal(whole[rows][:, : alone.shape[1]], alone)


@pytest.mark.parametrize("estimator", [grpo, dr_grpo, rloo, trm_grpo, partial(turn_loo, hold_outcome=True)])
@settings(deadline=None, max_examples=40)
@given(ragged(), st.sampled_from([-2.0, 0.5, 4.0]))
def test_a_shift_of_all_outcomes_changes_nothing(estimator, data, shift):
    rewards, outcome, groups = data
    shifted = [value + shift for value in outcome]
    got, want = (estimator(make_batch(rewards, o, groups)) for o in (shifted, outcome))
    np.testing.assert_allclose(got, want, atol=1e-9)


@pytest.mark.parametrize("estimator", ALL)
def test_a_singleton_group_gets_nothing(estimator):
    batch = make_batch([[1.0, 0.5, NAN], [0.0, NAN], [1.0]], [1, 0, 1], groups=[0, 1, 2])
    np.testing.assert_array_equal(estimator(batch), np.zeros((3, 3)))


@pytest.mark.parametrize("estimator", ALL)
def test_equal_episodes_get_exactly_nothing(estimator):
    # 0.1 ten times over: its mean and spread are off by rounding, so dividing would blow the rounding up.
    batch = make_batch([[0.1, NAN]] * 10, [0.7] * 10)
    np.testing.assert_array_equal(estimator(batch), np.zeros((10, 2)))


@settings(deadline=None, max_examples=40)
@given(ragged())
def test_leave_one_out_credit_sums_to_zero_over_full_columns(data):
    rewards, outcome, _ = data
    assert rloo(make_batch([[NAN]] * len(rewards), outcome)).sum() == pytest.approx(0, abs=1e-9)
    first = turn_loo(make_batch(rewards, outcome))[:, 0]
    assert first.sum() == pytest.approx(0, abs=1e-9)


# The exact gradient where the policy chooses when to stop ------------------------------------------------------------


def expected_gradient(estimator, p, group_size, decisions, outcome=None):
    """E[(1/G) sum of score * advantage], over every group of ``group_size`` trajectories.

    At each of at most ``decisions`` turns the policy goes on with probability p = sigmoid(theta), else stops; a turn
    after the first pays 1. ``outcome(continues)`` is due at the end.
    """
    trajectories = []
    for continues in range(decisions + 1):
        stopped = continues < decisions
        score = [1 - p] * continues + ([-p] if stopped else [0.0])
        chance = p**continues * (1 - p if stopped else 1.0)
        trajectories.append((chance, [0.0] + [1.0] * continues, score, outcome(continues) if outcome else 0.0))
    groups = list(itertools.product(trajectories, repeat=group_size))
    rows = [trajectory for group in groups for trajectory in group]
    batch = make_batch([t[1] for t in rows], [t[3] for t in rows], np.repeat(np.arange(len(groups)), group_size))
    scores = make_batch([t[2] for t in rows], [0.0] * len(rows)).rewards
    per_group = (scores * estimator(batch)).sum(axis=1).reshape(len(groups), group_size).mean(axis=1)
    chances = np.array([np.prod([t[0] for t in group]) for group in groups])
    return float(chances @ per_group)


def live_member_baseline(batch):
    """MT-GRPO's baseline without the division: each turn's reward minus its mean over those who play that turn."""
    sums, counts = np.where(batch.mask, batch.rewards, 0), batch.mask
    centred = np.zeros_like(batch.rewards)
    for group in np.unique(batch.groups):
        rows = batch.groups == group
        centred[rows] = sums[rows] - sums[rows].sum(axis=0) / np.maximum(counts[rows].sum(axis=0), 1)
    centred[~batch.mask] = 0
    return np.cumsum(centred[:, ::-1], axis=1)[:, ::-1] * batch.mask


def test_stopping_problem_two_actions():
    # E[return] = p, so the gradient in theta is p (1 - p) = 0.25.
    assert expected_gradient(turn_loo, 0.5, 8, 1) == pytest.approx(0.25, abs=1e-12)
    own_mean = partial(dr_grpo, include_turn_rewards=True)
    assert expected_gradient(own_mean, 0.5, 8, 1) == pytest.approx(0.25 * 7 / 8, abs=1e-12)
    assert expected_gradient(live_member_baseline, 0.5, 8, 1) == pytest.approx(0.0, abs=1e-12)
    # TRM normalises a turn among those who play it: it too sees no credit in reaching a turn.
    assert expected_gradient(partial(trm_grpo, alpha=1.0), 0.5, 8, 1) == pytest.approx(0.0, abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.05, 0.95), st.integers(2, 4), st.booleans())
def test_turn_loo_is_unbiased_over_several_decisions(p, group_size, hold):
    # E[return] = p + p^2 + P(outcome), with outcome 1 for exactly one continue: p (1 - p).
    d_return = 1 + 2 * p + (1 - 2 * p)
    estimator = partial(turn_loo, hold_outcome=hold)
    got = expected_gradient(estimator, p, group_size, 2, outcome=lambda continues: float(continues == 1))
    assert got == pytest.approx(d_return * p * (1 - p), rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.05, 0.95), st.integers(2, 4))
def test_rloo_is_unbiased_and_dr_grpo_is_short_by_one_over_group_size(p, group_size):
    want = (1 + 2 * p) * p * (1 - p)
    got = expected_gradient(partial(rloo, include_turn_rewards=True), p, group_size, 2)
    assert got == pytest.approx(want, rel=1e-9)
    got = expected_gradient(partial(dr_grpo, include_turn_rewards=True), p, group_size, 2)
    assert got == pytest.approx(want * (group_size - 1) / group_size, rel=1e-9)


def test_turn_credit_has_less_variance_than_episode_credit():
    # Two-turn episodes; only the second turn's reward varies with what happens there.
    random = np.random.default_rng(0)
    rewards = random.integers(0, 2, size=(400, 2)).astype(float)
    groups = np.repeat(np.arange(100), 4)
    batch = make_batch(rewards.tolist(), np.zeros(400), groups)
    late = turn_loo(batch)[:, 1].var()
    assert late < 0.75 * rloo(batch, include_turn_rewards=True)[:, 1].var()


# The command line ----------------------------------------------------------------------------------------------------


def test_make_estimator_binds_settings():
    batch = make_batch(TRM_SCORES, TRM_OUTCOME)
    np.testing.assert_array_equal(make_estimator("trm_grpo", alpha=1.0)(batch), trm_grpo(batch, alpha=1.0))
    np.testing.assert_array_equal(make_estimator("agents.advantages:rloo")(batch), rloo(batch))
    assert set(ESTIMATORS) >= {"grpo", "dr_grpo", "rloo", "trm_grpo", "turn_loo"}


@pytest.mark.parametrize(
    ("name", "given_settings", "said"),
    [
        ("turnloo", {}, "turn_loo"),
        ("rloo", {"alpha": 0.1}, "takes no 'alpha'"),
        ("agents.advantages:nothing", {}, "cannot load 'agents.advantages:nothing': .*has no attribute 'nothing'"),
        ("no_such_module:f", {}, "cannot load 'no_such_module:f': No module named 'no_such_module'"),
        ("agents.advantages:", {}, r"write it as 'module:attribute'"),
        ("turn_loo", {"gamma": 1.5}, "gamma must be a number from 0 to 1; got 1.5"),
        ("trm_grpo", {"gamma": -0.1}, "must be a number from 0 to 1; got -0.1"),
        ("trm_grpo", {"gamma": "1"}, "must be a number from 0 to 1; got '1'"),
        ("trm_grpo", {"alpha": "a"}, "alpha must be a finite number, not 'a'"),
        ("grpo", {"include_turn_rewards": "no"}, "include_turn_rewards must be True or False; got 'no'"),
        ("trm_grpo", {"normalize": "batch"}, "normalize must be one of turn, group; got 'batch'"),
    ],
)
def test_make_estimator_says_what_is_wrong(name, given_settings, said):
    with pytest.raises(ConfigError, match=said):
        make_estimator(name, **given_settings)


def test_trm_grpo_refuses_another_normalisation():
    with pytest.raises(ConfigError, match="batch"):
        trm_grpo(make_batch([[0.0]], [0.0]), normalize="batch")
