"""The README's table of the peers: ``python -m benchmarks.peers.table`` prints it from the kept results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.peers.catalogue import FOLDER

NAMES = {
    "cheap": "answer turns",
    "vector": "the same, 16 at once",
    "python": "Python turns, SymPy",
    "search": "search turns",
    "history": "32 turns of history",
    "import": "import",
    "update": "GRPO update",
}


def table(record: Mapping[str, Any]) -> str:
    """Works as rows and peers as columns: how many times as long as ours theirs take, with the interval.

    Args:
        record: What ``benchmarks.peers`` writes.
    """
    peers = [name for name in record["players"] if name != "ours"]
    titles = [f"{record['players'][name]['title']} {record['players'][name]['version']}" for name in peers]
    rows = [["", "ours", *titles], ["---"] * (2 + len(peers))]
    for work, told in record["works"].items():
        ours = duration(told["ours"]["median_s"]) if told["ours"] else "-"
        rows.append([NAMES[work], ours, *(cell(told["peers"][name]["ratio"]) for name in peers)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def reasons(record: Mapping[str, Any]) -> str:
    """Why a cell is empty: a line for each."""
    lines = [
        f"- {record['players'][name]['title']}, {NAMES[work]}: {entry['why']}."
        for work, told in record["works"].items()
        for name, entry in told["peers"].items()
        if entry["ratio"] is None
    ]
    return "\n".join(lines)


def cell(found: Mapping[str, Any] | None) -> str:
    """A ratio with its interval, ``-`` where there is none."""
    if found is None:
        return "-"
    return f"{short(found['median'])} [{short(found['low'])}, {short(found['high'])}]"


def short(value: float) -> str:
    """Two digits that mean something, and no more digits than the number has before its point.

    Example:
        >>> [short(value) for value in (0.1234, 1.278, 24.9, 1301.4)]
        ['0.12', '1.3', '25', '1,301']
    """
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them.

    Example:
        >>> duration(0.0000213), duration(0.0098), duration(2.4)
        ('21 µs', '9.8 ms', '2.4 s')
    """
    value, unit = (seconds * 1e6, "µs") if seconds < 1e-3 else (seconds * 1e3, "ms") if seconds < 1 else (seconds, "s")
    return f"{short(value)} {unit}"


def main() -> None:
    """Print the table, and why cells are empty."""
    record = json.loads((FOLDER.parent / "results" / "peers.json").read_text())
    print(table(record) + "\n\n" + reasons(record))


if __name__ == "__main__":
    main()
