"""An environment for each peer, made once, with the versions that the catalogue pins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.catalogue import Player

MADE_OF = "made-of.json"  # in the environment: the packages that were asked for, once they are all there


def default_folder() -> Path:
    """Where the environments are kept unless another place is named: the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "toolenv" / "peers"


def interpreter(player: Player, venvs: Path) -> Path:
    """The interpreter that a player runs in: this one, where nothing is to be installed for it."""
    return venvs / player.name / "bin" / "python" if player.packages else Path(sys.executable)


def installed(player: Player, venvs: Path) -> Path:
    """Install a peer, unless the same is there already; returns its interpreter.

    Raises:
        SystemExit: pip fails; its last words are shown.
    """
    python = interpreter(player, venvs)
    if not player.packages:
        return python
    note = venvs / player.name / MADE_OF
    if note.exists() and json.loads(note.read_text()) == list(player.packages):
        return python
    print(f"installing {', '.join(player.packages)} into {venvs / player.name}", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(venvs / player.name)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *player.packages])
    note.write_text(json.dumps(list(player.packages)) + "\n")
    return python


def versions(python: Path) -> dict[str, str]:
    """Everything that is installed beside an interpreter, by name."""
    listed = _run([str(python), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"])
    return {entry["name"]: entry["version"] for entry in json.loads(listed)}


def _run(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return done.stdout
