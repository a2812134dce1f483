"""Numbers with intervals from held-out episodes: every policy answered the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agents.ablation import compare
from rewards.training.estimates import Estimate


class Measure(NamedTuple):
    """What is measured: a column summed, over episodes or over another column summed."""

    title: str
    column: str
    per: str | None = None


MEASURES: Mapping[str, Measure] = {
    "success": Measure("success", "success"),
    "calls": Measure("calls an episode", "calls"),
    "early": Measure("answers before all was found", "early"),
    "redundant": Measure("redundant calls an episode", "redundant"),
    "invalid": Measure("invalid turns an episode", "invalid"),
    "trm": Measure("TRM's mean score of a call", "trm", "scored"),
    "right": Measure("calls that are needed and good, by the oracle", "right", "scored"),
}

TRAINING: Mapping[str, str] = {"training success": "success_rate", "training calls": "calls_per_episode"}
"""Measures over the updates of the second half of training, and what they are called in a run's metrics. Settings that
play the same questions are compared update by update: many more episodes than the held-out ones."""

Columns = Mapping[str, Sequence[float]]


def estimate(runs: Sequence[Columns], measure: str) -> Estimate:
    """A setting's mean over seeds and questions, with its interval.

    Args:
        runs: The held-out episodes of each seed, the questions in one order.
        measure: A key of ``MEASURES``.
    """
    return compare.mean(*_table(runs, measure))


def difference(runs: Sequence[Columns], others: Sequence[Columns], measure: str) -> Estimate:
    """``runs`` minus ``others``, seed by seed and question by question (or update by update)."""
    (one, per), (other, other_per) = _table(runs, measure), _table(others, measure)
    return compare.difference(one, other, per, other_per)


def by_seed(runs: Sequence[Columns], measure: str) -> list[float]:
    """The mean of each seed."""
    above, below = _table(runs, measure)
    return [float(np.sum(row) / (len(row) if below is None else np.sum(below[s]))) for s, row in enumerate(above)]


def training_columns(metrics: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The columns of ``TRAINING``, a value an update."""
    return {name: [row[key] for row in metrics[len(metrics) // 2 :]] for name, key in TRAINING.items()}


def _table(runs: Sequence[Columns], measure: str) -> tuple[list[Any], list[Any] | None]:
    """What is summed, and what it is divided by: a row a seed, over questions, or updates for those of ``TRAINING``."""
    column, per = (measure, None) if measure in TRAINING else MEASURES[measure][1:]
    return [run[column] for run in runs], None if per is None else [run[per] for run in runs]


def slope(curve: Sequence[float], other: Sequence[float]) -> float:
    """By how much a curve leaves another an update, by least squares.

    Example:
        >>> slope([1.0, 2.0, 4.0], [1.0, 1.0, 2.0])
        1.0
    """
    apart = np.array(curve) - np.array(other)
    return float(np.polynomial.polynomial.polyfit(np.arange(len(apart)), apart, 1)[1])
