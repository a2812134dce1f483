"""``toolenv ablate``: the same training under several settings and seeds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.ablation.plan import Cell, Plan


def add_command(commands: Any, shown: type[argparse.HelpFormatter]) -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "ablate",
        help="train under several settings and seeds, and compare; the same call goes on after a kill",
        formatter_class=shown,
    )
    parser.add_argument("plan", nargs="?", help="a TOML file, or the name of a plan that ships; without one: list them")
    parser.add_argument("--output-dir", type=Path, help="folder of the runs (not given: runs/ablations/NAME)")
    parser.add_argument(
        "--jobs", type=int, help="runs side by side, each with one thread (not given: 1, on Ray all at once)"
    )
    parser.add_argument("--ray", action="store_true", help="give the runs to Ray: one CPU each, and a GPU where it has")
    parser.add_argument("--only", nargs="+", metavar="SETTING", help="these settings alone (not given: all)")
    parser.add_argument("--seeds", type=int, nargs="+", help="these seeds alone (not given: the plan's)")
    parser.add_argument("--runs-only", action="store_true", help="write no table")
    parser.add_argument("--dry-run", action="store_true", help="run nothing; say what would be run")


def run(options: argparse.Namespace) -> int:
    """Make the runs that are not done, then the table."""
    from agents.ablation.plan import Plan, plan_file, shipped_plans
    from toolenv.errors import ConfigError

    if options.plan is None:
        for name, path in shipped_plans().items():
            print(f"{name}: {Plan.read(path).title}")
        return 0
    path = plan_file(options.plan)
    plan = Plan.read(path)
    folder = options.output_dir or Path("runs/ablations") / path.stem
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, not {options.jobs}")
    cells = _chosen(plan, options)
    if options.dry_run:
        _say_plan(plan, cells, folder)
        return 0
    failed = _make(plan, path, cells, folder, options)
    if not options.runs_only:
        _write(plan, folder)
    return 1 if failed else 0


def _chosen(plan: Plan, options: argparse.Namespace) -> list[Cell]:
    from toolenv.errors import ConfigError

    if other := [name for name in options.only or () if name not in plan.settings]:
        raise ConfigError(f"no setting is called {other[0]!r}; there are: {', '.join(plan.settings)}")
    if others := [seed for seed in options.seeds or () if seed not in plan.seeds]:
        raise ConfigError(f"the plan has no seed {others[0]}; it has {', '.join(map(str, plan.seeds))}")
    names, seeds = options.only or plan.settings, options.seeds or plan.seeds
    return [cell for cell in plan.cells() if cell.setting in names and cell.seed in seeds]


def _make(plan: Plan, path: Path, cells: list[Cell], folder: Path, options: argparse.Namespace) -> bool:
    """Make the runs that are not done; whether one failed."""
    from agents.ablation.cell import finished
    from agents.ablation.side_by_side import cell_command, ended_as_by_ctrl_c, log_of, run_side_by_side, starter
    from toolenv.data.text_files import replace_file

    left = [cell for cell in cells if finished(plan, cell, folder) is None]
    if not options.ray and (options.jobs or 1) == 1:
        return not all([_made_here(plan, cell, folder) for cell in left])
    # The processes read the plan as it is now, whatever becomes of the file.
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "plan.toml"
    if kept.resolve() != path.resolve():
        replace_file(kept, path.read_bytes())
    start = starter(lambda cell: cell_command(kept, folder, cell), plan, folder, ray=options.ray)
    with ended_as_by_ctrl_c():
        failed = run_side_by_side(plan, left, folder, start, options.jobs or len(left))
    for cell in failed:
        print(f"failed: {cell.setting}, seed {cell.seed}; see {log_of(cell, folder)}", file=sys.stderr)
    return bool(failed)


def _made_here(plan: Plan, cell: Cell, folder: Path) -> bool:
    """Make a run in this process; whether that went well."""
    from agents.ablation.cell import run_cell
    from toolenv.errors import ToolEnvError

    try:
        run_cell(plan, cell, folder)
    except ToolEnvError as error:
        print(f"failed: {cell.setting}, seed {cell.seed}: {error}", file=sys.stderr)
        return False
    return True


def _write(plan: Plan, folder: Path) -> None:
    from agents.ablation.cell import finished
    from agents.ablation.page import PAGE, page, write
    from agents.ablation.results import summarise

    results = [result for cell in plan.cells() if (result := finished(plan, cell, folder))]
    found = summarise(plan, results)
    write(found, folder)
    print(page(found))
    print(f"table: {folder / PAGE}")


def _say_plan(plan: Plan, cells: list[Cell], folder: Path) -> None:
    from agents.ablation.cell import finished

    for cell in cells:
        state = "done" if finished(plan, cell, folder) else "to run"
        print(f"{cell.setting}, seed {cell.seed}: {plan.config(cell, folder).num_updates} updates, {state}")
