"""What an ablation came to: a table, the comparisons, pictures, and all of it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from agents.ablation.cell import Result
from agents.ablation.compare import difference, holm, mean, sign_flip_p
from agents.ablation.plan import Plan
from rewards.training.estimates import Estimate
from rewards.training.plots import draw_bars, draw_curves
from toolenv.data.text_files import replace_file

RESULTS, PAGE = "results.json", "table.md"
MEASURES: Mapping[str, str] = {
    "success": "success",
    "score": "score",
    "calls": "calls an episode",
    "repeated": "repeated calls",
    "errors": "failed turns",
    "no_call": "episodes without a call",
}
"""What is measured of held-out episodes, and what the table calls it."""
CURVES: Mapping[str, str] = {"success_rate": "training success", "calls_per_episode": "calls an episode"}

Runs = Mapping[str, Sequence[Result]]


def summarise(plan: Plan, results: Sequence[Result]) -> dict[str, Any]:
    """The numbers: of each setting, and of each against the one that they are compared with.

    Args:
        plan: The ablation.
        results: The runs that are done; settings are compared on the seeds that all of them have.

    Returns:
        JSON values; an estimate is ``{"value", "low", "high"}``.
    """
    runs, seeds, asked = _together(plan, results)
    measures = [*MEASURES, *plan.measures]
    return {
        "title": plan.title,
        "source": plan.source,
        "against": plan.against,
        "seeds": seeds,
        "held_out": asked,
        "missing": len(plan.cells()) - len(results),
        "settings": {
            name: {m: mean([run["held_out"][m] for run in of])._asdict() for m in measures}
            | {"seeds": [round(fmean(run["held_out"]["success"]), 4) for run in of]}
            for name, of in runs.items()
        },
        "differences": _differences(plan, runs, measures),
        "curves": {name: {key: _curve(of, key) for key in CURVES} for name, of in runs.items()},
    }


def write(plan: Plan, results: Sequence[Result], folder: Path) -> dict[str, Any]:
    """Write ``results.json``, ``table.md`` and the pictures; returns the numbers.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    found = summarise(plan, results)
    replace_file(folder / RESULTS, (json.dumps(found, indent=1) + "\n").encode())
    replace_file(folder / PAGE, page(found).encode())
    if found["settings"]:
        bars = {"held-out success": {name: _estimate(one["success"]) for name, one in found["settings"].items()}}
        draw_bars(bars, folder / "success.png", title=plan.title, y_label="share of held-out tasks")
        for key, label in CURVES.items():
            series = {
                name: [(point["update"], _estimate(point)) for point in curves[key]]
                for name, curves in found["curves"].items()
                if curves[key]
            }
            draw_curves(series, folder / f"{key}.png", title=plan.title, x_label="update", y_label=label)
    return found


def page(found: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    measures = [name for name in next(iter(found["settings"].values()), {}) if name != "seeds"]
    heads = ["setting", *(MEASURES.get(name, name) for name in measures), "success by seed"]
    rows = [
        [name, *(str(_estimate(one[m])) for m in measures), ", ".join(f"{value:.3f}" for value in one["seeds"])]
        for name, one in found["settings"].items()
    ]
    lines = [f"# {found['title']}", ""]
    lines += [found["source"], ""] if found["source"] else []
    lines += [
        f"{len(found['seeds'])} seeds, {found['held_out']} held-out tasks each; in brackets 95 % intervals of a "
        "bootstrap over seeds and tasks.",
        "",
        *_table(heads, rows),
        "",
    ]
    if found["missing"]:
        lines += [f"{found['missing']} runs are not done, and settings without all of these seeds are left out.", ""]
    if found["differences"]:
        rows = [
            [one["setting"], MEASURES.get(one["measure"], one["measure"]), str(_estimate(one)), f"{one['p']:.4f}"]
            for one in found["differences"]
        ]
        lines += [
            f"Against {found['against']}, on the same tasks; p of a paired sign-flip test over the tasks, adjusted by "
            "Holm over the settings.",
            "",
            *_table(["setting", "measure", "difference", "p"], rows),
            "",
        ]
    return "\n".join(lines)


# Inside ------------------------------------------------------------------------------------------------------------


def _together(plan: Plan, results: Sequence[Result]) -> tuple[dict[str, list[Result]], list[int], int]:
    """By setting its runs, of the seeds that most settings have done, and how many tasks all of them have a score on.

    A setting that lacks a seed is left out, and so is a task on which a reward of any run had no opinion.
    """
    by_cell = {(result["setting"], result["seed"]): result for result in results}
    done = {name: [seed for seed in plan.seeds if (name, seed) in by_cell] for name in plan.settings}
    seeds = max(done.values(), key=len, default=[])
    runs = {name: [by_cell[name, s] for s in seeds] for name, of in done.items() if of == seeds and seeds}
    columns = [column for of in runs.values() for run in of for column in run["held_out"].values()]
    known = [all(value is not None for value in values) for values in zip(*columns, strict=True)]
    kept = {
        name: [{**run, "held_out": {m: _only(column, known) for m, column in run["held_out"].items()}} for run in of]
        for name, of in runs.items()
    }
    return kept, seeds, sum(known)


def _only(column: Sequence[Any], known: Sequence[bool]) -> list[Any]:
    return [value for value, is_known in zip(column, known, strict=True) if is_known]


def _differences(plan: Plan, runs: Runs, measures: Sequence[str]) -> list[dict[str, Any]]:
    """Every setting against the one that is compared with, measure by measure."""
    if plan.against not in runs:
        return []
    found = []
    for measure in measures:
        base = [run["held_out"][measure] for run in runs[plan.against]]
        others = {name: [run["held_out"][measure] for run in of] for name, of in runs.items() if name != plan.against}
        ps = holm([sign_flip_p(one, base) for one in others.values()])
        found += [
            {"setting": name, "measure": measure, **difference(one, base)._asdict(), "p": p}
            for (name, one), p in zip(others.items(), ps, strict=True)
        ]
    return found


def _curve(runs: Sequence[Result], key: str) -> list[dict[str, float]]:
    """Mean over the seeds, and their range, at each update that all of them have."""
    by_seed = [{row["update"]: row[key] for row in run["metrics"] if key in row} for run in runs]
    updates = sorted(set.intersection(*(set(one) for one in by_seed)))
    values = {update: [one[update] for one in by_seed] for update in updates}
    return [{"update": u, "value": fmean(v), "low": min(v), "high": max(v)} for u, v in values.items()]


def _estimate(record: Mapping[str, Any]) -> Estimate:
    return Estimate(record["value"], record["low"], record["high"])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
