"""Batches for the tests of estimators: ragged lists to arrays, and strategies that draw such lists."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from agents.batch import TokenBatch, TurnBatch

NAN = float("nan")
SCORES = st.sampled_from([NAN, 0.0, 0.25, 0.5, 1.0, -1.0])


def make_batch(rewards, outcome, groups=None, padding=0.0, values=None, bootstrap=None):
    """Turns from ragged lists; ``padding`` fills what is no turn. The state is the turn's index."""
    width = max(map(len, rewards))
    table, mask = fill(rewards, width, padding), fill([[1] * len(row) for row in rewards], width, 0).astype(bool)
    groups = np.zeros(len(rewards), dtype=np.int64) if groups is None else np.asarray(groups, dtype=np.int64)
    if values is None:
        values = [[0.3, 0.7, -0.2, 0.1][: len(row)] for row in rewards]
    return TurnBatch(
        table,
        np.asarray(outcome, dtype=np.float64),
        mask,
        groups,
        values=fill(
            [[0.3, 0.7, -0.2, 0.1][: len(row)] for row in rewards] if values is None else values, width, padding
        ),
        bootstrap=np.zeros(len(rewards)) if bootstrap is None else np.asarray(bootstrap, dtype=np.float64),
        anchors=np.tile(np.array([f"turn {t}" for t in range(width)], dtype=object), (len(rewards), 1)),
    )


def make_tokens(turn_ids, rewards=None, values=None, outcome=None, bootstrap=None, padding=0.0):
    """Tokens from ragged lists; -1 in ``turn_ids`` is an observation, ``padding`` is the critic's value at padding."""
    width = max(map(len, turn_ids))
    ids = fill(turn_ids, width, -1).astype(np.int64)
    return TokenBatch(
        np.zeros(ids.shape) if rewards is None else fill(rewards, width, 0.0),
        ids >= 0,
        ids,
        outcome=None if outcome is None else np.asarray(outcome, dtype=np.float64),
        values=None if values is None else fill(values, width, padding),
        bootstrap=None if bootstrap is None else np.asarray(bootstrap, dtype=np.float64),
    )


def fill(rows, width, padding):
    table = np.full((len(rows), width), padding, dtype=np.float64)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    return table


@st.composite
def ragged(draw):
    """Rewards, outcomes and groups of a few episodes; scores on a coarse grid, so that ties occur."""
    rewards = draw(st.lists(st.lists(SCORES, min_size=1, max_size=4), min_size=1, max_size=8))
    outcome = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(rewards), max_size=len(rewards)))
    groups = draw(st.lists(st.integers(0, 2), min_size=len(rewards), max_size=len(rewards)))
    return rewards, outcome, groups


@st.composite
def token_rows(draw, min_turns=0):
    """Turn ids, rewards, values, outcomes and bootstraps of a few episodes, with observations around turns."""
    gap = st.lists(st.just(-1), max_size=2)
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        row = draw(gap)
        for turn in range(draw(st.integers(min_turns, 3))):
            row = [*row, *[turn] * draw(st.integers(1, 3)), *draw(gap)]
        rows.append(row or [-1])
    number = st.floats(-2, 2).map(lambda x: round(x, 2))
    rewards = [draw(st.lists(SCORES, min_size=len(row), max_size=len(row))) for row in rows]
    values = [draw(st.lists(number, min_size=len(row), max_size=len(row))) for row in rows]
    outcome = draw(st.lists(number, min_size=len(rows), max_size=len(rows)))
    bootstrap = draw(st.lists(number, min_size=len(rows), max_size=len(rows)))
    return rows, rewards, values, outcome, bootstrap
