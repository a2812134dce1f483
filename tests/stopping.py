"""The stopping problem: at every turn the policy goes on or stops, and its exact gradient is known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from estimator_batches import make_batch


def expected_gradient(estimator, p, group_size, pays=(0.0, 1.0), outcome=None, alone=False):
    """E[(1/G) sum of score * advantage], over every group of ``group_size`` trajectories.

    Before each turn but the first, the policy goes on with probability ``p = sigmoid(theta)``, else stops; that choice
    is part of the turn before. Turn t pays ``pays[t]``; ``outcome(turns played)`` is due at the end. ``alone`` hands
    the estimator one group at a time.
    """
    trajectories = []
    for goes_on in range(len(pays)):
        stopped = goes_on < len(pays) - 1
        score = [1 - p] * goes_on + ([-p] if stopped else [0.0])
        chance = p**goes_on * (1 - p if stopped else 1.0)
        paid = outcome(goes_on + 1) if outcome else 0.0
        trajectories.append((chance, list(pays[: goes_on + 1]), score, paid))
    groups = list(itertools.product(trajectories, repeat=group_size))
    rows = [trajectory for group in groups for trajectory in group]
    batch = make_batch([t[1] for t in rows], [t[3] for t in rows], np.repeat(np.arange(len(groups)), group_size))
    scores = make_batch([t[2] for t in rows], [0.0] * len(rows)).rewards
    advantages = by_group(estimator, batch) if alone else estimator(batch)
    per_group = (scores * advantages).sum(axis=1).reshape(len(groups), group_size).mean(axis=1)
    chances = np.array([np.prod([t[0] for t in group]) for group in groups])
    return float(chances @ per_group)


def by_group(estimator, batch):
    """What an estimator says of each group, handed over by itself."""
    advantages = np.zeros_like(batch.rewards)
    for group in np.unique(batch.groups):
        rows = batch.groups == group
        fields = ("rewards", "outcome", "mask", "groups", "values", "bootstrap", "anchors")
        advantages[rows] = estimator(replace(batch, **{name: getattr(batch, name)[rows] for name in fields}))
    return advantages
