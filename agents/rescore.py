"""Score stored episodes again: new rewards for an old run, with no new rollout. ``toolenv rescore`` runs it."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rewards import RewardSum, RewardTerms
from rewards.base import needs_hindsight
from toolenv.data.jsonl import read_records
from toolenv.data.text_files import replace_file
from toolenv.episode import Episode
from toolenv.errors import ConfigError, DataError

CHUNK = 256
"""Episodes that are scored in one call of a reward; more where a group is larger."""


@dataclass(slots=True)
class Rescored:
    """What a rescoring saw.

    Attributes:
        episodes: How many episodes were scored.
        masked: How many of them a reward failed on.
        old: By term, the scores that stood in the file, summed over an episode.
        new: By term, the new ones.
        scored: By term, turns that it scored.
    """

    episodes: int = 0
    masked: int = 0
    old: dict[str, list[float]] = field(default_factory=dict)
    new: dict[str, list[float]] = field(default_factory=dict)
    scored: dict[str, int] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any], terms: Mapping[str, Any], errors: Mapping[str, str]) -> None:
        """Take in one episode."""
        self.episodes += 1
        self.masked += bool(errors)
        for sums, columns in ((self.old, record.get("rewards") or {}), (self.new, terms)):
            for name, column in columns.items():
                known = [value for value in column if value is not None]
                if known:
                    sums.setdefault(name, []).append(sum(known))
        for name, column in terms.items():
            self.scored[name] = self.scored.get(name, 0) + sum(value is not None for value in column)

    def __str__(self) -> str:
        lines = [f"{self.episodes} episodes, {self.masked} masked"]
        for name in dict.fromkeys([*self.old, *self.scored]):
            stood = f"{np.mean(self.old[name]):.4f}" if name in self.old else "-"
            now = f"{np.mean(self.new[name]):.4f}" if name in self.new else "-"
            lines.append(f"  {name:20} mean an episode: {stood} -> {now}   turns scored: {self.scored.get(name, 0)}")
        return "\n".join(lines)


def rescore(source: Path, output: Path, rewards: RewardSum, *, resume: bool = False) -> Rescored:
    """Score the episodes of a file again.

    Args:
        source: JSONL of episodes, as ``toolenv eval`` writes them, or of scored episodes, as a training run does.
        output: The same records, with ``rewards`` by term in place of what stood there and, where a reward failed,
            ``errors``. Advantages are left out: they are no longer true.
        rewards: The new rewards. One that follows a schedule is told the update that a training run's episode is of.
        resume: Go on where an earlier call was stopped: keep what stands in ``output``. It must have been called with
            the same rewards and settings; of these, only the names can be checked.

    Returns:
        What was seen, episodes of an earlier call included.

    Raises:
        ConfigError: ``output`` exists and ``resume`` is not set, or it is the source or was made of another one; or a
            reward compares the episodes of a group, and the file holds them apart.
        DataError: A line that is no episode; the message names file, line and reason.
        RewardError: A reward failed, and the policy is to stop.
    """
    if output.resolve() == source.resolve():
        raise ConfigError(f"the new scores would overwrite {source}; give another --output")
    if output.exists() and output.stat().st_size and not resume:
        raise ConfigError(f"{output} exists; give --resume to go on with it, or another --output")
    kept = _whole_groups(output, list(rewards.fns))
    seen, records, groups = Rescored(), _records(source), _Groups(any(map(needs_hindsight, rewards.fns.values())))
    for number, (_, line) in enumerate(kept, start=1):
        record, episode = next(records, ({}, None))
        if episode is None or json.dumps(line["episode"]) != json.dumps(_facts(record)):
            raise ConfigError(f"{output}, line {number}, is not of line {number} of {source}; give another --output")
        groups.check(_group(record, episode))
        seen.add(record, line["rewards"], line.get("errors", {}))
    if output.exists():
        replace_file(output, b"".join(text for text, _ in kept))
    show = _Progress(len(kept), sum(1 for _ in read_records(source)))
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("a", encoding="ascii") as file:
        for chunk in _chunks(records, groups):
            update = chunk[0][0].get("update")
            if update is not None:
                rewards.set_update(update)
            scored = rewards.score(episode for _, episode in chunk)
            file.writelines(
                json.dumps(_line(record, row)) + "\n" for (record, _), row in zip(chunk, scored, strict=True)
            )
            file.flush()
            for (record, _), row in zip(chunk, scored, strict=True):
                seen.add(record, row.to_json(), row.errors)
            show(seen.episodes)
    return seen


def _records(path: Path) -> Iterator[tuple[Mapping[str, Any], Episode]]:
    """Each line with its episode."""
    for where, _, record in read_records(path):
        try:
            yield record, Episode.from_json(_facts(record))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error


def _facts(record: Mapping[str, Any]) -> Any:
    """The episode in a line."""
    return record.get("episode", record)


def _chunks(
    records: Iterator[tuple[Mapping[str, Any], Episode]], groups: _Groups
) -> Iterator[list[tuple[Mapping[str, Any], Episode]]]:
    """Runs of about ``CHUNK`` lines of one update that cut no group, since a reward may compare its episodes."""
    chunk: list[tuple[Mapping[str, Any], Episode]] = []
    for group, members in itertools.groupby(records, key=lambda pair: _group(*pair)):
        groups.check(group)
        if chunk and (len(chunk) >= CHUNK or chunk[0][0].get("update") != group[0]):
            yield chunk
            chunk = []
        chunk += members
    if chunk:
        yield chunk


class _Groups:
    """Refuses a group that comes back after it ended, where that matters."""

    def __init__(self, matters: bool) -> None:
        self.matters = matters
        self.ended: set[Hashable] = set()
        self.last: Hashable = None

    def check(self, group: Hashable) -> None:
        if group != self.last:
            self.ended.add(self.last)
        if self.matters and group in self.ended:
            raise ConfigError(
                f"a reward compares the episodes of a group, and the file holds those of {group!r} (update, "
                "environment, task, seed) in several places; sort it by these"
            )
        self.last = group


def _group(record: Mapping[str, Any], episode: Episode) -> tuple[Hashable, ...]:
    return record.get("update"), episode.env_id, episode.task.id, episode.seed


def _line(record: Mapping[str, Any], terms: RewardTerms) -> dict[str, Any]:
    line = dict(record) if "episode" in record else {"episode": dict(record)}
    for stale in ("advantages", "errors"):
        line.pop(stale, None)
    line["rewards"] = terms.to_json()
    return {**line, "errors": dict(terms.errors)} if terms.errors else line


def _whole_groups(output: Path, terms: list[str]) -> list[tuple[bytes, dict[str, Any]]]:
    """What an earlier call wrote, text and value of each line, less a torn line and the last group: it may be torn too.

    Raises:
        ConfigError: The file holds something else, or other rewards.
    """
    if not output.exists():
        return []
    raw = [line for line in output.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    try:
        lines = [json.loads(line) for line in raw]
        groups = [_group(line, Episode.from_json(line["episode"])) for line in lines]
        other = next((line["rewards"] for line in lines if list(line["rewards"]) != terms), None)
    except (ValueError, KeyError, TypeError, AttributeError, DataError) as error:
        raise ConfigError(f"{output} is no file of an earlier rescoring: {error!r}") from error
    if other is not None:
        raise ConfigError(
            f"{output} holds the rewards {', '.join(other)}, not {', '.join(terms)}; give another --output"
        )
    whole = len(groups)
    while whole and groups[whole - 1] == groups[-1]:
        whole -= 1
    return list(zip(raw, lines, strict=True))[:whole]


class _Progress:
    """Episodes done and the time left, on one line of the terminal."""

    def __init__(self, done: int, total: int) -> None:
        self.first, self.total, self.start = done, total, time.monotonic()

    def __call__(self, done: int) -> None:
        left = (time.monotonic() - self.start) / max(1, done - self.first) * (self.total - done)
        end = "\n" if done == self.total else ""
        print(f"\r{done}/{self.total} episodes, about {left:.0f} s left ", end=end, file=sys.stderr, flush=True)
