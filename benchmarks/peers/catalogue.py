"""Who is compared at what: ``catalogue.json``, read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Player:
    """A project that plays.

    Attributes:
        name: Its name here.
        title: Its name in the table.
        distribution: Its name in the package index.
        module: What the import is measured of.
        script: Its player; ``None`` for TRL, whose player is ``benchmarks.update_trl``.
        packages: What is installed for it, pinned; nothing where it runs in our own interpreter.
        cannot: By work, why it does not play it.
    """

    name: str
    title: str
    distribution: str
    module: str
    script: Path | None = None
    packages: tuple[str, ...] = ()
    cannot: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Catalogue:
    """Works with what a unit of each is, ourselves, and the peers by name."""

    works: Mapping[str, str]
    ours: Player
    peers: Mapping[str, Player]


def read_catalogue() -> Catalogue:
    """The catalogue beside this file."""
    told = json.loads((FOLDER / "catalogue.json").read_text())
    peers = {name: _player(name, **entry) for name, entry in told["peers"].items()}
    return Catalogue(told["works"], _player("ours", **told["ours"]), peers)


def _player(
    name: str,
    title: str,
    distribution: str,
    module: str,
    script: str | None = None,
    packages: tuple[str, ...] = (),
    cannot: Mapping[str, str] | None = None,
) -> Player:
    path = None if script is None else FOLDER / script
    return Player(name, title, distribution, module, path, tuple(packages), cannot or {})
