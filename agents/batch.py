"""Turns of a batch of episodes, as arrays: what estimators read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TurnBatch:
    """The facts of B episodes of at most T turns.

    Attributes:
        rewards: ``(B, T)`` float64, the process reward of each turn; NaN: the turn was not scored.
        outcome: ``(B,)`` float64, the final reward, due at an episode's last turn.
        mask: ``(B, T)`` bool, true where there is a turn; an episode's turns come first.
        groups: ``(B,)`` int, which group an episode belongs to.
        values: ``(B, T)`` float64, a critic's value at the start of each turn.
        bootstrap: ``(B,)`` float64, the value after a truncated episode's last turn; 0 where it terminated.
        anchors: ``(B, T)``, a key of the state in which each turn began.

    Raises:
        ConfigError: Shapes that do not fit together.
    """

    rewards: NDArray[np.float64]
    outcome: NDArray[np.float64]
    mask: NDArray[np.bool_]
    groups: NDArray[np.int64]
    values: NDArray[np.float64] | None = None
    bootstrap: NDArray[np.float64] | None = None
    anchors: NDArray[np.object_] | None = None

    def __post_init__(self) -> None:
        rows, turns = self.rewards.shape
        expected = {"outcome": (rows,), "mask": (rows, turns), "groups": (rows,)}
        for name, shape in expected.items():
            seen = getattr(self, name).shape
            if seen != shape:
                raise ConfigError(f"{name} must have shape {shape} to fit rewards {self.rewards.shape}, not {seen}")
