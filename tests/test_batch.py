"""Turns and tokens as arrays, and the one bridge between them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.advantages import ESTIMATORS, TOKEN_ESTIMATORS, gigpo, grpo, rloo, trm_ppo_rewards
from agents.batch import TokenBatch, TurnBatch, pack, token_advantages, turn_batch
from agents.rollout import Rollout
from agents.tokens import TokenHistory
from toolenv.episode import Episode, Task, Turn
from toolenv.errors import ConfigError


def rollout(seed: int, *spans: int, task: str = "t") -> Rollout:
    """A context of two tokens, then by turns an action and a context of so many tokens."""
    history = TokenHistory()
    history.append_context([90, 91])
    actions = 0
    for index, length in enumerate(spans):
        ids = [100 * (index + 1) + k for k in range(length)]
        if index % 2 == 0:
            history.append_action(ids, [-float(k + 1) for k in range(length)])
            actions += 1
        else:
            history.append_context(ids)
    turns = tuple(Turn(index, "x") for index in range(actions))
    return Rollout(Episode("e", Task(task, "?"), "hermes", (), turns, seed=seed), history, ("stop",) * actions)


def test_pack_by_hand() -> None:
    tokens = pack([rollout(0, 2, 1, 1), rollout(0, 1, 3)], pad_id=7)
    assert tokens.input_ids.tolist() == [[90, 91, 100, 101, 200, 300], [90, 91, 100, 7, 7, 7]]
    assert tokens.attention_mask.tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert tokens.turn_ids.tolist() == [[-1, -1, 0, 0, -1, 1], [-1, -1, 0, -1, -1, -1]]
    assert tokens.logprobs.tolist() == [[0, 0, -1, -2, 0, -1], [0, 0, -1, 0, 0, 0]]
    assert tokens.action_mask.tolist() == (tokens.turn_ids >= 0).tolist()


def test_the_tail_is_kept_on_demand() -> None:
    tokens = pack([rollout(0, 1, 3)], pad_id=7, keep_tail=True)
    assert tokens.input_ids.tolist() == [[90, 91, 100, 200, 201, 202]]


def test_rows_are_cut_to_their_own_length() -> None:
    tokens = pack([rollout(0, 2, 1, 1), rollout(0, 1, 3)], pad_id=7)
    assert tokens.rows(slice(1, 2)).input_ids.tolist() == [[90, 91, 100]]
    assert tokens.rows([1, 0]).turn_ids.shape == (2, 6)
    assert torch.equal(tokens.to("cpu").logprobs, tokens.logprobs)


def test_turn_batch_by_hand() -> None:
    rollouts = [rollout(4, 1, 1, 1), rollout(2, 1), rollout(4, 1)]
    batch = turn_batch(rollouts, [[0.5, np.nan], [1.0], [0.0]], [1.0, 0.0, 0.5])
    np.testing.assert_array_equal(batch.rewards, [[0.5, np.nan], [1.0, 0.0], [0.0, 0.0]])
    assert batch.mask.tolist() == [[True, True], [True, False], [True, False]]
    assert batch.groups[0] == batch.groups[2] != batch.groups[1]
    assert batch.outcome.tolist() == [1.0, 0.0, 0.5]
    assert turn_batch(rollouts, [[0, 0], [0], [0]], [0, 0, 0], groups=[1, 1, 9]).groups.tolist() == [1, 1, 9]
    two_tasks = [rollout(0, 1, task="a"), rollout(0, 1, task="b")]
    assert len(set(turn_batch(two_tasks, [[0], [0]], [0, 0]).groups.tolist())) == 2


def test_token_advantages_by_hand() -> None:
    turn_ids = torch.tensor([[-1, 0, 0, -1, 1], [-1, 0, -1, -1, -1]])
    advantages = np.array([[1.5, -2.0], [3.0, 99.0]])
    assert token_advantages(advantages, turn_ids).tolist() == [[0, 1.5, 1.5, 0, -2.0], [0, 3.0, 0, 0, 0]]


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_every_sampled_token_and_no_other_gets_its_turns_advantage(rows: list[list[int]], seed: int) -> None:
    rollouts = [rollout(0, *spans) for spans in rows]
    batch = turn_batch(rollouts, [np.zeros(len(r.episode.turns)) for r in rollouts], np.zeros(len(rollouts)))
    tokens = pack(rollouts, pad_id=0)
    advantages = np.random.default_rng(seed).normal(size=batch.mask.shape) + 10  # so that none is 0
    spread = token_advantages(advantages, tokens.turn_ids)
    assert torch.equal(spread != 0, tokens.action_mask)
    lengths = torch.zeros(batch.mask.shape, dtype=torch.float64)
    for index, spans in enumerate(rows):
        lengths[index, : len(spans[::2])] = torch.tensor(spans[::2], dtype=torch.float64)
    expected = (lengths * torch.as_tensor(advantages)).sum(dim=1)
    assert spread.double().sum(dim=1).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="do not cover"):
        token_advantages(np.zeros((1, 1)), torch.tensor([[0, 1]]))
    with pytest.raises(ConfigError, match="do not cover"):
        token_advantages(np.zeros((2, 2)), torch.tensor([[0, 1]]))
    with pytest.raises(ConfigError, match="lengths"):
        turn_batch([rollout(0, 1, 1, 1)], [[0.0]], [0.0])
    with pytest.raises(ConfigError, match="at least one"):
        turn_batch([], [], [])
    with pytest.raises(ConfigError, match="at least one"):
        pack([], pad_id=0)


# What a user hands in ------------------------------------------------------------------------------------------------

FACTS = {
    "rewards": [[0.5, None], [0.25, 0.0], [1.0, None]],
    "outcome": [1, 0, 0],
    "mask": [[1, 1], [1, 1], [1, 0]],
    "groups": [4, 4, 4],
    "values": [[1, 0], [0, 0], [0, 0]],
    "bootstrap": [0, 1, 0],
    "anchors": [["s", "a"], ["s", "a"], ["s", None]],
}
TOKENS = {
    "rewards": [[0, 1, 0], [0, None, 1]],
    "mask": [[1, 0, 1], [1, 1, 0]],
    "turn_ids": [[0, -1, 1], [0, 0, -1]],
    "outcome": [1, 0],
    "groups": [0, 0],
    "values": [[1, 0, 0], [0, 1, 0]],
    "bootstrap": [0, 1],
}


def exact(name: str, value: object) -> object:
    kinds = {"mask": np.bool_, "groups": np.int64, "turn_ids": np.int64, "anchors": object}
    return np.array(value, dtype=kinds.get(name, np.float64))


def as_lists(name: str, value: object) -> object:
    return value


def as_integers(name: str, value: object) -> object:
    return exact(name, value) if name == "rewards" else np.array(value)


def as_float32(name: str, value: object) -> object:  # which holds these numbers exactly
    array = np.array(exact(name, value))
    return array.astype(np.float32) if array.dtype == np.float64 else array


@pytest.mark.parametrize("given", [as_lists, as_integers, as_float32])
def test_lists_integers_and_float32_give_the_numbers_of_the_exact_arrays(
    given: Callable[[str, object], object],
) -> None:
    for kind, facts, estimators in ((TurnBatch, FACTS, ESTIMATORS), (TokenBatch, TOKENS, TOKEN_ESTIMATORS)):
        loose, strict = (kind(**{name: make(name, facts[name]) for name in facts}) for make in (given, exact))
        for estimator in estimators.values():
            got = estimator(loose)
            assert got.dtype == np.float64
            np.testing.assert_array_equal(got, estimator(strict))


def test_outcomes_may_be_whole_or_true() -> None:
    for outcome in ([1, 0], [True, False], np.array([1, 0], dtype=np.int8)):
        batch = TurnBatch(rewards=[[None], [None]], outcome=outcome, mask=[[1], [1]], groups=[0, 0])
        np.testing.assert_allclose(grpo(batch, eps=0.0), [[0.5**0.5], [-(0.5**0.5)]])
        assert rloo(batch).tolist() == [[1.0], [-1.0]]


def test_an_array_that_fits_is_not_copied() -> None:
    facts = {name: exact(name, value) for name, value in FACTS.items()}
    assert all(getattr(TurnBatch(**facts), name) is array for name, array in facts.items())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mask", [[0, 1], [1, 1], [1, 0]], "turn 1 of episode 0, but not turn 0"),
        ("mask", [[2, 1], [1, 1], [1, 0]], "mask must hold true and false; got .2, 1"),
        ("mask", [[1, 1], [1, 1]], "mask must have shape"),
        ("groups", [0.5, 0, 0], "groups must hold whole numbers; got .0.5"),
        ("groups", np.array([np.nan, 0, 0]), "groups must hold whole numbers"),
        ("groups", ["a", "a", "b"], "groups must be an array of int64"),
        ("rewards", [[1.0], [1.0, 0.0], [0.0]], "rewards must be an array of float64"),
        ("rewards", [1.0, 0.0, 0.0], "rewards must be a row an episode"),
        ("rewards", [[], [], []], "rewards must be a row an episode"),
        ("rewards", [[float("inf"), 0], [0, 0], [0, 0]], "episode 0 has an infinite reward"),
        ("outcome", [0, float("-inf"), 0], "episode 1 has an infinite"),
        ("outcome", [0, 0, None], "outcome of episode 2 is NaN"),
        ("anchors", [["s"], ["s"], ["s"]], "anchors must have shape"),
    ],
)
def test_turns_that_cannot_be_meant_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TurnBatch(**{**FACTS, field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("turn_ids", [[0, -1, -1], [0, 0, -1]], "token 2 of episode 0 was sampled, and turn_ids"),
        ("turn_ids", [[0, -1, 0.5], [0, 0, -1]], "turn_ids must hold whole numbers"),
        ("outcome", [0, float("nan")], "outcome of episode 1 is NaN"),
        ("rewards", [0.0, 1.0, 0.0], "rewards must be a row an episode"),
    ],
)
def test_tokens_that_cannot_be_meant_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TokenBatch(**{**TOKENS, field: value})


def test_what_stands_at_padding_may_be_anything() -> None:
    rewards = [[0.5, None], [0.25, 0.0], [1.0, float("inf")]]
    assert np.isfinite(gigpo(TurnBatch(**{**FACTS, "rewards": rewards}))).all()


def test_turn_ids_of_a_placement_are_whole_numbers() -> None:
    with pytest.raises(ConfigError, match="turn_ids must be whole numbers; got an array of float64"):
        trm_ppo_rewards(TurnBatch(**FACTS), [[0.0, 1.0], [0.0, 1.0], [0.0, -1.0]])
