"""Who can label, by name: for each a module that has ``add_options(parser)`` and ``make(options, folder)``.

``add_options`` imports nothing heavy. ``make`` returns a ``rewards.training.labels.writing.Labeller``; ``folder`` is a
folder of ``toolenv trm collect``, or ``None`` where the episodes are a file.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from toolenv.errors import ConfigError

if TYPE_CHECKING:
    from rewards.training.labels.writing import Labeller

LABELLERS = {
    "oracle": "agents.workshop.label_by_oracle",
    "hindsight": "agents.workshop.label_by_hindsight",
    "judge": "agents.workshop.label_by_judge",
    "monte-carlo": "agents.workshop.label_by_monte_carlo",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of all labellers."""
    for name in LABELLERS:
        _module(name).add_options(parser)


def make_labeller(name: str, options: argparse.Namespace, folder: Path | None) -> Labeller:
    """The labeller of this name, for the episodes of a folder.

    Raises:
        ConfigError: Its options do not fit together, it needs a folder, or an option of another labeller is given.
    """
    for other in LABELLERS:
        if other != name and (given := _given(other, options)):
            raise ConfigError(f"{', '.join(given)}: of --by {other}, and has no meaning with --by {name}")
    labeller: Labeller = _module(name).make(options, folder)
    return labeller


def _given(name: str, options: argparse.Namespace) -> list[str]:
    """The options of a labeller that were given."""
    parser = argparse.ArgumentParser()
    _module(name).add_options(parser)
    defaults = vars(parser.parse_args([]))
    return [f"--{key.replace('_', '-')}" for key, value in defaults.items() if getattr(options, key) != value]


def _module(name: str) -> ModuleType:
    return importlib.import_module(LABELLERS[name])
