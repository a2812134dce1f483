"""What an estimator is."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.batch import TokenBatch, TurnBatch
from toolenv.errors import ConfigError

Floats = NDArray[np.float64]
"""Rewards, values, advantages: float64."""


class AdvantageEstimator(Protocol):
    """From turns to advantages."""

    def __call__(self, batch: TurnBatch) -> Floats:
        """Advantages ``(B, T)``, float64, 0 at padding."""
        ...


class TokenEstimator(Protocol):
    """From tokens to advantages."""

    def __call__(self, batch: TokenBatch) -> Floats:
        """Advantages ``(B, L)``, float64, 0 where the policy did not sample the token."""
        ...


def check_batch(batch: object, wanted: type[TurnBatch] | type[TokenBatch]) -> None:
    """Refuse the other kind of batch: both have rewards and a mask, so that numbers would come, and wrong ones.

    Raises:
        ConfigError: It is no batch of the wanted kind.
    """
    if not isinstance(batch, wanted):
        of, names = ("turns", "ESTIMATORS") if wanted is TurnBatch else ("tokens", "TOKEN_ESTIMATORS")
        raise ConfigError(
            f"an estimator of {of} wants a {wanted.__name__}, not a {type(batch).__name__}; those of {of} are in "
            f"agents.advantages.{names}"
        )
