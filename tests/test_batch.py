"""Turns and tokens as arrays, and the one bridge between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.batch import pack, token_advantages, turn_batch
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
