"""From runs to numbers: every setting, and every one against what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from agents.ablation.cell import Result
from agents.ablation.compare import difference, holm, mean, sign_flip_p
from agents.ablation.plan import MEASURES, Cell, Plan
from toolenv.errors import ConfigError

CURVES: Mapping[str, str] = {"success_rate": "training success", "calls_per_episode": "calls an episode"}
"""Metrics of training that are drawn, and what their axis is called."""
OWN = ("score", "success_rate")
"""What a run's own outcome reward says: of settings with other rewards it cannot be compared."""

Runs = Mapping[str, Sequence[Result]]


def summarise(plan: Plan, results: Sequence[Result]) -> dict[str, Any]:
    """The numbers: of each setting, and of each against the one that it is compared with.

    Settings are compared on the seeds that all of them have; one without any run, or with none of these, is left out.
    Each measure takes the tasks on which it is known in all runs.

    Args:
        plan: The ablation.
        results: The runs that are done.

    Returns:
        JSON values; an estimate is ``{"value", "low", "high", "tasks"}``.

    Raises:
        ConfigError: The runs were asked different tasks.
    """
    runs, seeds = _together(plan, results)
    one_reward = len({plan.outcome_of(name) for name in runs}) < 2
    tables = {measure: _table(runs, measure) for measure in (*MEASURES, *plan.measures)}
    return {
        "title": plan.title,
        "source": plan.source,
        "seeds": seeds,
        "held_out": plan.held_out,
        "done": len(results),
        "runs": len(plan.cells()),
        "settings": {
            name: {measure: _mean(table[name]) for measure, table in tables.items()}
            | {"seeds": [round(fmean(row), 4) if row else None for row in tables["success"][name]]}
            for name in runs
        },
        "differences": [
            one
            for measure, table in tables.items()
            if one_reward or measure not in OWN
            for one in _differences(plan, measure, table)
        ],
        "curves": {
            name: {key: _curve(of, key) for key in CURVES if one_reward or key not in OWN} for name, of in runs.items()
        },
    }


# Inside ------------------------------------------------------------------------------------------------------------


def _together(plan: Plan, results: Sequence[Result]) -> tuple[dict[str, list[Result]], list[int]]:
    """By setting its runs, of the seeds that all settings with runs have."""
    by_cell = {Cell(result["setting"], result["seed"]): result for result in results}
    if len({tuple(result["tasks"]) for result in results}) > 1:
        raise ConfigError(
            "the settings were asked different held-out tasks, so they cannot be compared; an axis must not change the "
            "tasks of the evaluation (env_id, env_kwargs, eval_env_kwargs)"
        )
    done = {name: [seed for seed in plan.seeds if Cell(name, seed) in by_cell] for name in plan.settings}
    common = [seed for seed in plan.seeds if all(seed in of for of in done.values() if of)]
    seeds = common or max(done.values(), key=len)
    kept = [name for name, of in done.items() if of and set(seeds) <= set(of)]
    return {name: [by_cell[Cell(name, seed)] for seed in seeds] for name in kept}, seeds


def _table(runs: Runs, measure: str) -> dict[str, list[list[float]]]:
    """By setting, a row a seed: the measure on the tasks on which it is known in all runs."""
    columns = [run["held_out"][measure] for of in runs.values() for run in of]
    known = [all(value is not None for value in values) for values in zip(*columns, strict=True)]
    return {
        name: [[v for v, k in zip(run["held_out"][measure], known, strict=True) if k] for run in of]
        for name, of in runs.items()
    }


def _mean(rows: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    """``None`` where the measure is known on no task."""
    return {**mean(rows)._asdict(), "tasks": len(rows[0])} if rows[0] else None


def _differences(plan: Plan, measure: str, table: Mapping[str, list[list[float]]]) -> list[dict[str, Any]]:
    """Every setting against what it is compared with."""
    bases = {name: plan.base_of(name) for name in table if table[name][0]}
    pairs = [(name, base) for name, base in bases.items() if base is not None and base in table]
    ps = holm([sign_flip_p(table[name], table[base]) for name, base in pairs])
    return [
        {"setting": name, "against": base, "measure": measure, **difference(table[name], table[base])._asdict(), "p": p}
        for (name, base), p in zip(pairs, ps, strict=True)
    ]


def _curve(runs: Sequence[Result], key: str) -> list[dict[str, float]]:
    """Mean over the seeds, and their range, at each update that all of them have."""
    by_seed = [{row["update"]: row[key] for row in run["metrics"] if key in row} for run in runs]
    updates = sorted(set.intersection(*(set(one) for one in by_seed)))
    values = {update: [one[update] for one in by_seed] for update in updates}
    return [{"update": u, "value": fmean(v), "low": min(v), "high": max(v)} for u, v in values.items()]
