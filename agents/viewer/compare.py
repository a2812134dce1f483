"""What tells runs apart: the settings in which they differ, and which of them are seeds of one thing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from agents.viewer.runs import Source

SEED = "seed"
NOT_COMPARED = {"output_dir", "resume"}
"""Settings that differ between any two runs and say nothing."""


def differing(configs: Sequence[Mapping[str, Any] | None]) -> list[tuple[str, list[str]]]:
    """The settings in which runs differ, each with its value in every run; a run without settings shows a dash.

    Example:
        >>> differing([{"seed": 0, "lr": 0.1}, {"seed": 1, "lr": 0.1}, None])
        [('seed', ['0', '1', '–'])]
    """
    given = [config for config in configs if config is not None]
    names = [name for name in dict.fromkeys(n for config in given for n in config) if name not in NOT_COMPARED]
    rows = [(name, [_shown(config, name) for config in configs]) for name in names]
    return [(name, values) for name, values in rows if len({_shown(config, name) for config in given}) > 1]


def series(sources: Sequence[Source]) -> list[str]:
    """What the curves call each run: runs whose settings differ in the seed alone have one name, and one colour.

    Example:
        >>> from pathlib import Path
        >>> series([Source(f"nano3-{seed}", Path(), (), {"model": "nano", "seed": seed}) for seed in (10, 11)])
        ['nano3 (2 seeds)', 'nano3 (2 seeds)']
    """
    members: dict[str, list[str]] = {}
    for source in sources:
        members.setdefault(_settings(source), []).append(source.name)
    short = [_shared(names) for names in members.values()]
    called = {
        settings: name if short.count(name) == 1 else ", ".join(names)
        for (settings, names), name in zip(members.items(), short, strict=True)
    }
    return [called[_settings(source)] for source in sources]


def _shared(names: Sequence[str]) -> str:
    """What the names begin with alike, less a piece of a number; all of them where that is nothing."""
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = re.sub(r"[-_./ ]*\d*$", "", "".join(letters[0] for letters in alike))
    return f"{shared} ({len(names)} seeds)" if shared else ", ".join(names)


def _settings(source: Source) -> str:
    """A text that two runs share where they are seeds of one thing; a run without settings stands for itself."""
    if source.config is None or SEED not in source.config:
        return f"run {source.name}"
    left_out = {SEED, *NOT_COMPARED}
    return json.dumps({name: value for name, value in source.config.items() if name not in left_out}, sort_keys=True)


def _shown(config: Mapping[str, Any] | None, name: str) -> str:
    if config is None or name not in config:
        return "–"
    value = config[name]
    return value if isinstance(value, str) else json.dumps(value)
