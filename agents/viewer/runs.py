"""What a run folder holds, read line by line, also while the run still writes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolenv.data.jsonl import as_object
from toolenv.data.text_files import read_lines, short
from toolenv.episode import Episode
from toolenv.errors import ConfigError, DataError

EPISODES, METRICS, CONFIG = "episodes.jsonl", "metrics.jsonl", "config.json"


@dataclass(frozen=True, slots=True)
class Source:
    """A run to show.

    Attributes:
        name: What the page calls it.
        episodes: Its file of episodes.
        metrics: One mapping an update; empty where the run has no metrics.
        config: Its settings; empty where it has none.
    """

    name: str
    episodes: Path
    metrics: Sequence[Mapping[str, Any]] = ()
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """An episode with the scores that stand beside it, where there are any.

    Attributes:
        episode: What happened.
        update: The update that learned from it; ``None`` where none did, as in an evaluation.
        group: Number of its group within the update.
        rewards: By name of the term, a score a turn; ``None`` where nothing was scored.
        advantages: An advantage a turn; ``None`` where none were estimated.
    """

    episode: Episode
    update: int | None
    group: int | None
    rewards: Mapping[str, Sequence[float | None]]
    advantages: Sequence[float | None] | None


def find_runs(paths: Sequence[Path], notes: list[str]) -> list[Source]:
    """The runs at some paths.

    Args:
        paths: Folders of runs or evaluations, or files of episodes.
        notes: Takes what the reader should be told, such as a line that is still being written.

    Raises:
        ConfigError: A path that does not exist, or a folder without episodes.
        DataError: Metrics or settings that cannot be read.
    """
    names = _names(paths)
    return [_find(path, name, notes) for path, name in zip(paths, names, strict=True)]


def read_scored(path: Path, notes: list[str]) -> Iterator[Scored]:
    """The episodes of a file, lazily: those of a training run, rescored ones, or bare ones.

    Args:
        path: A JSONL file.
        notes: Takes a word about a torn last line, which is left out.

    Raises:
        DataError: Another line that is no episode; the message names file, line and reason.
    """
    for where, record in read_growing(path, notes):
        try:
            yield _scored(record)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error


def read_growing(path: Path, notes: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    r"""The JSON objects of a JSONL file that may still be written, each with the place where it stands.

    Args:
        path: The file.
        notes: Takes a word about a last line that is not whole yet.

    Raises:
        DataError: A line before the last that is not a JSON object; the message names file, line and reason.

    Example:
        >>> import tempfile
        >>> path, notes = Path(tempfile.mkdtemp()) / "metrics.jsonl", []
        >>> _ = path.write_text('{"update": 1}\n{"upda')
        >>> [record for _, record in read_growing(path, notes)], len(notes)
        ([{'update': 1}], 1)
    """
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not line.endswith("\n"):
                notes.append(f"{where}: left out, since it is not whole; the run still writes, or was stopped there")
                return
            raise DataError(f"{where}: not valid JSON ({error}): {short(line.strip())}") from error
        yield where, as_object(value, where)


def known(value: Any) -> float | None:
    """A finite number, or ``None``.

    Example:
        >>> known(1), known(float("nan")), known(None)
        (1.0, None, None)
    """
    return None if value is None or not math.isfinite(value) else float(value)


def _find(path: Path, name: str, notes: list[str]) -> Source:
    if not path.exists():
        raise ConfigError(f"{path} does not exist; name the folder of a run, or a file of episodes")
    if path.is_file():
        return Source(name, path)
    episodes, metrics, config = (path / file for file in (EPISODES, METRICS, CONFIG))
    if not episodes.exists():
        raise ConfigError(f"{path} holds no {EPISODES}; name the folder of a run or of an evaluation")
    rows = [record for _, record in read_growing(metrics, notes)] if metrics.exists() else []
    return Source(name, episodes, rows, _settings(config) if config.exists() else None)


def _settings(path: Path) -> Mapping[str, Any]:
    try:
        return as_object(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many parts as tell the runs apart."""
    parts = [path.resolve().parts for path in paths]
    twice = next((path for path in paths if parts.count(path.resolve().parts) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is named twice; name each run once")
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return []


def _scored(record: Mapping[str, Any]) -> Scored:
    bare = "episode" not in record
    episode = Episode.from_json(record if bare else record["episode"])
    if bare:
        return Scored(episode, None, None, {}, None)
    try:
        scored = Scored(
            episode,
            update=None if record.get("update") is None else int(record["update"]),
            group=None if record.get("group") is None else int(record["group"]),
            rewards={str(name): [known(v) for v in row] for name, row in (record.get("rewards") or {}).items()},
            advantages=None if record.get("advantages") is None else [known(v) for v in record["advantages"]],
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"not a scored episode: {error!r}") from error
    columns = {**scored.rewards, **({} if scored.advantages is None else {"advantages": scored.advantages})}
    for name, column in columns.items():
        if len(column) != len(episode.turns):
            raise DataError(f"{name!r} has {len(column)} values for {len(episode.turns)} turns")
    return scored
