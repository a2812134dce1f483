"""A ratio of times with its interval: the median over rounds, and what other rounds might have shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from toolenv.seeding import rng

RESAMPLES = 10_000


def ratio(theirs: Sequence[float], ours: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """How many times as long as we they take.

    Args:
        theirs: Seconds a unit, one a round.
        ours: The same of ours, in the same rounds.
        seed: Of the bootstrap.

    Returns:
        ``median`` of the rounds' ratios, with ``low`` and ``high``, the 95 % percentile interval of that median over
        rounds drawn again with replacement, and the ``rounds`` themselves.

    Example:
        >>> ratio([4.0, 6.0, 2.0], [2.0, 2.0, 2.0])["median"]
        2.0
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        rounds = np.asarray(theirs, float) / np.asarray(ours, float)
    if rounds.ndim != 1 or not rounds.size or not np.isfinite(rounds).all() or (rounds <= 0).any():
        raise ValueError(f"a ratio needs one time above 0 a round of both; got {list(theirs)} and {list(ours)}")
    drawn = rng(seed, "peers").choice(rounds, (RESAMPLES, rounds.size))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return {
        "median": float(np.median(rounds)),
        "low": float(low),
        "high": float(high),
        "rounds": [float(one) for one in rounds],
    }
