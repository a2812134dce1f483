"""What a run says about itself: one JSON object an update. ``agents/README.md`` explains every name."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.batch import TurnBatch
from agents.behaviour import behaviour_metrics, failed
from agents.records import keep_updates
from agents.rollout import Rollout
from rewards import RewardTerms
from toolenv.data.jsonl import read_records

OUTCOME = "outcome"
"""Name of the term that is the outcome; all other terms of a ``RewardSum`` are turn rewards."""

SUCCESS = 1.0
"""Outcome, without its weight, from which an episode counts as a success."""


class MetricsWriter:
    """Writes metrics as JSONL; each line is on its way to the disk when ``write`` returns.

    Args:
        path: The file; what stands in it is kept.
        resume_after: Drop the lines of later updates first: the run goes on from there and writes them again.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> MetricsWriter(path).write({"update": 1, "success_rate": 0.25})
        >>> read_metrics(path)
        [{'update': 1, 'success_rate': 0.25}]
    """

    def __init__(self, path: str | Path, resume_after: int | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resume_after is not None:
            keep_updates(self.path, resume_after)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one line."""
        line = json.dumps(metrics, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read what a ``MetricsWriter`` wrote.

    Raises:
        DataError: A line that is no JSON object; the message names file, line and reason.
    """
    return [dict(record) for _, _, record in read_records(path)]


class Stopwatch:
    """Seconds by phase.

    Example:
        >>> watch = Stopwatch()
        >>> with watch("rollout"):
        ...     pass
        >>> list(watch.metrics())
        ['seconds/rollout']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    def metrics(self) -> dict[str, float]:
        """``seconds/PHASE`` for each phase."""
        return {f"seconds/{phase}": round(value, 4) for phase, value in self.seconds.items()}


class WeightedMeans:
    """Means over micro-batches, each with a weight.

    Example:
        >>> means = WeightedMeans()
        >>> means.add(3, loss=1.0)
        >>> means.add(1, loss=5.0)
        >>> means.metrics()
        {'loss': 2.0}
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._weights: dict[str, float] = defaultdict(float)

    def add(self, weight: float, **values: float) -> None:
        """Take in one value a name."""
        for name, value in values.items():
            self._sums[name] += weight * value
            self._weights[name] += weight

    @classmethod
    def joined(cls, parts: Sequence[WeightedMeans]) -> WeightedMeans:
        """The means over all that the parts took in."""
        whole = cls()
        for part in parts:
            for name, total in part._sums.items():
                whole._sums[name] += total
                whole._weights[name] += part._weights[name]
        return whole

    def metrics(self) -> dict[str, float]:
        """The means; a name without weight has none."""
        return {name: total / self._weights[name] for name, total in self._sums.items() if self._weights[name]}


def rollout_metrics(
    rollouts: Sequence[Rollout], terms: Sequence[RewardTerms], batch: TurnBatch, advantages: NDArray[np.float64]
) -> dict[str, float]:
    """What the episodes of an update were like.

    Args:
        rollouts: B rollouts.
        terms: Their rewards.
        batch: Their turns.
        advantages: ``(B, T)``.
    """
    episodes = [rollout.episode for rollout in rollouts]
    turns = [turn for episode in episodes for turn in episode.turns]
    reasons = Counter(str(episode.reason) for episode in episodes)
    returns = batch.outcome + np.where(batch.mask, np.nan_to_num(batch.rewards), 0.0).sum(axis=1)
    played = advantages[batch.mask]
    outcomes = unweighted_outcomes(terms)
    return {
        "episodes": len(episodes),
        "success_rate": float((outcomes >= SUCCESS).mean()),
        "outcome": float(batch.outcome.mean()),
        "return": float(returns.mean()),
        **reward_metrics(terms),
        "calls_per_episode": float(np.mean([episode.num_calls for episode in episodes])),
        **behaviour_metrics(episodes),
        "turns_per_episode": len(turns) / len(episodes),
        "error_turns": float(np.mean([failed(turn) for turn in turns])),
        **{f"reason/{reason}": count / len(episodes) for reason, count in sorted(reasons.items())},
        **(group_metrics(outcomes, batch.groups) if np.bincount(batch.groups).max() > 1 else {}),
        "advantage/mean": float(played.mean()),
        "advantage/std": float(played.std()),
        "tokens/sampled": sum(turn >= 0 for rollout in rollouts for turn in rollout.tokens.turn_ids),
        "tokens/total": sum(len(rollout.tokens) for rollout in rollouts),
    }


def reward_metrics(terms: Sequence[RewardTerms]) -> dict[str, float]:
    """Mean score of each term over the turns that it scored, and the same for each turn's index."""
    metrics: dict[str, float] = {}
    for name in terms[0].columns:
        columns = [episode.columns[name] for episode in terms]
        metrics |= _mean_scored(f"reward/{name}", np.concatenate(columns))
        for index in range(max(map(len, columns))):
            at_turn = np.array([column[index] for column in columns if len(column) > index])
            metrics |= _mean_scored(f"reward/{name}/turn_{index}", at_turn)
    return metrics


def unweighted_outcomes(terms: Sequence[RewardTerms]) -> NDArray[np.float64]:
    """Outcome ``(B,)`` of each episode, as it was scored: its weight is a matter of learning, not of success."""
    return np.array([np.nansum(episode.columns[OUTCOME]) for episode in terms], dtype=np.float64)


def group_metrics(outcomes: NDArray[np.float64], groups: NDArray[np.int64]) -> dict[str, float]:
    """Shares of groups that teach nothing at the level of episodes: outcomes all equal, or a single episode.

    Args:
        outcomes: ``(B,)``, without weight.
        groups: ``(B,)``, the group of each episode.

    Example:
        >>> group_metrics(np.array([1.0, 1.0, 0.0]), np.array([0, 0, 1]))
        {'groups/too_easy': 0.5, 'groups/too_hard': 0.0, 'groups/single': 0.5}
    """
    members = [outcomes[groups == group] for group in np.unique(groups)]
    flat = [group[0] for group in members if len(group) > 1 and group.max() == group.min()]
    easy = sum(bool(outcome >= SUCCESS) for outcome in flat)
    return {
        "groups/too_easy": easy / len(members),
        "groups/too_hard": (len(flat) - easy) / len(members),
        "groups/single": sum(len(group) == 1 for group in members) / len(members),
    }


def _mean_scored(name: str, scores: NDArray[np.float64]) -> dict[str, float]:
    scored = scores[~np.isnan(scores)]
    return {name: float(scored.mean())} if scored.size else {}
