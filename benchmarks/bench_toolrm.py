"""A ToolRM from BFCL's plain categories, judged on its live ones: ``python -m benchmarks.bench_toolrm``.

Four parts, each of which goes on where an earlier call was stopped: pairs, training, evaluation beside every baseline,
and use (best-of-n where a --policy is given, and the filtering of a training file with wrong rows). Numbers go to
``benchmarks/results/toolrm.json``, pictures to ``docs/images/toolrm-*.png``. BFCL must be there: toolenv fetch bfcl.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.cli import main as toolenv
from rewards.training.bench.baselines import answer_length, fits_schemas
from rewards.training.bench.kept_scores import conversation_key, keep_scores
from rewards.training.estimates import Estimate
from rewards.training.pairs.records import Output, Pair, output_conversation, read_pairs
from rewards.training.plots import draw_curves
from rewards.training.trm.metrics import mean_estimate, resampled_weights
from toolenv.seeding import rng

ROOT = Path(__file__).resolve().parents[1]
TRAINED_ON = "bfcl:simple,multiple,parallel,irrelevance"
JUDGED_ON = "bfcl:live_simple,live_multiple,live_parallel,live_parallel_multiple,live_irrelevance"
TRAINED_HOW = (
    "--lora-rank 0 --extra-layers 2 --upper-layers 5 --surprise 0.5 --own-rate 0.05 --learning-rate 1e-3 "
    "--warmup-share 0.04 --batch-pairs 24 --max-row-tokens 2048 --held-out 0.015 --eval-every 110 --patience 20"
)
BASELINES = "random,length,calls,schema"
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
RESAMPLES = 500
Curve = list[tuple[float, Estimate]]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    train, test = make_pairs(options)
    model = make_model(options, train)
    results: dict[str, Any] = {"command": command(options), "training": training_facts(model)}
    results["evaluation"] = evaluate(options, model, train, test)
    results["filter"] = filter_curves(options, model, test)
    if options.policy or options.answers:
        results["best_of_n"] = best_of_n(options, model)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"results: {options.results}")


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    words.add_argument("--work", type=Path, default=Path("runs/bench-toolrm"), help="pairs, model, scores, answers")
    words.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/toolrm.json", help="the numbers")
    words.add_argument("--images", type=Path, default=ROOT / "docs/images", help="folder of the pictures")
    words.add_argument("--train-tasks", default=TRAINED_ON, help="where the pairs to train on come from")
    words.add_argument("--test-tasks", default=JUDGED_ON, help="where the pairs to judge on come from")
    words.add_argument("--pairs", type=int, default=8800, help="to train on")
    words.add_argument("--test-pairs", type=int, default=1500, help="to judge on")
    words.add_argument("--wrong-calls", action="append", default=[], help="a file of models' wrong calls")
    words.add_argument("--model", default="smollm2-135m", help="backbone")
    words.add_argument("--loglik", default="smollm2-135m", help="language model of the likelihood baseline")
    words.add_argument("--train-options", default=TRAINED_HOW, help="further options of the training, as one text")
    words.add_argument("--train-file", type=Path, help="pairs to train on that are there already")
    words.add_argument("--test-file", type=Path, help="pairs to judge on that are there already")
    words.add_argument("--toolrm", type=Path, help="a ToolRM that is there already")
    words.add_argument("--judge", action="append", default=[], help="as for toolenv toolrm eval")
    words.add_argument("--limit", type=int, help="judge on so many pairs, drawn (not given: all)")
    words.add_argument("--policy", help="who answers in best-of-n (not given: that part is left out)")
    words.add_argument("--server", help="where the policy is served")
    words.add_argument("--answers", type=Path, help="answers of an earlier best-of-n, instead of a policy")
    words.add_argument("--best-of-n-tasks", type=int, default=200, help="how many tasks, of --test-tasks")
    words.add_argument("-n", type=int, default=8, help="answers a task")
    words.add_argument("--seed", type=int, default=0, help="of everything")
    words.add_argument("--device", default="auto", help="as torch names it")
    return words


def command(options: argparse.Namespace) -> str:
    """The call that makes these numbers; files of one machine by their names alone."""
    known = parser().parse_args([])
    words = ["python -m benchmarks.bench_toolrm"]
    for name, value in vars(options).items():
        if value != getattr(known, name) and name not in ("work", "results", "images"):
            option = "-n" if name == "n" else "--" + name.replace("_", "-")
            shown = [
                Path(v).name if Path(str(v)).is_absolute() else v
                for v in (value if isinstance(value, list) else [value])
            ]
            words += [f"{option} {v}" for v in shown]
    return " ".join(words)


def run(*words: object) -> None:
    """A command of toolenv; this ends where it fails."""
    print("toolenv", *words, flush=True)
    status = toolenv([str(word) for word in words])
    if status:
        raise SystemExit(status)


def make_pairs(options: argparse.Namespace) -> tuple[Path, Path]:
    """Pairs to train on, and pairs of other categories, functions and questions to judge on."""
    train = options.train_file or options.work / "train.jsonl"
    test = options.test_file or options.work / "test.jsonl"
    if options.train_file is None:
        wrong = [word for path in options.wrong_calls for word in ("--wrong-calls", path)]
        sizes = ("--pairs", options.pairs, "--per-prompt", 10, "--max-prompt-chars", 1600)
        run(
            "toolrm", "pairs", "--tasks", options.train_tasks, *sizes, *wrong, "--seed", options.seed, "--output", train
        )
    if options.test_file is None:
        sizes = ("--pairs", options.test_pairs, "--per-prompt", 2, "--max-prompt-chars", 2500)
        plain = ("--obfuscate", 0, "--withheld", 0, "--against", train, "--against-functions")
        run(
            "toolrm",
            "pairs",
            "--tasks",
            options.test_tasks,
            *sizes,
            *plain,
            "--seed",
            options.seed + 1,
            "--output",
            test,
        )
    return train, test


def make_model(options: argparse.Namespace, train: Path) -> Path:
    if options.toolrm is not None:
        return Path(options.toolrm)
    folder: Path = options.work / "toolrm"
    named = ("--model", options.model, "--output", folder, "--device", options.device, "--seed", options.seed)
    run("toolrm", "train", train, *named, *options.train_options.split())
    return folder


def training_facts(model: Path) -> dict[str, Any]:
    """How the model was made, without the course of the training."""
    record: dict[str, Any] = json.loads((model / "train.json").read_text(encoding="utf-8"))
    record["model"] = Path(record["model"]).name
    return {name: value for name, value in record.items() if name != "losses"}


def evaluate(options: argparse.Namespace, model: Path, train: Path, test: Path) -> dict[str, Any]:
    """Pairwise accuracy of the model and of every baseline."""
    folder = options.work / "eval"
    judges = [word for judge in options.judge for word in ("--judge", judge)]
    limit = ("--limit", options.limit) if options.limit else ()
    baselines = f"{BASELINES},loglik:{options.loglik}"
    chosen = ("--training-pairs", train, "--baseline", baselines, "--device", options.device, "--seed", options.seed)
    run("toolrm", "eval", test, "--scorer", f"ToolRM={model}", *chosen, *judges, *limit, "--report", folder)
    options.images.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "by-error-type.png", options.images / "toolrm-accuracy.png")
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {**report, "benchmark": Path(report["benchmark"]).name}


def filter_curves(options: argparse.Namespace, model: Path, test: Path) -> dict[str, Any]:
    """Half of the rows of a training file are wrong: how many of those that are kept are right."""
    from agents.outcome_scorers import find_scorer

    rows = training_rows(list(read_pairs(test)))
    scorer = find_scorer(f"ToolRM={model}", options.device)
    read = [output_conversation(pair.tools, pair.conversation, output) for pair, output, _ in rows]
    keys = [conversation_key(messages) for messages in read]
    scores = keep_scores(
        dict(zip(keys, read, strict=True)),
        scorer.load(),
        options.work / "filter",
        name=scorer.name,
        settings=scorer.settings,
    )
    draws = rng(options.seed, "filter").random(len(rows))
    ways = {
        "ToolRM": [-np.inf if (score := scores[key]) is None else score for key in keys],
        "schema": [
            float(fits_schemas(output, pair.tools)) + draw for (pair, output, _), draw in zip(rows, draws, strict=True)
        ],
        "shorter": [-answer_length(output) + draw for (_, output, _), draw in zip(rows, draws, strict=True)],
        "random": list(draws),
    }
    right = np.array([float(good) for _, _, good in rows])
    weights = resampled_weights([pair.test_id for pair, _, _ in rows], RESAMPLES, options.seed)
    curves = {name: kept_right(np.array(values), right, weights) for name, values in ways.items()}
    draw_curves(
        curves,
        options.images / "toolrm-filter.png",
        title=f"{len(rows)} rows, half of them wrong",
        x_label="share of the rows that is kept, the best first",
        y_label="share of them that is right",
    )
    listed = {name: [{"kept": share, **e._asdict()} for share, e in curve] for name, curve in curves.items()}
    return {"rows": len(rows), "right": float(right.mean()), "curves": listed}


def training_rows(pairs: Sequence[Pair]) -> list[tuple[Pair, Output, bool]]:
    """Of each prompt a right row and a wrong one."""
    first = {pair.prompt_key: pair for pair in reversed(pairs)}
    return [row for p in first.values() for row in ((p, p.chosen_output, True), (p, p.rejected_output, False))]


def kept_right(scores: Any, right: Any, weights: Any) -> Curve:
    """Share of right rows among the best, by how many are kept."""
    order = np.argsort(-scores, kind="stable")
    curve: Curve = []
    for share in SHARES:
        kept = order[: max(1, round(share * len(order)))]
        curve.append((share, mean_estimate(right[kept], weights[:, kept])))
    return curve


def best_of_n(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    """The best of several answers to the tasks that the model was not trained on."""
    folder = options.work / "best-of-n"
    who = (
        ("--answers", options.answers) if options.answers else ("--policy", options.policy, "-n", options.n, "--greedy")
    )
    served = ("--server", options.server) if options.server else ()
    asked = ("--tasks", options.test_tasks, "--limit", options.best_of_n_tasks, "--seed", options.seed)
    place = ("--output", folder, "--device", options.device)
    run("toolrm", "best-of-n", "--scorer", f"ToolRM={model}", *asked, *who, *served, *place)
    shutil.copyfile(folder / "best-of-n-ToolRM.png", options.images / "toolrm-best-of-n.png")
    report: dict[str, Any] = json.loads((folder / "best-of-n-ToolRM.json").read_text(encoding="utf-8"))
    return {name: value for name, value in report.items() if name != "answers"}


if __name__ == "__main__":
    main()
