"""Scored episodes: what happened, what each turn was worth and which advantage it got, as JSONL.

The facts and the scores stand side by side in a line and never inside one another, so a run can be scored again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolenv.data.jsonl import read_records
from toolenv.data.text_files import short
from toolenv.episode import Episode
from toolenv.errors import DataError


@dataclass(frozen=True, slots=True)
class ScoredEpisode:
    """An episode of a training run.

    Attributes:
        episode: What happened.
        update: The update that learned from it, from 1.
        group: Number of its group within the update.
        rewards: By name of the term, a score a turn; ``None`` where nothing was scored.
        advantages: An advantage a turn.
    """

    episode: Episode
    update: int
    group: int
    rewards: Mapping[str, Sequence[float | None]]
    advantages: Sequence[float]

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``from_json`` is its inverse."""
        return {
            "update": self.update,
            "group": self.group,
            "rewards": {name: [_number(v) for v in column] for name, column in self.rewards.items()},
            "advantages": [float(v) for v in self.advantages],
            "episode": self.episode.to_json(),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ScoredEpisode:
        """Read what ``to_json`` wrote.

        Raises:
            DataError: A field is missing or of the wrong shape.
        """
        try:
            return cls(
                episode=Episode.from_json(record["episode"]),
                update=int(record["update"]),
                group=int(record["group"]),
                rewards={str(name): tuple(column) for name, column in record["rewards"].items()},
                advantages=tuple(record["advantages"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a scored episode: {error!r}") from error


def write_scored_episodes(path: str | Path, records: Iterable[ScoredEpisode], *, append: bool = True) -> int:
    """Write scored episodes, one a line, in ASCII so that any text a model can write survives.

    Returns:
        How many were written.
    """
    lines = [json.dumps(record.to_json()) + "\n" for record in records]
    with open(path, "a" if append else "w", encoding="ascii") as file:
        file.writelines(lines)
    return len(lines)


def read_scored_episodes(path: str | Path) -> Iterator[ScoredEpisode]:
    """Read scored episodes, lazily.

    Raises:
        DataError: A line that is none; the message names file, line and reason.
    """
    for where, _, record in read_records(path):
        try:
            yield ScoredEpisode.from_json(record)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error


def keep_updates(path: str | Path, last: int) -> None:
    """Drop from a JSONL file what stands after an update: lines whose ``update`` is later, and a torn last line.

    A run that goes on from a checkpoint writes those again. The file is replaced in one step.

    Raises:
        DataError: A whole line that is no record of an update; the message names file, line and reason.
    """
    path = Path(path)
    if not path.exists():
        return
    aside = path.with_name(path.name + ".partial")
    with path.open("rb") as file, aside.open("wb") as kept:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n") and _update(line, f"{path}, line {number}") <= last:
                kept.write(line)
        kept.flush()
        os.fsync(kept.fileno())
    aside.replace(path)


def _update(line: bytes, where: str) -> int:
    """The update that a line is of."""
    try:
        return int(json.loads(line)["update"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: no record of an update ({type(error).__name__}): {short(line)}") from error


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
