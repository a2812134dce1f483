"""Judge a reward model against labels: AUC, accuracy, calibration, by turn and by kind of error, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewards.mapping import sigmoid
from rewards.scoring import Scorer
from rewards.training.estimates import Estimate
from rewards.training.labels.records import LabelledEpisode
from rewards.training.trm.metrics import (
    SURE,
    Floats,
    ReliabilityBin,
    auc,
    auc_estimate,
    expected_calibration_error,
    interval,
    mean_estimate,
    reliability,
    resampled_weights,
)
from rewards.training.trm.rows import KINDS, Label, readings, successes, task_key
from toolenv.errors import ConfigError

BINS = 10
LAST_TURN = 4
"""Turns from here on are one slice."""


@dataclass(frozen=True, slots=True)
class ScoredCall:
    """A label, and what a scorer said.

    Attributes:
        group: Equal for calls of one task.
        turn: Index of the turn; ``None``: a whole episode was scored.
        kind: One of ``KINDS``; ``None`` where that is unknown.
        good: The label.
        score: From 0 to 1.
    """

    group: str
    turn: int | None
    kind: str | None
    good: bool
    score: float


@dataclass(frozen=True, slots=True)
class Scored:
    """Labels with scores, and what has none.

    Attributes:
        calls: The labels.
        unknown: Calls left out, since their label is unknown or dropped.
        cut: Calls left out, since they do not fit into the model.
    """

    calls: tuple[ScoredCall, ...]
    unknown: int = 0
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of the calls.

    Attributes:
        calls: How many.
        good: How many of them are good.
        auc: Of a turn: its good against its bad calls. Of a kind of bad call: all good calls against these.
        accuracy: At a score of one half.
        mean_score: Mean of the scores.
    """

    calls: int
    good: int
    auc: Estimate
    accuracy: Estimate
    mean_score: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a scorer is.

    Attributes:
        calls: How many labels.
        good: How many of them are good.
        auc: Area under the ROC curve.
        accuracy: At a score of one half.
        bce: Cross-entropy in nats.
        ece: Expected calibration error.
        bins: The reliability diagram.
        by_turn: Slices by index of the turn.
        by_kind: Slices by kind of call, where both labels are known.
        unknown: Calls left out, since their label is unknown or dropped.
        cut: Calls left out, since they do not fit into the model.
    """

    calls: int
    good: int
    auc: Estimate
    accuracy: Estimate
    bce: Estimate
    ece: Estimate
    bins: tuple[ReliabilityBin, ...]
    by_turn: Mapping[str, Slice]
    by_kind: Mapping[str, Slice]
    unknown: int
    cut: int

    def to_json(self) -> dict[str, Any]:
        """JSON values; an estimate is a list of its value and the ends of its interval, a number that is none null."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    def __str__(self) -> str:
        head = f"{self.calls} labels, {self.good / self.calls:.1%} good"
        left_out = [(self.unknown, "unknown"), (self.cut, "too long")]
        head += "".join(f", {count} {why} left out" for count, why in left_out if count)
        lines = [head, f"AUC {self.auc}   accuracy {self.accuracy}   cross-entropy {self.bce}   ECE {self.ece}"]
        lines.append(f"{'':24}{'labels':>8}{'good':>8}{'score':>8}   {'AUC':24}accuracy")
        for name, part in (*self.by_turn.items(), *self.by_kind.items()):
            shown = "" if np.isnan(part.auc.value) else str(part.auc)
            counts = f"{part.calls:8}{part.good / part.calls:8.1%}{part.mean_score:8.3f}"
            lines.append(f"{name:24}{counts}   {shown:24}{part.accuracy}")
        return "\n".join(lines)


def score_calls(scorer: Scorer, records: Sequence[LabelledEpisode], label: Label = "value") -> Scored:
    """What a process model says of each labelled call.

    Args:
        scorer: A process model.
        records: Labelled episodes.
        label: What the calls are judged by.
    """
    scores = scorer.score_turns([record.episode.messages() for record in records])
    return join_scores(records, [sigmoid(row) for row in scores], label)


def join_scores(
    records: Sequence[LabelledEpisode], scores: Sequence[NDArray[np.float64]], label: Label = "value"
) -> Scored:
    """Labels with the scores of their tool messages.

    Args:
        records: Labelled episodes.
        scores: From 0 to 1, one a tool message, an array an episode; NaN where there is none.
        label: What the calls are judged by.
    """
    calls, unknown, cut = [], 0, 0
    for record, row in zip(records, scores, strict=True):
        for reading, score in zip(readings(record), row, strict=True):
            good: bool | None = getattr(reading, label)
            if reading.turn is None:
                continue
            if good is None or reading.dropped is not None:
                unknown += 1
            elif np.isnan(score):
                cut += 1
            else:
                calls.append(ScoredCall(task_key(record.episode), reading.turn, reading.kind, good, float(score)))
    return Scored(tuple(calls), unknown, cut)


def score_whole(scorer: Scorer, records: Sequence[LabelledEpisode]) -> Scored:
    """What a trajectory-level model says of each episode, whose label is its success."""
    episodes = [record.episode for record in records]
    scores = sigmoid(np.asarray(scorer.score([episode.messages() for episode in episodes])))
    calls, unknown, cut = [], 0, 0
    for episode, good, score in zip(episodes, successes(episodes), scores, strict=True):
        if good is None:
            unknown += 1
        elif np.isnan(score):
            cut += 1
        else:
            calls.append(ScoredCall(task_key(episode), None, None, good, float(score)))
    return Scored(tuple(calls), unknown, cut)


def evaluate(scored: Scored, *, resamples: int = 1000, seed: int = 0) -> Evaluation:
    """Judge scores against labels.

    Args:
        scored: Labels with scores.
        resamples: Bootstrap samples behind the 95 % intervals. Whole tasks are drawn, with all their episodes.
        seed: Of the bootstrap.

    Raises:
        ConfigError: There is no label.

    Example:
        >>> calls = [ScoredCall(str(i), i % 2, None, i < 5, 0.95 - i / 10) for i in range(10)]
        >>> found = evaluate(Scored(tuple(calls)), resamples=50)
        >>> found.auc.value, found.accuracy.value
        (1.0, 1.0)
    """
    calls = scored.calls
    if not calls:
        raise ConfigError(f"there is no labelled call to judge by ({scored.unknown} unknown, {scored.cut} too long)")
    scores = np.array([call.score for call in calls])
    good = np.array([call.good for call in calls])
    weights = resampled_weights([call.group for call in calls], resamples, seed)
    bins = tuple(reliability(scores, good, BINS))
    clipped = np.clip(scores, SURE, 1 - SURE)
    losses = np.where(good, -np.log(clipped), -np.log1p(-clipped))
    right = (scores >= 0.5) == good
    return Evaluation(
        calls=len(calls),
        good=int(good.sum()),
        auc=auc_estimate(scores, good, weights),
        accuracy=mean_estimate(right, weights),
        bce=mean_estimate(losses, weights),
        ece=interval(expected_calibration_error(bins), _resampled_ece(scores, good, weights)),
        bins=bins,
        by_turn=_by_turn(calls, scores, good, weights),
        by_kind=_by_kind(calls, scores, good, weights),
        unknown=scored.unknown,
        cut=scored.cut,
    )


def auc_of(scored: Scored) -> float:
    """The AUC alone."""
    return auc([call.score for call in scored.calls], [call.good for call in scored.calls])


# Inside ------------------------------------------------------------------------------------------------------------


def _by_turn(calls: Sequence[ScoredCall], scores: Floats, good: NDArray[np.bool_], weights: Floats) -> dict[str, Slice]:
    turns = [call.turn if call.turn is None else min(call.turn, LAST_TURN) for call in calls]
    found = {}
    for turn in sorted({turn for turn in turns if turn is not None}):
        mask = np.array([each == turn for each in turns])
        name = f"turn {turn}" + (" and later" if turn == LAST_TURN else "")
        found[name] = _slice(scores, good, weights, mask, mask)
    return found


def _by_kind(calls: Sequence[ScoredCall], scores: Floats, good: NDArray[np.bool_], weights: Floats) -> dict[str, Slice]:
    kinds = np.array([str(call.kind) for call in calls])
    found = {}
    for kind in KINDS.values():
        mask = kinds == kind
        if mask.any():
            found[kind] = _slice(scores, good, weights, mask, mask | good)
    return found


def _slice(
    scores: Floats,
    good: NDArray[np.bool_],
    weights: Floats,
    mask: NDArray[np.bool_],
    compared: NDArray[np.bool_],
) -> Slice:
    """The calls of a mask; their AUC is over those that they are compared with."""
    right = (scores >= 0.5) == good
    return Slice(
        calls=int(mask.sum()),
        good=int(good[mask].sum()),
        auc=auc_estimate(scores[compared], good[compared], weights[:, compared]),
        accuracy=mean_estimate(right[mask], weights[:, mask]),
        mean_score=float(scores[mask].mean()),
    )


def _resampled_ece(scores: Floats, good: NDArray[np.bool_], weights: Floats) -> Floats:
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    gaps = weights * (scores - good)
    apart = sum(np.abs(gaps[:, place == b].sum(axis=1)) for b in range(BINS))
    return np.asarray(apart / weights.sum(axis=1))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and np.isnan(value) else value
