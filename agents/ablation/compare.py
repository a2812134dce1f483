"""Means over seeds and tasks with intervals, and paired comparisons: every policy is asked the same tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewards.training.estimates import Estimate
from toolenv.errors import ConfigError
from toolenv.seeding import rng

Floats = NDArray[np.float64]
REPLICATES = 2000
FLIPS = 10_000
"""Draws of the sign-flip test: a p-value is at least 1 over one more than these."""


def mean(runs: ArrayLike, per: ArrayLike | None = None) -> Estimate:
    """The mean over seeds and tasks, with the 95 % interval of a bootstrap over both.

    Args:
        runs: ``(S, N)``, of S seeds and N tasks.
        per: ``(S, N)``; what is summed is divided by the sum of this. ``None``: by the number of values.

    Raises:
        ConfigError: Not such a table.

    Example:
        >>> estimate = mean([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
        >>> estimate.value, estimate.low < estimate.value < estimate.high
        (0.625, True)
    """
    table = _table(runs, per)
    return _interval(_mean(table), _resampled(table))


def difference(
    one: ArrayLike, other: ArrayLike, per: ArrayLike | None = None, other_per: ArrayLike | None = None
) -> Estimate:
    """The mean of one minus that of another, with the interval of a paired bootstrap.

    Each replicate draws seeds and tasks anew, the same ones for both sides. With few seeds the interval is narrower
    than it should be, since they are all that it knows of how much runs differ.

    Args:
        one: As for ``mean``.
        other: The same seeds and tasks.
        per: As for ``mean``, of ``one``.
        other_per: Of ``other``.

    Raises:
        ConfigError: Not two tables of one shape.

    Example:
        >>> difference([[1.0, 1.0]], [[0.0, 1.0]]).value
        0.5
    """
    first, second = _table(one, per), _table(other, other_per)
    if first.shape != second.shape:
        raise ConfigError(f"tables of {first.shape[1:]} and {second.shape[1:]} seeds and tasks are not paired")
    return _interval(_mean(first) - _mean(second), _resampled(first) - _resampled(second))


def sign_flip_p(one: ArrayLike, other: ArrayLike) -> float:
    """Two-sided p-value of a paired test: were it the same policy, each task's difference could have either sign.

    A task's difference is its mean over the seeds, so the test speaks of these runs on other tasks, not of other
    seeds.

    Args:
        one: ``(S, N)``.
        other: ``(S, N)``.

    Source:
        Fisher's randomisation test for pairs, by drawn sign flips; the observed one counts as a draw, so that the
        test is exact (Phipson and Smyth 2010).

    Example:
        >>> sign_flip_p([[1.0] * 12], [[0.0] * 12]) < 0.01, sign_flip_p([[1.0, 0.0]], [[0.0, 1.0]])
        (True, 1.0)
    """
    apart = np.asarray(one, dtype=np.float64).mean(axis=0) - np.asarray(other, dtype=np.float64).mean(axis=0)
    signs = rng(0, "sign flips").integers(2, size=(FLIPS, len(apart)), dtype=np.int8) * 2.0 - 1.0
    # What is as far from 0 as what was seen, up to the rounding of sums, counts as far.
    as_far = np.abs(signs @ apart) >= abs(apart.sum()) - 1e-9 * (1 + np.abs(apart).sum())
    return float((1 + as_far.sum()) / (1 + FLIPS))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, adjusted so that the chance of any false finding stays what each says.

    Source:
        Holm 1979, step-down.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


# Inside ------------------------------------------------------------------------------------------------------------


def _table(runs: ArrayLike, per: ArrayLike | None) -> Floats:
    """What is summed, and what it is divided by: ``(2, S, N)``."""
    above = np.asarray(runs, dtype=np.float64)
    below = np.ones_like(above) if per is None else np.asarray(per, dtype=np.float64)
    if above.ndim != 2 or not above.size or above.shape != below.shape:
        raise ConfigError(f"needs a value for each seed and task; got {above.shape}, over {below.shape}")
    return np.stack([above, below])


def _mean(table: Floats) -> float:
    above, below = table.sum(axis=(1, 2))
    return float(above / below)


def _resampled(table: Floats) -> Floats:
    """The mean in each replicate; tables of one shape are resampled alike."""
    _, seeds, tasks = table.shape
    generator = rng(0, "bootstrap")
    drawn_seeds = generator.integers(seeds, size=(REPLICATES, seeds))
    weights = np.stack([np.bincount(generator.integers(tasks, size=tasks), minlength=tasks)
                        for _ in range(REPLICATES)])  # fmt: skip
    by_task = np.einsum("xsq,rq->rxs", table, weights.astype(np.float64))
    summed = np.take_along_axis(by_task, drawn_seeds[:, None, :], axis=2).sum(axis=2)
    with np.errstate(invalid="ignore"):  # a replicate in which there is nothing to divide by is none
        means: Floats = summed[:, 0] / summed[:, 1]
    return means


def _interval(value: float, replicates: Floats) -> Estimate:
    low, high = np.nanpercentile(replicates, [2.5, 97.5])
    return Estimate(value, float(low), float(high))
