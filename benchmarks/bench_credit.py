"""Turn-level against episode-level credit: the demonstration's run, three seeds, the same budget each.

Run: ``python -m benchmarks.bench_credit`` (about half an hour on two cores). Each run starts from the shipped warm
start; success is measured on held-out questions before and after. Writes ``benchmarks/results/credit.json`` and
``benchmarks/results/credit.html``; a finished run is not run again, and a stopped one goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.demo import CONFIG, HELD_OUT, OUTCOME_ONLY, held_out
from agents.evaluate import Summary
from agents.grpo import train
from agents.metrics import read_metrics
from agents.models import load_model
from agents.report import Result, Run, write_report
from toolenv.extras import require

RESULTS = Path(__file__).with_name("results")
SETTINGS = {"turn-level": CONFIG, "outcome only": OUTCOME_ONLY}
CURVES = ("update", "success_rate", "calls_per_episode", "reward/gold_passage", "entropy", "approx_kl")


def run(name: str, seed: int, folder: Path, count: int) -> dict[str, Any]:
    """One training run and its evaluation; read back where the same was done before."""
    done = folder / "result.json"
    config = replace(SETTINGS[name], seed=seed, output_dir=folder, resume=True)
    key = json.loads(json.dumps({"config": config.to_json(), "held_out": count}, default=str))
    if done.exists():
        result: dict[str, Any] = json.loads(done.read_text())
        if result["key"] == key:
            return result
        shutil.rmtree(folder)
    console = require("rich.console", "train").Console()
    trained = train(config)
    if trained.interrupted:
        raise KeyboardInterrupt
    policy = load_model(str(trained.checkpoint), device="cpu", precision="float32")
    summary = held_out(*policy, count, console, f"{name}, seed {seed}")
    metrics = [{key: row[key] for key in CURVES if key in row} for row in read_metrics(folder / "metrics.jsonl")]
    result = {"name": name, "seed": seed, **counts(summary), "metrics": metrics, "key": key}
    done.write_text(json.dumps(result))
    return result


def counts(summary: Summary) -> dict[str, Any]:
    """The numbers of an evaluation."""
    return {
        "successes": summary.successes,
        "episodes": summary.episodes,
        "interval": summary.interval,
        "calls_per_episode": summary.calls_per_episode,
    }


def main() -> None:
    """Run what is not done, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=list(SETTINGS), help="run one setting, write no results")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/credit"))
    options = parser.parse_args()
    console = require("rich.console", "train").Console()
    names = [options.only] if options.only else list(SETTINGS)
    folders = {(n, s): options.output_dir / f"{n.replace(' ', '-')}-{s}" for s in options.seeds for n in names}
    runs = [run(name, seed, folder, HELD_OUT) for (name, seed), folder in folders.items()]
    if options.only:
        return
    before = counts(held_out(*load_model("nano", device="cpu", precision="float32"), HELD_OUT, console, "warm start"))
    write(before, runs)
    for label, row in [("warm start", before), *((f"{r['name']}, seed {r['seed']}", r) for r in runs)]:
        low, high = row["interval"]
        rate = row["successes"] / row["episodes"]
        print(f"{label:24} {rate:6.1%} [{low:.1%}, {high:.1%}]  {row['calls_per_episode']:.2f} calls an episode")
    for name in names:
        rates = [r["successes"] / r["episodes"] for r in runs if r["name"] == name]
        print(f"{name:24} mean {statistics.mean(rates):.1%}, seeds {min(rates):.1%} to {max(rates):.1%}")


def write(before: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    """Write the results as JSON and as a page."""
    RESULTS.mkdir(exist_ok=True)
    kept = [{key: value for key, value in r.items() if key != "key"} for r in runs]
    (RESULTS / "credit.json").write_text(json.dumps({"before": before, "runs": kept}) + "\n")
    ordered = sorted(runs, key=lambda r: list(SETTINGS).index(r["name"]))
    rows = [_row("warm start", before), *(_row(f"{r['name']}, seed {r['seed']}", r) for r in ordered)]
    write_report(
        RESULTS / "credit.html",
        title="Turn-level against episode-level credit",
        summary="A nano policy on ToolSearchQA-v0, from one warm start, with one budget; held-out questions.",
        results=rows,
        runs=[Run(r["name"], r["metrics"]) for r in runs],
        facts={
            "Command": "python -m benchmarks.bench_credit",
            "Interval": "Wilson, 95%, over the questions of one run",
        },
    )


def _row(name: str, row: dict[str, Any]) -> Result:
    return Result(name, row["successes"], row["episodes"], tuple(row["interval"]), row["calls_per_episode"])


if __name__ == "__main__":
    main()
