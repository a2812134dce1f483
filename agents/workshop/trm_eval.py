"""``toolenv trm eval``: judge a reward model against labels, beside what the look of calls tells."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.workshop.places import folder_to_write

if TYPE_CHECKING:
    from rewards.training.labels.records import LabelledEpisode
    from rewards.training.trm.evaluate import Evaluation


def add_parser(actions: Any, shown: type[argparse.HelpFormatter]) -> None:
    """Its options."""
    parser = actions.add_parser("eval", help="judge a reward model against labels", formatter_class=shown)
    parser.add_argument("model", type=Path, help="folder of a reward model")
    parser.add_argument("labels", nargs="+", type=Path, help="label files of tasks that it was not trained on")
    parser.add_argument(
        "--label", choices=("value", "necessity", "quality"), help="judge by this (not given: what it was trained on)"
    )
    parser.add_argument(
        "--surface",
        type=Path,
        metavar="LABELS",
        help="also judge a baseline of turn, lengths and overlap, learned here",
    )
    parser.add_argument("--report", type=folder_to_write, help="folder for report.json and reliability.png")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap samples behind the intervals")
    parser.add_argument("--device", default="auto", help="as torch names it")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")


def run(options: argparse.Namespace) -> None:
    """Judge, print a table, and write the report where it is wanted."""
    from rewards.scoring import HFScorer
    from rewards.training.labels.records import read_labels
    from rewards.training.trm.evaluate import evaluate, score_calls, score_whole
    from rewards.training.trm.rows import task_key
    from rewards.training.trm.training import read_train_record, trained_tasks
    from toolenv.errors import ConfigError

    records = [record for path in options.labels for record in read_labels(path)]
    trained = read_train_record(options.model) or {"settings": {}}
    label = options.label or trained["settings"].get("label", "value")
    known = trained_tasks(options.model) & {task_key(record.episode) for record in records}
    if known:
        print(
            f"toolenv: {options.model} was trained on {len(known)} of these tasks, such as {min(known)!r}; "
            "the numbers say what it knows by heart",
            file=sys.stderr,
        )
    scorer = HFScorer.from_pretrained(options.model, device=options.device)
    whole = scorer.kind == "outcome"
    if whole and (options.surface or options.label):
        raise ConfigError("this model scores whole episodes: it takes neither --label nor --surface")
    scored = score_whole(scorer, records) if whole else score_calls(scorer, records, label)
    found = {"model": evaluate(scored, resamples=options.resamples, seed=options.seed)}
    if options.surface:
        found |= _baselines(list(read_labels(options.surface)), records, label, options)
    for name, evaluation in found.items():
        print(f"{options.model if name == 'model' else name}: {evaluation}\n")
    if options.report:
        _write(options, "success" if whole else label, found)


def _baselines(
    learned_from: list[LabelledEpisode], records: list[LabelledEpisode], label: Any, options: argparse.Namespace
) -> dict[str, Evaluation]:
    from rewards.training.trm.evaluate import evaluate, join_scores
    from rewards.training.trm.surface import BASELINES, SurfaceBaseline

    found = {}
    for name, (learner, seen) in BASELINES.items():
        baseline = SurfaceBaseline(learner, seen).fit(learned_from, label)
        scored = join_scores(records, baseline.probabilities(records), label)
        found[name] = evaluate(scored, resamples=options.resamples, seed=options.seed)
    return found


def _write(options: argparse.Namespace, label: str, found: dict[str, Evaluation]) -> None:
    """The report's folder."""
    from rewards.training.plots import draw_reliability

    options.report.mkdir(parents=True, exist_ok=True)
    record = {
        "model": str(options.model),
        "labels": [str(path) for path in options.labels],
        "label": label,
        "seed": options.seed,
        "resamples": options.resamples,
        **{name: evaluation.to_json() for name, evaluation in found.items()},
    }
    path = options.report / "report.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    bins = {n: [(b.mean_score, b.share_good, b.count) for b in e.bins] for n, e in found.items() if n == "model"}
    picture = draw_reliability(bins, options.report / "reliability.png", title=f"{options.model}: {label}")
    print(f"report: {path}\npicture: {picture}")
