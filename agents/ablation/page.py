"""What an ablation came to, to look at: a table, the comparisons, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.ablation.plan import MEASURES
from agents.ablation.results import CURVES
from rewards.training.estimates import Estimate
from rewards.training.plots import draw_bars, draw_curves
from toolenv.data.text_files import replace_file

RESULTS, PAGE = "results.json", "table.md"


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Write ``results.json``, ``table.md`` and the pictures.

    Args:
        found: What ``agents.ablation.results.summarise`` gave.
        folder: Where to.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / RESULTS, (json.dumps(found, indent=1) + "\n").encode())
    replace_file(folder / PAGE, page(found).encode())
    success = {name: _estimate(one["success"]) for name, one in found["settings"].items() if one["success"]}
    if success:
        bars = {"held-out success": success}
        draw_bars(bars, folder / "success.png", title=found["title"], y_label="share of held-out tasks")
    for key, label in CURVES.items():
        series = {
            name: [(point["update"], _estimate(point)) for point in curves[key]]
            for name, curves in found["curves"].items()
            if curves.get(key)
        }
        if series:
            draw_curves(series, folder / f"{key}.png", title=found["title"], x_label="update", y_label=label)


def page(found: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    settings: Mapping[str, Any] = found["settings"]
    measures = [name for name in next(iter(settings.values()), {}) if name != "seeds"]
    lines = [f"# {found['title']}", "", *([found["source"], ""] if found["source"] else [])]
    if found["done"] < found["runs"]:
        left_out = "; a setting that lacks a seed of the others is left out" if settings else ""
        lines += [f"{found['done']} of {found['runs']} runs are done{left_out}.", ""]
    if settings:
        rows = [
            [name, *(_shown(one[measure], found["held_out"]) for measure in measures), _by_seed(one["seeds"])]
            for name, one in settings.items()
        ]
        lines += [
            f"Seeds {', '.join(map(str, found['seeds']))}; {found['held_out']} held-out tasks each; in brackets 95 % "
            "intervals of a bootstrap over seeds and tasks.",
            "",
            *_table(["setting", *(MEASURES.get(name, name) for name in measures), "success by seed"], rows),
            "",
        ]
    if found["differences"]:
        rows = [
            [d["setting"], d["against"], MEASURES.get(d["measure"], d["measure"]), str(_estimate(d)), f"{d['p']:.4f}"]
            for d in found["differences"]
        ]
        lines += [
            "On the same tasks; p of a paired sign-flip test over the tasks, adjusted by Holm over the settings. It "
            "speaks of these policies on other tasks. Trained again with other seeds, the same setting may differ from "
            "itself by as much: look at the success by seed.",
            "",
            *_table(["setting", "against", "measure", "difference", "p"], rows),
            "",
        ]
    return "\n".join(lines)


# Inside ------------------------------------------------------------------------------------------------------------


def _shown(estimate: Mapping[str, Any] | None, asked: int) -> str:
    """An estimate, with the number of tasks where it is not of all that were asked."""
    if estimate is None:
        return "no task has a value"
    of = "" if estimate["tasks"] == asked else f" on {estimate['tasks']} tasks"
    return f"{_estimate(estimate)}{of}"


def _by_seed(values: Sequence[float | None]) -> str:
    return ", ".join("-" if value is None else f"{value:.3f}" for value in values)


def _estimate(record: Mapping[str, Any]) -> Estimate:
    return Estimate(record["value"], record["low"], record["high"])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
