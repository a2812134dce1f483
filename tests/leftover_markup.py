"""Whether a passage still holds markup: a check that shares nothing with the code that removes it.

``python -m tests.leftover_markup FILE`` shows what it finds.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

LEFTOVER = {
    "link": r"\[\[|\]\]",
    "template": r"\{\{|\}\}",
    "table": r"\{\||\|\}|\|-|\|\|",
    "quotes": r"''",
    "tag": r"</?[a-zA-Z][a-zA-Z0-9]*(?: [^<>]*)?/?>",
    "entity": r"&[A-Za-z]{2,8};|&#\w+;",
    "comment": r"<!--|-->",
    "switch": r"__[A-Z]+__",
    "attribute": r"\b(?:align|bgcolor|style|colspan|rowspan|width|cellpadding|border|valign)\s*=",
}


def passages_with_markup(path: Path) -> Iterator[tuple[str, str, str]]:
    """Kind of markup, title, and the words around it."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            for kind, pattern in LEFTOVER.items():
                found = re.search(pattern, record["text"])
                if found:
                    around = record["text"][max(0, found.start() - 40) : found.end() + 40]
                    yield kind, f"{record['id']} {record['title']}", around
                    break


def share_with_markup(path: Path) -> float:
    """Share of the passages in a JSONL file that hold any."""
    with path.open(encoding="utf-8") as file:
        return sum(1 for _ in passages_with_markup(path)) / sum(1 for _ in file)


if __name__ == "__main__":
    for kind, title, around in passages_with_markup(Path(sys.argv[1])):
        print(f"{kind:10} {title}: {around}")
    print(f"{share_with_markup(Path(sys.argv[1])):.3%} of the passages")
