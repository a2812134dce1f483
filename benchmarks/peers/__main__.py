"""``python -m benchmarks.peers``: installs the peers, plays the works, prints the ratios and writes the results.

A ratio is the peer's time over ours in the same round; above 1 we are faster. Run it on a machine that does nothing
else. ``--work`` and ``--peers`` play a part, which is written only where ``--output`` names a file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.catalogue import FOLDER, Player, read_catalogue
from benchmarks.peers.installing import default_folder, installed, versions
from benchmarks.peers.playing import ROOT, Measure, play_once, play_rounds
from benchmarks.peers.ratios import ratio
from benchmarks.peers.search_server import serving
from benchmarks.peers.table import cell, duration, table
from benchmarks.peers.updates import updating

RESULTS = FOLDER.parent / "results" / "peers.json"
AT_LEAST_S = 0.5
SAME_TOKENS = 0.1  # how far the lengths of the long episode may be apart: prompts say the same in other words


@contextmanager
def measuring(work: str, pythons: Mapping[str, Path], at_least_s: float) -> Iterator[Measure]:
    """What measures a player of this work, open while its rounds are played."""
    job = {"work": work, "at_least_s": at_least_s, "tokenizer": str(ROOT / "agents" / "assets" / "nano")}

    def measure(player: Player) -> dict[str, Any]:
        return play_once(player, pythons[player.name], {**job, "module": player.module})

    if work == "update":
        with updating() as update:
            yield update
    elif work == "search":
        with serving() as server:
            job |= server
            yield measure
    else:
        if work == "import":  # the first one writes what Python compiles
            for player in _everyone():
                if player.name in pythons and work not in player.cannot:
                    measure(player)
        yield measure


def compared(ours: Player, peers: Sequence[Player], work: str, measure: Measure, rounds: int) -> dict[str, Any]:
    """Ours, each peer's times with the ratio to ours, and of the others why they do not play."""
    able = [peer for peer in peers if work not in peer.cannot]
    found = play_rounds(ours, able, measure, rounds) if able else {ours.name: []}
    sums = {name: _summary(runs) for name, runs in found.items()}
    told: dict[str, Any] = {}
    for peer in peers:
        if peer not in able:
            told[peer.name] = {"ratio": None, "why": peer.cannot[work]}
            continue
        _check_same(work, sums[ours.name], sums[peer.name], peer.title)
        told[peer.name] = {**sums[peer.name], "ratio": ratio(sums[peer.name]["seconds"], sums[ours.name]["seconds"])}
    return {"ours": sums[ours.name], "peers": told}


def _summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Times a unit of all rounds, and what else was told in the last."""
    if not runs:
        return {}
    seconds = [run["seconds"] for run in runs]
    return {
        "median_s": statistics.median(seconds),
        "seconds": seconds,
        "units": [run["units"] for run in runs],
        "setup_s": [run["setup_s"] for run in runs],
        "facts": runs[-1]["facts"],
    }


def _check_same(work: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], title: str) -> None:
    """Refuse to compare episodes of different length."""
    if work != "history":
        return
    own, other = ours["facts"]["tokens"], theirs["facts"]["tokens"]
    if abs(own - other) > SAME_TOKENS * own:
        raise SystemExit(f"the long episode has {own} tokens with us and {other} in {title}: not the same work")


def _everyone() -> list[Player]:
    catalogue = read_catalogue()
    return [catalogue.ours, *catalogue.peers.values()]


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "processor": models[0] if models else platform.processor(),
        "python": platform.python_version(),
        "system": platform.system(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def read_arguments() -> argparse.Namespace:
    """What is to be played."""
    catalogue = read_catalogue()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=list(catalogue.peers), default=list(catalogue.peers))
    parser.add_argument("--work", nargs="+", choices=list(catalogue.works), default=list(catalogue.works))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--update-rounds", type=int, default=3, help="rounds of the update, each of which takes longer")
    parser.add_argument("--at-least-s", type=float, default=AT_LEAST_S, help="seconds of work of a player in a round")
    parser.add_argument("--venvs", type=Path, default=default_folder(), help="where the peers are installed")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/peers.json where all is played")
    parser.add_argument("--install-only", action="store_true")
    arguments = parser.parse_args()
    everything = set(arguments.work) == set(catalogue.works) and set(arguments.peers) == set(catalogue.peers)
    if arguments.output is None and everything:
        arguments.output = RESULTS
    return arguments


def main() -> None:
    """Install, play, print, write."""
    arguments = read_arguments()
    catalogue = read_catalogue()
    peers = [catalogue.peers[name] for name in arguments.peers]
    venvs = arguments.venvs.expanduser().absolute()
    pythons = {player.name: installed(player, venvs) for player in (catalogue.ours, *peers)}
    if arguments.install_only:
        return
    beside = {player.name: versions(pythons[player.name]) for player in (catalogue.ours, *peers)}
    record: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.peers", *_public(sys.argv[1:])]),
        "machine": machine(),
        "rounds": arguments.rounds,
        "update_rounds": arguments.update_rounds,
        "players": {
            player.name: {
                "title": player.title,
                "distribution": player.distribution,
                "version": _version(beside[player.name], player.distribution),
                "beside": beside[player.name] if player.packages else "the environment of toolenv",
            }
            for player in (catalogue.ours, *peers)
        },
        "works": {},
    }
    for work in arguments.work:
        rounds = arguments.update_rounds if work == "update" else arguments.rounds
        with measuring(work, pythons, arguments.at_least_s) as measure:
            told = compared(catalogue.ours, peers, work, measure, rounds)
        record["works"][work] = {"unit": catalogue.works[work], **told}
        print(f"{work}: {_line(told)}", flush=True)
    print("\n" + table(record))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")


def _public(words: Sequence[str]) -> list[str]:
    """The arguments without the folders of this machine."""
    kept = list(words)
    for option in ("--venvs", "--output"):
        if option in kept:
            place = kept.index(option)
            del kept[place : place + 2]
    return kept


def _version(beside: Mapping[str, str], distribution: str) -> str:
    """The version of a distribution, whatever the case of its name."""
    return {name.lower(): version for name, version in beside.items()}[distribution.lower()]


def _line(told: Mapping[str, Any]) -> str:
    """One line about a work."""
    if not told["ours"]:
        return "nobody plays it"
    shown = [f"{name} {cell(entry['ratio'])}" for name, entry in told["peers"].items()]
    return f"{duration(told['ours']['median_s'])}; " + ", ".join(shown)


if __name__ == "__main__":
    main()
