"""``toolenv toolrm eval``: pairwise accuracy of reward models, judges and baselines on a benchmark of pairs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.workshop.places import folder_to_write

if TYPE_CHECKING:
    from agents.outcome_scorers import NamedScorer
    from rewards.training.bench.pairwise import PairScorer, Verdict
    from rewards.training.pairs.records import Pair

BASELINES = ("random", "length", "calls", "schema")
CHOSEN_ON_TRAINING = ("length", "calls")
"""Baselines whose direction is chosen on training pairs."""


def add_parser(actions: Any, shown: type[argparse.HelpFormatter]) -> None:
    """The options of ``toolenv toolrm eval``."""
    judge = actions.add_parser(
        "eval",
        help="pairwise accuracy on a benchmark of pairs: reward models, judges, baselines; goes on after a kill",
        formatter_class=shown,
    )
    judge.add_argument("bench", type=Path, help="the published file, one of toolrm build-bench, or a pairs file")
    judge.add_argument(
        "--scorer",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="a ToolRM checkpoint, or NAME=MODULE:ATTRIBUTE{JSON} of anything with score(conversations); the others "
        "are compared with the first",
    )
    judge.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="NAMES",
        help=f"some of {', '.join(BASELINES)}, loglik:MODEL, with commas between them",
    )
    judge.add_argument(
        "--judge", action="append", default=[], help="a judge: http://HOST/v1#MODEL, or a model's name, loaded here"
    )
    judge.add_argument(
        "--training-pairs",
        type=Path,
        help="pairs to choose on between shorter and longer, fewer and more calls",
    )
    judge.add_argument(
        "--report", type=folder_to_write, default=Path("runs/toolrm-eval"), help="folder of scores and report"
    )
    judge.add_argument("--limit", type=int, help="how many pairs to draw (not given: all)")
    judge.add_argument("--seed", type=int, default=0, help="of the draw, the random baseline, judges and intervals")
    judge.add_argument("--device", default="auto", help="as torch names it")
    judge.add_argument("--judge-votes", type=int, default=1, help="how often a judge is asked in each order")
    judge.add_argument("--judge-temperature", type=float, default=0.0, help="above 0 for several votes")
    judge.add_argument("--judge-tokens", type=int, default=256, help="longest reply of a judge")
    judge.add_argument("--judge-key-env", help="environment variable that holds the key of the judges' server")


def run(options: argparse.Namespace) -> int | None:
    """Score, compare, report."""
    from rewards.training.bench.fc_reward_bench import read_benchmark
    from rewards.training.bench.report import PairwiseReport
    from rewards.training.bench.scores import score_pairs
    from toolenv.errors import ConfigError, MissingExtraError

    makers = [*_scorers(options), *_baselines(options), *_judges(options)]
    if not makers:
        raise ConfigError("nothing to judge by; give a --scorer, a --baseline or a --judge")
    pairs = _draw(read_benchmark(options.bench), options)
    chosen = _choose(options)
    options.report.mkdir(parents=True, exist_ok=True)
    verdicts: dict[str, Sequence[Verdict]] = {}
    try:
        for make in makers:
            scorer = make()
            scores = score_pairs(pairs, scorer, options.report / "scores")
            for place, column in enumerate(scorer.columns):
                if column in verdicts:
                    raise ConfigError(f"two scorers are called {column!r}; write NAME=FOLDER")
                verdicts[column] = [row[place].verdict for row in scores]
    except KeyboardInterrupt:
        print(f"\nstopped; the scores are kept in {options.report}: the same command goes on", file=sys.stderr)
        raise
    report = PairwiseReport(pairs, verdicts, chosen, options.seed)
    record = {"benchmark": str(options.bench), "seed": options.seed, **report.to_json()}
    (options.report / "report.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{report}\nreport: {options.report / 'report.json'}")
    try:
        picture = report.draw(
            options.report / "by-error-type.png",
            scorers=_drawn(list(verdicts), chosen),
            title=f"{options.bench.name}: {len(pairs)} pairs",
        )
    except MissingExtraError as error:
        print(f"no picture: {error}")
    else:
        print(f"picture: {picture}")
    return None


# Inside ------------------------------------------------------------------------------------------------------------


def _scorers(options: argparse.Namespace) -> list[Callable[[], PairScorer]]:
    from agents.outcome_scorers import find_scorer

    return [_of_pairs(find_scorer(spec, options.device)) for spec in options.scorer]


def _of_pairs(found: NamedScorer) -> Callable[[], PairScorer]:
    def make() -> PairScorer:
        from rewards.training.bench.baselines import ConversationScorer

        return ConversationScorer(found.load(), found.name, settings=found.settings)

    return make


def _baselines(options: argparse.Namespace) -> list[Callable[[], PairScorer]]:
    from rewards.training.bench import baselines as pair_baselines
    from toolenv.errors import ConfigError

    made: dict[str, Callable[[], PairScorer]] = {
        "random": lambda: pair_baselines.RandomBaseline(options.seed),
        "length": pair_baselines.length_baseline,
        "calls": pair_baselines.call_count_baseline,
        "schema": pair_baselines.SchemaBaseline,
    }
    makers = []
    for name in (name for names in options.baseline for name in names.split(",")):
        kind, _, model = name.partition(":")
        if name not in made and not (kind == "loglik" and model):
            raise ConfigError(f"--baseline {name!r} is not known; choose from {', '.join(BASELINES)}, loglik:MODEL")
        makers.append(made[name] if name in made else _loglik(model, options.device))
    return makers


def _loglik(name: str, device: str) -> Callable[[], PairScorer]:
    def make() -> PairScorer:
        from agents.models import load_model
        from agents.outcome_scorers import fingerprint_of
        from rewards.training.bench.loglik import LogLikelihood

        model, tokenizer = load_model(name, device=device)
        settings = {"loglik": name, "precision": str(model.dtype), "files": fingerprint_of(Path(name))}
        return LogLikelihood(model, tokenizer, name, settings=settings)

    return make


def _judges(options: argparse.Namespace) -> list[Callable[[], PairScorer]]:
    def maker(spec: str) -> Callable[[], PairScorer]:
        def make() -> PairScorer:
            from agents.judges import make_judge
            from rewards.training.bench.judge import JudgedPairs

            chat = make_judge(
                spec,
                temperature=options.judge_temperature,
                max_tokens=options.judge_tokens,
                device=options.device,
                api_key_env=options.judge_key_env,
            )
            cache = options.report / "judge-replies.sqlite"
            name = spec.rpartition("#")[2]
            return JudgedPairs(chat, name, votes=options.judge_votes, cache=cache, seed=options.seed)

        return make

    return [maker(spec) for spec in options.judge]


def _draw(pairs: Sequence[Pair], options: argparse.Namespace) -> Sequence[Pair]:
    """Pairs of the benchmark, as many as are wanted."""
    from toolenv.errors import ConfigError
    from toolenv.seeding import rng

    if options.limit is None:
        return pairs
    if not 1 <= options.limit <= len(pairs):
        raise ConfigError(f"--limit must be from 1 to the {len(pairs)} pairs of {options.bench}; got {options.limit}")
    order = rng(options.seed, "limit").permutation(len(pairs))[: options.limit]
    return [pairs[index] for index in sorted(order)]


def _choose(options: argparse.Namespace) -> dict[str, str]:
    """Of each baseline that has two directions, the one that is right more often on training pairs."""
    if options.training_pairs is None:
        return {}
    from rewards.training.bench.baselines import best_column, call_count_baseline, length_baseline
    from rewards.training.pairs.records import read_pairs

    pairs = list(read_pairs(options.training_pairs))
    asked = {name for names in options.baseline for name in names.split(",")}
    made = {"length": length_baseline(), "calls": call_count_baseline()}
    return {name: best_column(made[name], pairs) for name in CHOSEN_ON_TRAINING if name in asked}


def _drawn(names: Sequence[str], chosen: Mapping[str, str]) -> list[str]:
    """What stands in the picture: of two opposite directions one, whose mirror image the other is."""
    left_out = {"length": "length: longer", "calls": "calls: more"}
    opposite = {"length: longer": "length: shorter", "calls: more": "calls: fewer"}
    left_out |= {family: opposite[name] for family, name in chosen.items() if name in opposite}
    return [name for name in names if name not in left_out.values()]
