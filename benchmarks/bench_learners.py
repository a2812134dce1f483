"""Turn-level against outcome-only credit, for GRPO and for PPO, where episodes are few.

The nano policy starts from its warm start and has 32 episodes an update, with one budget and three seeds a setting;
every tenth update it is asked the same 400 held-out questions. Compared is how many episodes the mean over seeds
needs to answer 55 % of them, and 57.5 %.

Run: ``python -m benchmarks.bench_learners --jobs 2`` (about an hour on two cores; a finished run is not run again, and
a stopped one goes on). Writes ``benchmarks/results/learners.json`` and ``.html``, and the picture
``docs/images/learners.png``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents import grpo, ppo
from agents.config import GRPOConfig, PPOConfig, TrainConfig
from agents.evaluate import wilson_interval
from agents.metrics import read_metrics
from agents.report import Result, Run, write_report
from toolenv.extras import require

RESULTS = Path(__file__).with_name("results")
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "learners.png"
TARGETS = (0.55, 0.575)
HELD_OUT = 400
SHARED: dict[str, Any] = {
    "model": "nano", "device": "cpu", "num_updates": 80, "num_envs": 64, "max_new_tokens": 24, "learning_rate": 2e-4,
    "warmup": 5, "micro_batch_episodes": 32, "checkpoint_every": 10, "eval_every": 10, "eval_episodes": HELD_OUT,
}  # fmt: skip
TURNS: dict[str, Any] = {"process": ("rewards:GoldPassageFn",), "alpha": 1.0, "gamma": 0.6}
GROUPS: dict[str, Any] = {"groups_per_update": 8, "group_size": 4, **SHARED}
CRITIC: dict[str, Any] = {"episodes_per_update": 32, "critic_learning_rate": 1e-3, **SHARED}
SETTINGS: dict[str, TrainConfig] = {
    "GRPO, turn-level": GRPOConfig(**GROUPS, **TURNS, estimator_kwargs={"hold_outcome": True}),
    "GRPO, outcome only": GRPOConfig(**GROUPS, estimator="grpo"),
    "PPO, turn-level": PPOConfig(**CRITIC, **TURNS, gae_lambda=0.95),
    "PPO, outcome only": PPOConfig(**CRITIC, estimator="token_gae"),
}
CURVES = ("update", "eval/success_rate", "success_rate", "calls_per_episode", "reward/gold_passage", "entropy",
          "approx_kl", "explained_variance")  # fmt: skip


def train(name: str, seed: int, folder: Path) -> None:
    """One run, from where it was left."""
    config = replace(SETTINGS[name], seed=seed, output_dir=folder, resume=True)
    trained = grpo.train(config) if isinstance(config, GRPOConfig) else ppo.train(config)  # type: ignore[arg-type]
    if trained.interrupted:
        raise KeyboardInterrupt


def held_out(metrics: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Held-out success by update."""
    return {row["update"]: row["eval/success_rate"] for row in metrics if "eval/success_rate" in row}


def first_reached(curve: Mapping[int, float], target: float, episodes: int) -> int | None:
    """Episodes after which a curve first stands at ``target``; ``None``: it never does.

    Example:
        >>> first_reached({0: 0.1, 5: 0.3}, 0.25, episodes=96)
        480
    """
    reached = [update for update, rate in sorted(curve.items()) if rate >= target]
    return reached[0] * episodes if reached else None


def summary(runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> dict[str, Any]:
    """What the runs of each setting came to; one list of metrics a seed."""
    found = {}
    for name, seeds in runs.items():
        curves, episodes = [held_out(metrics) for metrics in seeds], SETTINGS[name].episodes
        mean = {update: statistics.mean(curve[update] for curve in curves) for update in curves[0]}
        found[name] = {
            "held_out": mean,
            "episodes_to": {str(target): first_reached(mean, target, episodes) for target in TARGETS},
            "by_seed": {str(target): [first_reached(c, target, episodes) for c in curves] for target in TARGETS},
            "last": [curve[max(curve)] for curve in curves],
        }
    return found


def write(found: Mapping[str, Any], runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> None:
    """Write the results as JSON and as a page."""
    RESULTS.mkdir(exist_ok=True)
    kept = {
        name: [[{key: row[key] for key in CURVES if key in row} for row in metrics] for metrics in seeds]
        for name, seeds in runs.items()
    }
    facts = {"targets": TARGETS, "held_out_questions": HELD_OUT, "summary": found, "runs": kept}
    (RESULTS / "learners.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
    rows = []
    for name, seeds in kept.items():
        for seed, metrics in enumerate(seeds):
            successes = round(found[name]["last"][seed] * HELD_OUT)
            calls = metrics[-1]["calls_per_episode"]
            rows.append(
                Result(f"{name}, seed {seed}", successes, HELD_OUT, wilson_interval(successes, HELD_OUT), calls)
            )
    write_report(
        RESULTS / "learners.html",
        title="Turn-level against outcome-only credit, GRPO and PPO",
        summary="The nano policy goes on from its warm start with 32 episodes an update; one budget each.",
        results=rows,
        runs=[Run(name, metrics) for name, seeds in kept.items() for metrics in seeds],
        facts={
            "Command": "python -m benchmarks.bench_learners",
            "Interval": "Wilson, 95%, over the questions of a run",
        },
    )


def draw(runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], path: Path) -> None:
    """Draw held-out success over episodes: the mean over seeds, and each seed faintly; a panel a trainer."""
    figure = require("matplotlib.figure", "train").Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    panels = dict(zip(("GRPO", "PPO"), axes, strict=True))
    for name, seeds in runs.items():
        trainer, _, credit = name.partition(", ")
        panel = panels[trainer]
        color = "#0b6e4f" if credit == "turn-level" else "#b3541e"
        curves = [held_out(metrics) for metrics in seeds]
        at = [update * SETTINGS[name].episodes for update in sorted(curves[0])]
        for curve in curves:
            panel.plot(at, [curve[update] for update in sorted(curve)], color=color, alpha=0.25, linewidth=1)
        means = [statistics.mean(curve[update] for curve in curves) for update in sorted(curves[0])]
        panel.plot(at, means, color=color, linewidth=2.2, label=credit)
        panel.set(title=trainer, xlabel="episodes played")
    for panel in axes:
        for target in TARGETS:
            panel.axhline(target, color="#888888", linewidth=1, linestyle=":")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, loc="upper left")
    axes[0].set_ylabel(f"success on {HELD_OUT} held-out questions")
    axes[0].yaxis.set_major_formatter("{x:.0%}")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run what is not done, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=list(SETTINGS), help="run one setting, write no results")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/learners"))
    options = parser.parse_args()
    folders = {
        name: [options.output_dir / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}" for seed in options.seeds]
        for name in SETTINGS
    }
    if options.only:
        for seed, folder in zip(options.seeds, folders[options.only], strict=True):
            train(options.only, seed, folder)
        return
    command = [sys.executable, "-m", "benchmarks.bench_learners", "--output-dir", str(options.output_dir)]
    with ThreadPoolExecutor(options.jobs) as pool:
        words = [[*command, "--only", name, "--seeds", str(seed)] for seed in options.seeds for name in SETTINGS]
        for _ in pool.map(lambda line: subprocess.run(line, check=True), words):
            pass
    runs = {name: [read_metrics(folder / "metrics.jsonl") for folder in those] for name, those in folders.items()}
    found = summary(runs)
    write(found, runs)
    draw(runs, IMAGE)
    for name, row in found.items():
        curve = ", ".join(f"{update}: {rate:.1%}" for update, rate in row["held_out"].items())
        print(f"{name:20} episodes to {row['episodes_to']}, by seed {row['by_seed']}; {curve}")


if __name__ == "__main__":
    main()
