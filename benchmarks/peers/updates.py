"""The update: ours and TRL's on the same rows, as ``benchmarks.bench_update`` measures them, in our own interpreter."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.catalogue import Player
from benchmarks.peers.playing import Measure

SIDES = {"ours": "ours", "trl": "TRL"}
PRECISION = "float32"


@contextmanager
def updating() -> Iterator[Measure]:
    """What measures a side; at the end it is made sure that both took their first step with the same gradient."""
    from benchmarks.bench_update import SAME, Case, apart, child, write_case

    case = Case(groups=4, group_size=8, micro_batch=16, timed=2)
    settings = argparse.Namespace(device="cpu", threads=1, precision=PRECISION)
    with tempfile.TemporaryDirectory() as folder:
        batch = write_case(Path(folder), "nano", case, PRECISION)

        def measure(player: Player) -> dict[str, Any]:
            found = child(Path(folder), SIDES[player.name], case, settings)
            facts = {name: batch[name] for name in ("episodes", "tokens", "action_tokens")}
            facts["peak_mib"] = round(found["peak_mib"])
            return {"seconds": statistics.mean(found["seconds"]), "units": case.timed, "setup_s": 0.0, "facts": facts}

        yield measure
        if all((Path(folder) / f"gradient-{side}.pt").exists() for side in SIDES):
            difference = apart(Path(folder))
            if difference > SAME[PRECISION]:
                raise SystemExit(f"the gradients differ by {difference:.1e} of their norm; it is not the same update")
