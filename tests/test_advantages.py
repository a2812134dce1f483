"""Estimators of turns: hand-worked numbers, laws, and names with settings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from estimator_batches import NAN, make_batch, make_tokens, ragged
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.advantages import (
    ESTIMATORS,
    NEEDS,
    TOKEN_ESTIMATORS,
    dr_grpo,
    gigpo,
    grpo,
    igpo,
    make_estimator,
    make_token_estimator,
    matchtir,
    mt_grpo,
    observation_anchors,
    rebn,
    rloo,
    token_gae,
    trm_grpo,
    turn_gae,
    turn_loo,
)
from toolenv import Message, Task, Turn
from toolenv.episode import Episode
from toolenv.errors import ConfigError

pytestmark = pytest.mark.core

JOINT = partial(igpo, normalize="joint")
COMPARING = [
    grpo,
    partial(grpo, include_turn_rewards=True),
    dr_grpo,
    rloo,
    trm_grpo,
    partial(trm_grpo, alpha=1.0, normalize="group"),
    turn_loo,
    partial(turn_loo, hold_outcome=True, gamma=0.9),
    mt_grpo,
    matchtir,
    gigpo,
    partial(gigpo, divide_by_std=False),
    igpo,
    JOINT,
    partial(igpo, normalize="separate", gamma=0.9),
]
ALL = [*COMPARING, rebn, turn_gae]


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
@settings(max_examples=15)
@given(ragged())
def test_padding_neither_leaks_in_nor_out(estimator, data):
    rewards, outcome, groups = data
    clean = estimator(make_batch(rewards, outcome, groups))
    for garbage in (NAN, 1e9):
        batch = make_batch(rewards, outcome, groups, padding=garbage)
        wider = replace(
            batch,
            rewards=np.pad(batch.rewards, ((0, 0), (0, 2)), constant_values=garbage),
            mask=np.pad(batch.mask, ((0, 0), (0, 2))),
            values=np.pad(batch.values, ((0, 0), (0, 2)), constant_values=garbage),
            anchors=np.pad(batch.anchors, ((0, 0), (0, 2)), mode="edge"),
        )
        got = estimator(wider)
        np.testing.assert_array_equal(got[:, : clean.shape[1]], clean)
        assert not got[~wider.mask].any()
        assert got.dtype == np.float64


@pytest.mark.parametrize("estimator", ALL)
@settings(max_examples=15)
@given(ragged(), st.randoms(use_true_random=False))
def test_permuting_episodes_permutes_advantages(estimator, data, random):
    rewards, outcome, groups = data
    order = list(range(len(rewards)))
    random.shuffle(order)
    batch = make_batch(rewards, outcome, groups)
    fields = ("rewards", "outcome", "mask", "groups", "values", "bootstrap", "anchors")
    shuffled = replace(batch, **{name: getattr(batch, name)[order] for name in fields})
    np.testing.assert_allclose(estimator(shuffled), estimator(batch)[order], atol=1e-9)


@pytest.mark.parametrize("estimator", [*COMPARING, turn_gae])
@settings(max_examples=15)
@given(ragged())
def test_groups_do_not_mix(estimator, data):
    rewards, outcome, groups = data
    whole = estimator(make_batch(rewards, outcome, groups))
    for group in set(groups):
        rows = [b for b, g in enumerate(groups) if g == group]
        alone = estimator(make_batch([rewards[b] for b in rows], [outcome[b] for b in rows]))
        np.testing.assert_array_equal(whole[rows][:, : alone.shape[1]], alone)


@pytest.mark.parametrize(
    "estimator", [grpo, dr_grpo, rloo, trm_grpo, mt_grpo, igpo, partial(turn_loo, hold_outcome=True)]
)
@settings(max_examples=15)
@given(ragged(), st.sampled_from([-2.0, 0.5, 4.0]))
def test_a_shift_of_all_outcomes_changes_nothing(estimator, data, shift):
    rewards, outcome, groups = data
    shifted = [value + shift for value in outcome]
    got, want = (estimator(make_batch(rewards, o, groups)) for o in (shifted, outcome))
    np.testing.assert_allclose(got, want, atol=1e-9)


@pytest.mark.parametrize("estimator", COMPARING)
def test_a_singleton_group_gets_nothing(estimator):
    batch = make_batch([[1.0, 0.5, NAN], [0.0, NAN], [1.0]], [1, 0, 1], groups=[0, 1, 2])
    np.testing.assert_array_equal(estimator(batch), np.zeros((3, 3)))


@pytest.mark.parametrize("estimator", [estimator for estimator in COMPARING if estimator is not JOINT])
def test_equal_episodes_get_exactly_nothing(estimator):
    # 0.1 ten times over: its mean and spread are off by rounding, so dividing would blow the rounding up.
    batch = make_batch([[0.1, NAN]] * 10, [0.7] * 10)
    np.testing.assert_array_equal(estimator(batch), np.zeros((10, 2)))


def test_joint_normalisation_weighs_an_answer_against_a_call_even_where_episodes_are_equal():
    batch = make_batch([[0.1, NAN]] * 2, [0.7] * 2)
    np.testing.assert_allclose(JOINT(batch), [[0, np.sqrt(3) / 2]] * 2, atol=1e-5)
    np.testing.assert_array_equal(igpo(batch, normalize="separate"), np.zeros((2, 2)))


@pytest.mark.parametrize("estimator", ALL)
def test_an_episode_alone_in_the_batch_is_no_error(estimator):
    assert np.isfinite(estimator(make_batch([[NAN]], [1.0]))).all()


@settings(max_examples=15)
@given(ragged())
def test_trm_and_mt_grpo_differ_only_in_episodes_without_a_scored_turn(data):
    rewards, outcome, groups = data
    calls_first = [sorted(row, key=np.isnan) for row in rewards]  # else a call's number is not its turn's index
    batch = make_batch(calls_first, outcome, groups)
    scored = ~np.isnan(np.where(batch.mask, batch.rewards, np.nan)).all(axis=1)
    ours, theirs = mt_grpo(batch, eps=1e-6), trm_grpo(batch, alpha=1.0)
    np.testing.assert_array_equal(ours[scored], theirs[scored])
    combined = grpo(batch, include_turn_rewards=True)
    np.testing.assert_array_equal(ours[~scored], combined[~scored])


def test_gigpo_with_the_turn_as_its_state_is_credit_by_turn_index():
    batch = make_batch([[1.0, NAN], [0.0, NAN], [1.0]], [1, 0, 0])
    halves = matchtir(batch, gamma=0.95)
    np.testing.assert_allclose(gigpo(batch), 2 * halves)
    np.testing.assert_array_equal(gigpo(batch, anchor_weight=0.0), grpo(batch, include_turn_rewards=True))


@settings(max_examples=15)
@given(ragged(), st.sampled_from([0.5, 1.0]))
def test_igpo_by_position_is_the_turns_part_of_gigpo_with_the_turn_as_its_state(data, gamma):
    batch = make_batch(*data)
    whole = gigpo(batch, gamma=gamma, divide_by_std=False)
    got = igpo(batch, gamma=gamma)
    np.testing.assert_allclose(got, whole - dr_grpo(batch, include_turn_rewards=True), atol=1e-9)
    totals_are_compared_at_the_first_turn = dr_grpo(batch, include_turn_rewards=True)[:, 0]
    np.testing.assert_allclose(igpo(batch)[:, 0], totals_are_compared_at_the_first_turn, atol=1e-9)


def test_observation_anchors_are_what_the_model_saw_last():
    def episode(*pages):
        turns = [
            Turn(t, "look", observation=(Message("tool", page), Message("tool", "2"))) for t, page in enumerate(pages)
        ]
        return Episode("env", Task("t", "q"), "hermes", (Message("user", "q"),), (*turns, Turn(len(turns), "done")))

    anchors = observation_anchors([episode("a", "b"), episode("b"), episode()])
    assert anchors.tolist() == [["q", "a\n2", "b\n2"], ["q", "b\n2", None], ["q", None, None]]


@settings(max_examples=15)
@given(ragged())
def test_leave_one_out_credit_sums_to_zero_over_full_columns(data):
    rewards, outcome, _ = data
    assert rloo(make_batch([[NAN]] * len(rewards), outcome)).sum() == pytest.approx(0, abs=1e-9)
    first = turn_loo(make_batch(rewards, outcome))[:, 0]
    assert first.sum() == pytest.approx(0, abs=1e-9)


# The command line ----------------------------------------------------------------------------------------------------


def test_make_estimator_binds_settings():
    batch = make_batch(TRM_SCORES, TRM_OUTCOME)
    np.testing.assert_array_equal(make_estimator("trm_grpo", alpha=1.0)(batch), trm_grpo(batch, alpha=1.0))
    np.testing.assert_array_equal(make_estimator("agents.advantages:rloo")(batch), rloo(batch))
    tokens = make_tokens([[0, -1, 1]], rewards=[[0, 0, 1]])
    halved = make_token_estimator("turn_aware_gae", turn_lambda=0.5, turn_gamma=0.5)
    np.testing.assert_array_equal(halved(tokens), [[0.25, 0, 1]])
    np.testing.assert_array_equal(make_token_estimator("agents.advantages:token_gae")(tokens), token_gae(tokens))


def test_the_names_are_those_that_the_issue_tracker_and_papers_use():
    turns = {
        "grpo",
        "dr_grpo",
        "rloo",
        "trm_grpo",
        "turn_loo",
        "turn_gae",
        "mt_grpo",
        "matchtir",
        "gigpo",
        "igpo",
        "rebn",
    }
    assert set(ESTIMATORS) == turns
    assert set(TOKEN_ESTIMATORS) == {"token_gae", "turn_aware_gae"}


@pytest.mark.parametrize("name", [*ESTIMATORS, *TOKEN_ESTIMATORS])
def test_an_estimator_reads_what_it_is_said_to_need_and_no_more(name):
    turns = make_batch([[1.0, NAN, 0.5], [0.0, NAN], [1.0]], [1, 0, 0], bootstrap=[0.5, 0, 0])
    tokens = make_tokens([[0, 0, -1, 1], [0, 1]], values=[[1, 2, 3, 4], [5, 6]], bootstrap=[1, 2])
    function, batch = (ESTIMATORS[name], turns) if name in ESTIMATORS else (TOKEN_ESTIMATORS[name], tokens)
    whole = function(batch)
    for field in ("values", "bootstrap", "anchors", "turn_ids"):
        if not hasattr(batch, field):
            continue
        without = replace(batch, **{field: None})
        if field not in NEEDS.get(name, ()):
            np.testing.assert_array_equal(function(without), whole)
        elif (name, field) in {("gigpo", "anchors"), ("turn_gae", "values")}:
            with pytest.raises(ConfigError, match=rf"batch\.{field}.*None"):
                function(without)
        else:
            assert not np.array_equal(function(without), whole)


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
        ("igpo", {"normalize": "turn"}, "normalize must be one of position, joint, separate; got 'turn'"),
        ("turn_gae", {"gae_lambda": 2}, "gae_lambda must be a number from 0 to 1; got 2"),
        ("gigpo", {"anchor_weight": None}, "anchor_weight must be a finite number, not None"),
        ("gigpo", {"divide_by_std": 1}, "divide_by_std must be True or False; got 1"),
        ("turn_aware_gae", {}, "'turn_aware_gae' is one of tokens; of turns there are grpo"),
    ],
)
def test_make_estimator_says_what_is_wrong(name, given_settings, said):
    with pytest.raises(ConfigError, match=said):
        make_estimator(name, **given_settings)


@pytest.mark.parametrize(
    ("name", "given_settings", "said"),
    [
        ("turn_gae", {}, "'turn_gae' is one of turns; of tokens there are token_gae, turn_aware_gae"),
        ("gae", {}, "unknown estimator 'gae'; take one of token_gae, turn_aware_gae"),
        ("token_gae", {"turn_gamma": 1.0}, "takes no 'turn_gamma'; it takes gamma, gae_lambda"),
        ("turn_aware_gae", {"turn_gamma": True}, "turn_gamma must be a number from 0 to 1; got True"),
    ],
)
def test_make_token_estimator_says_what_is_wrong(name, given_settings, said):
    with pytest.raises(ConfigError, match=said):
        make_token_estimator(name, **given_settings)


@pytest.mark.parametrize("estimator", [trm_grpo, igpo])
def test_another_normalisation_is_refused(estimator):
    with pytest.raises(ConfigError, match="batch"):
        estimator(make_batch([[0.0]], [0.0]), normalize="batch")


@pytest.mark.parametrize("name", [*ESTIMATORS, *TOKEN_ESTIMATORS])
def test_the_other_kind_of_batch_is_refused(name):
    turns = make_batch([[1.0, 0.5], [0.0, 0.5]], [1.0, 0.0])
    tokens = make_tokens([[0, 0], [0, 1]], values=[[0.5, 0.5], [0.5, 0.5]])
    of_turns = name in ESTIMATORS
    said = "wants a TurnBatch, not a TokenBatch" if of_turns else "wants a TokenBatch, not a TurnBatch"
    with pytest.raises(ConfigError, match=said):
        {**ESTIMATORS, **TOKEN_ESTIMATORS}[name](tokens if of_turns else turns)
