"""Golden vectors: a second implementation agrees with them, ours meets them, and the checker finds what is wrong."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import slow_estimators
from estimator_batches import make_batch, make_tokens, ragged, token_rows
from hypothesis import given, settings
from hypothesis import strategies as st

import agents.advantages
from agents.advantages import ESTIMATORS, TOKEN_ESTIMATORS, dr_grpo, grpo, rebn, rloo, token_gae, turn_loo
from agents.check import GOLDEN, EstimatorError, check_estimator, golden_names, load_golden
from toolenv.errors import ConfigError

pytestmark = pytest.mark.core

CASES = [case for name in golden_names() for case in load_golden(name)]
SHARES = st.sampled_from([0.0, 0.5, 0.9, 1.0])


def test_every_estimator_has_golden_vectors_and_every_vector_an_estimator():
    assert set(golden_names()) == {*ESTIMATORS, *TOKEN_ESTIMATORS, "trm_ppo_rewards"}
    assert all(case.estimator == path.stem for path in GOLDEN.glob("*.json") for case in load_golden(path.stem))


@pytest.mark.parametrize("name", golden_names())
def test_ours_meet_their_golden_vectors(name):
    check_estimator(getattr(agents.advantages, name), name, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.estimator}: {case.name}")
def test_a_second_implementation_finds_the_golden_numbers(case):
    slow = getattr(slow_estimators, case.estimator)
    np.testing.assert_allclose(slow(case.batch(), **case.settings), case.expected, atol=1e-9)


def test_a_case_says_why_it_is_there_and_how_it_was_found():
    for case in CASES:
        assert case.name
        assert case.why
        assert case.how
        assert np.isfinite(case.expected).all()
    assert len({(case.estimator, case.name) for case in CASES}) == len(CASES)


def test_trm_vectors_are_those_of_the_reference():
    turn, group = (case.expected for case in load_golden("trm_grpo")[:2])
    np.testing.assert_allclose(turn[0], [0.9423, 0.1589, 0.8660], atol=5e-5)
    np.testing.assert_allclose(turn[3], [-2.1716, -0.8660, 0], atol=5e-5)
    np.testing.assert_allclose(group[1], [-0.9951, -1.8988, -0.8660], atol=5e-5)


# Ours against the second implementation, on random batches -----------------------------------------------------------

OPTIONS = {
    "grpo": [{}, {"include_turn_rewards": True}],
    "dr_grpo": [{"include_turn_rewards": True}],
    "rloo": [{"include_turn_rewards": True}],
    "turn_loo": [{"alpha": 0.5, "gamma": 0.9}, {"hold_outcome": True}],
    "trm_grpo": [{"gamma": 0.5}, {"alpha": 1.0, "normalize": "group"}],
    "mt_grpo": [{"alpha": 0.5}],
    "matchtir": [{"alpha": 0.5}],
    "gigpo": [{"alpha": 0.5, "anchor_weight": 0.5}, {"divide_by_std": False}],
    "igpo": [
        {"alpha": 0.5, "gamma": 0.9},
        {"gamma": 0.9, "normalize": "joint"},
        {"alpha": 0.5, "normalize": "separate"},
    ],
    "rebn": [{"alpha": 0.5, "gamma": 0.9}],
    "turn_gae": [{"alpha": 0.5, "gamma": 0.9, "gae_lambda": 0.5}],
}


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name in ESTIMATORS for options in OPTIONS[name]], ids=str
)
@settings(max_examples=15)
@given(ragged(), st.lists(st.sampled_from([0.0, 1.5]), min_size=8, max_size=8))
def test_estimators_of_turns_agree_with_the_second_implementation(name, options, data, bootstrap):
    rewards, outcome, groups = data
    batch = make_batch(rewards, outcome, groups, padding=1e6, bootstrap=bootstrap[: len(rewards)])
    want = getattr(slow_estimators, name)(batch, **options)
    # A spread of rounding errors, which one implementation has and the other has not, is below 1e-9 after eps.
    np.testing.assert_allclose(ESTIMATORS[name](batch, **options), want, atol=1e-8)


@settings(max_examples=60)
@given(token_rows(), SHARES, SHARES, SHARES, SHARES)
def test_estimators_of_tokens_agree_with_the_second_implementation(data, gamma, gae_lambda, turn_gamma, turn_lambda):
    turn_ids, rewards, values, outcome, bootstrap = data
    batch = make_tokens(turn_ids, rewards, values, outcome, bootstrap)
    within, across = (gamma, gae_lambda), (turn_gamma, turn_lambda)
    for name, pairs in (("token_gae", within), ("turn_aware_gae", within + across)):
        want = getattr(slow_estimators, name)(batch, *pairs)
        np.testing.assert_allclose(TOKEN_ESTIMATORS[name](batch, *pairs), want, atol=1e-12)


# The checker ---------------------------------------------------------------------------------------------------------


def mean_over_those_who_play(batch, alpha, gamma, hold_outcome):
    """The defect that turn_loo was made against: an ended episode is left out instead of counting 0."""
    advantages = turn_loo(batch, alpha, gamma, hold_outcome)
    for group in np.unique(batch.groups):
        rows = np.flatnonzero(batch.groups == group)
        for t in range(batch.mask.shape[1]):
            if batch.mask[rows, t].sum() == 1:
                advantages[rows, t] = 0
    return advantages


def with_leak(batch, **settings):
    return rloo(batch, **settings) + np.nan_to_num(batch.rewards).max() / 1e6 * batch.mask


def by_place(batch, **settings):
    advantages = rloo(batch, **settings)
    return np.where(np.arange(len(advantages))[:, None] == 3, 0, advantages)


def changes_its_input(batch, **settings):
    batch.outcome[:] = 0
    return rloo(batch, **settings)


def keeps_padding(batch, **settings):
    return np.broadcast_to(rloo(batch, **settings)[:, :1], batch.mask.shape)


def one_an_episode(batch, **settings):
    return rloo(batch, **settings)[:, :1]


def steps_through_observations(batch, gamma, gae_lambda):
    advantages, running = np.zeros(batch.mask.shape), np.zeros(len(batch.mask))
    due = token_gae(batch, gamma, 0.0)
    for column in reversed(range(batch.mask.shape[1])):
        running = due[:, column] + gamma * gae_lambda * running
        advantages[:, column] = np.where(batch.mask[:, column], running, 0)
    return advantages


@pytest.mark.parametrize(
    ("wrong", "name", "said"),
    [
        (
            mean_over_those_who_play,
            "turn_loo",
            "'three episodes, both kinds of reward' 1 was expected at row 0, column 1",
        ),
        (dr_grpo, "rloo", "this is not 'rloo': in the case 'two of four succeed'"),
        (with_leak, "rloo", "the law 'padding' is broken"),
        (by_place, "rloo", "in the case 'two of four succeed' 0.666667 was expected at row 3"),
        (keeps_padding, "rloo", r"'two groups, interleaved, .*' 0 was expected at row \d, column 2; it is"),
        (changes_its_input, "rloo", "it changed outcome of the batch; copy what you change"),
        (
            steps_through_observations,
            "token_gae",
            "'the same with a tool result in between' 0.25 was expected",
        ),
        (one_an_episode, "rloo", r"an array \(4, 3\) was expected; it is \(4, 1\)"),
        (lambda batch, **settings: batch.rewards, "rloo", "nan stands at row 0, column 0"),
        (lambda batch: rloo(batch), "grpo", "cannot be called as .*eps.*put a function around it"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_checker_finds_what_is_wrong(wrong, name, said):
    with pytest.raises(EstimatorError, match=said):
        check_estimator(wrong, name)


def test_an_error_shows_the_case():
    with pytest.raises(EstimatorError) as caught:
        check_estimator(mean_over_those_who_play, "turn_loo")
    shown = str(caught.value)
    assert "the middle turn of one is the end of another" in shown
    assert "rewards\n[[ 1. nan]" in shown
    assert "expected\n[[ 0.25  1.  ]" in shown
    assert "got\n[[ 0.25  0.  ]" in shown


def test_a_looser_tolerance_lets_another_eps_pass():
    theirs = partial(grpo, eps=1e-4)
    adapted = lambda batch, eps, include_turn_rewards=False: theirs(batch, include_turn_rewards=include_turn_rewards)  # noqa: E731
    with pytest.raises(EstimatorError):
        check_estimator(adapted, "rloo")
    with pytest.raises(EstimatorError, match="eps is added to the spread"):
        check_estimator(adapted, "grpo", rtol=1e-3)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "rebn"])
def test_ours_keep_the_laws_without_golden_numbers(name):
    check_estimator(ESTIMATORS[name])


def test_laws_alone_find_a_leak_between_groups_and_from_padding():
    with pytest.raises(EstimatorError, match="the law 'groups' is broken"):
        check_estimator(rebn)
    with pytest.raises(EstimatorError, match="the law 'padding' is broken"):
        check_estimator(with_leak)


@pytest.mark.parametrize("name", TOKEN_ESTIMATORS)
def test_our_token_estimators_keep_the_laws_without_golden_numbers(name):
    check_estimator(TOKEN_ESTIMATORS[name], of="tokens")


@pytest.mark.parametrize(
    ("law", "wrong"),
    [
        ("padding", lambda batch: token_gae(batch) + 0.01 * batch.mask * batch.mask.shape[1]),
        ("order", lambda batch: token_gae(batch) + batch.mask * np.arange(len(batch.mask))[:, None]),
        ("observations", lambda batch: batch.mask * (token_gae(batch) + np.arange(batch.mask.shape[1]))),
    ],
)
def test_laws_of_tokens_find_what_breaks_them(law, wrong):
    with pytest.raises(EstimatorError, match=f"the law '{law}' is broken"):
        check_estimator(wrong, of="tokens")


def test_laws_of_something_else_are_refused():
    with pytest.raises(ConfigError, match="of must be"):
        check_estimator(token_gae, of="placement")


def test_a_name_without_golden_vectors_is_refused():
    with pytest.raises(ConfigError, match=r"no golden vectors of 'ppo'; there are some of .*turn_loo"):
        check_estimator(rloo, "ppo")


def test_golden_files_are_plain_json_with_null_for_what_was_not_scored():
    record = json.loads((GOLDEN / "trm_grpo.json").read_text(encoding="utf-8"))
    assert record["cases"][0]["batch"]["rewards"][0] == [0.9, 0.3, None]
    assert np.isnan(load_golden("trm_grpo")[0].arrays["rewards"][0, 2])
