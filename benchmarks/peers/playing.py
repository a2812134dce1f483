"""Rounds: every player of a work in turn, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.catalogue import FOLDER, Player

ROOT = FOLDER.parent.parent
LIMIT_S = 300.0  # of one player in one round

Measure = Callable[[Player], dict[str, Any]]


def play_once(player: Player, python: Path, job: Mapping[str, Any]) -> dict[str, Any]:
    """Let a player do a job, in a folder that is removed; returns what it found.

    Raises:
        SystemExit: It failed, or takes too long.
    """
    script = FOLDER / "play_import.py" if job["work"] == "import" else player.script
    words = [str(python), str(script)]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            done = subprocess.run(
                words,
                input=json.dumps(job),
                env=surroundings(player, python, Path(scratch)),
                cwd=scratch,
                capture_output=True,
                text=True,
                check=False,
                timeout=LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            raise SystemExit(f"{player.title} took more than {LIMIT_S:.0f} s for {job['work']!r}") from None
    if done.returncode:
        raise SystemExit(f"{player.title} could not play {job['work']!r}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def surroundings(player: Player, python: Path, scratch: Path) -> dict[str, str]:
    """Environment variables of a player: its own ``python`` first, one thread, no hub, and a home of its own."""
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PYTHONPATH": str(ROOT)} if not player.packages else {}
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "PYTHONWARNINGS": "ignore"}
    return {"PATH": path, "HOME": str(scratch), "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", **quiet, **own}


def play_rounds(
    ours: Player, peers: Sequence[Player], measure: Measure, rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """What every player found in every round, by name. Who begins changes from round to round."""
    players = [ours, *peers]
    found: dict[str, list[dict[str, Any]]] = {player.name: [] for player in players}
    for number in range(rounds):
        first = number % len(players)
        for player in players[first:] + players[:first]:
            found[player.name].append(measure(player))
    return found
