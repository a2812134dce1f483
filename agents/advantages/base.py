"""What an estimator is."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.batch import TokenBatch, TurnBatch

Floats = NDArray[np.float64]


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
