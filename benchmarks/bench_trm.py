"""A nano TRM, judged: the oracle's labels on entities and sentences that it has not seen, beside what the look tells.

Run: ``python -m benchmarks.bench_trm``. It makes its data and models by the workshop's own commands, in ``--folder``;
what is done is not done again, and what was stopped goes on. The parts may be run one by one: ``--parts main``,
``random``, ``curves``, ``best-of-n``. Writes ``benchmarks/results/trm.json`` and ``docs/images/trm-*.png``; with
``--scale`` below 1, to try it out, these go into the folder.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents import cli
from agents.models import PLAYED_AS_FILE, load_model
from agents.nano import new_nano
from agents.renamed_labels import rename_labelled
from rewards.scoring import HFScorer
from rewards.training.estimates import Estimate
from rewards.training.labels.records import LabelledEpisode, read_labels
from rewards.training.plots import draw_bars, draw_curves, draw_reliability
from rewards.training.trm.evaluate import Evaluation, auc_of, evaluate, join_scores, score_calls
from rewards.training.trm.settings import TrainSettings
from rewards.training.trm.surface import BASELINES, SurfaceBaseline
from rewards.training.trm.training import read_train_record, train_reward_model
from toolenv.errors import ToolEnvError
from toolenv.extras import require
from toolenv.quiet import without_transformers_bars

RESULTS = Path(__file__).with_name("results") / "trm.json"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
PARTS = ("main", "random", "curves", "best-of-n")
SCRIPT = "scripted:agents.varied_searcher:VariedSearcher"
POLICIES: dict[str, list[str]] = {
    "scripted": ["--policy", SCRIPT, "--like", "nano", "--seed", "11"],
    "nano": ["--policy", "nano", "--max-new-tokens", "24", "--seed", "1"],
}
EPISODES = {
    ("train", "seen"): {"scripted": (6000, 6), "nano": (1500, 1)},
    ("test", "held_out"): {"scripted": (1000, 1), "nano": (300, 1)},
    ("test", "seen"): {"scripted": (300, 1), "nano": (75, 1)},
}
"""By split and wording: tasks, and episodes of each, of each policy. The test questions ask for entities that no
training question does."""
RENAMING = ["--copies", "1", "--real-share", "0.25"]
"""Each training episode is seen once, three of four with other names: by those a model learns to read."""
TRAINING = ["--extra-layers", "2", "--epochs", "1", "--learning-rate", "5e-4", "--eval-every", "200"]
TRAINING += ["--patience", "50", "--held-out-share", "0.01", "--device", "cpu"]
GROWN = "warm start, 2 extra layers"
SIZES = {"2 layers of 64": (2, 64), "4 layers of 128": (4, 128), "6 layers of 192": (6, 192)}
AMOUNTS = (300, 1000, 3000)
CURVE_UPDATES = 300
"""Updates whose episodes each model of the curves gets; a twentieth of the tasks is held out of them."""
SEEDS = (0, 1)
ON_ORM = ["--level", "episode", "--epochs", "1", "--learning-rate", "5e-4", "--device", "cpu"]


def main() -> int:
    """Run what is not done, then write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench_trm"), help="data and models")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to run")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the episodes, to try it out in a folder of its own"
    )
    options = parser.parse_args()
    bench = Bench(options.folder, options.scale)
    try:
        for part in options.parts:
            bench.part(part)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 130
    except ToolEnvError as error:
        print(error, file=sys.stderr)
        return 1
    whole = options.scale == 1.0
    path = RESULTS if whole else options.folder / RESULTS.name
    write(bench.results(), path, IMAGES if whole else options.folder)
    print(f"results: {path}")
    return 0


class Bench:
    """The benchmark in its folder.

    Args:
        folder: Data, models and the results of each part.
        scale: Share of the episodes.
    """

    def __init__(self, folder: Path, scale: float = 1.0) -> None:
        self.folder, self.scale = folder, scale
        folder.mkdir(parents=True, exist_ok=True)

    def part(self, name: str) -> None:
        """Run a part, unless its results stand there.

        Raises:
            ToolEnvError: Results of another scale stand there, or a command failed.
        """
        path = self._path(name)
        if path.exists():
            if (scale := json.loads(path.read_text())["scale"]) != self.scale:
                raise ToolEnvError(f"{path} is of --scale {scale}, not {self.scale}; give another --folder")
            return
        work: dict[str, Callable[[], dict[str, Any]]] = {
            "main": lambda: self._judged("warm", "nano"),
            "random": lambda: self._judged("random", str(self._random_weights())),
            "curves": self._curves,
            "best-of-n": self._best_of_n,
        }
        print(f"part {name}", file=sys.stderr)
        started, used = time.monotonic(), _cpu_s()
        found = work[name]()
        record = {**found, "wall_s": time.monotonic() - started, "cpu_s": _cpu_s() - used, "scale": self.scale}
        path.write_text(json.dumps(record, indent=1) + "\n")

    def results(self) -> dict[str, Any]:
        """What the parts that were run came to."""
        return {name: json.loads(self._path(name).read_text()) for name in PARTS if self._path(name).exists()}

    # Inside --------------------------------------------------------------------------------------------------------

    def _path(self, part: str) -> Path:
        return self.folder / f"part-{part}.json"

    def _labels(self, split: str, wording: str) -> Path:
        """The label file of a split, made by the commands."""
        output = self.folder / f"{split}-{wording}.jsonl"
        folders = []
        for policy, (tasks, samples) in EPISODES[split, wording].items():
            folder = self.folder / f"{split}-{wording}-{policy}"
            words = ["collect", *POLICIES[policy], "--split", split, "--samples", str(samples)]
            words += ["--episodes", str(max(8, round(tasks * self.scale)))]
            _trm([*words, "--env-kwargs", json.dumps({"wording": wording}), "--output", str(folder)])
            folders.append(str(folder))
        _trm(["label", *folders, "--by", "oracle", "--deduplicate", "--output", str(output)])
        return output

    def _renamed(self) -> Path:
        output = self.folder / "train-renamed.jsonl"
        _trm(["rename", str(self._labels("train", "seen")), *RENAMING, "--output", str(output)])
        return output

    def _model(self, name: str, start: str) -> Path:
        """A trained model; the random start is no ``nano`` by name, but learns at the same rate."""
        folder = self.folder / f"trm-{name}"
        _trm(["train", str(self._renamed()), "--model", start, *TRAINING, "--output", str(folder)])
        return folder

    def _judged(self, name: str, start: str) -> dict[str, Any]:
        """A model and the baselines on unseen entities, in unseen and in seen sentences."""
        model = self._model(name, start)
        learned = list(read_labels(self._labels("train", "seen")))
        scorer = HFScorer.from_pretrained(model, device="cpu")
        found: dict[str, Any] = {"record": read_train_record(model)}
        for wording in ("held_out", "seen"):
            records = list(read_labels(self._labels("test", wording)))
            judged = {"TRM": evaluate(score_calls(scorer, records)), **_baselines(learned, records)}
            print(f"{name}, {wording} sentences: {judged['TRM']}")
            print("\n".join(f"{n}: AUC {e.auc}" for n, e in judged.items() if n != "TRM"))
            found[wording] = {n: e.to_json() for n, e in judged.items()}
        return found

    def _random_weights(self) -> Path:
        """A nano model with drawn weights, as a folder."""
        folder = self.folder / "nano-random"
        if not (folder / PLAYED_AS_FILE).exists():
            _, tokenizer = load_model("nano", device="cpu")
            with without_transformers_bars():
                new_nano(tokenizer, seed=0).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            (folder / PLAYED_AS_FILE).write_text(json.dumps({"played_as": "nano"}) + "\n")
        return folder

    def _curves(self) -> dict[str, Any]:
        """Models of several sizes, from drawn weights, and several amounts of data: the same number of updates each."""
        train = list(read_labels(self._labels("train", "seen")))
        order = np.random.default_rng(0).permutation(len(train))
        test = list(read_labels(self._labels("test", "held_out")))
        cells = [(size, AMOUNTS[-1]) for size in SIZES]
        cells += [(start, amount) for start in ("warm start", GROWN) for amount in AMOUNTS]
        found: list[dict[str, Any]] = []
        for size, amount in cells:
            for seed in SEEDS:
                some = [train[i] for i in order[: max(16, round(amount * self.scale))]]
                folder = self.folder / "curves" / f"{size}-{amount}-{seed}".replace(" ", "-")
                made = _cell(size, some, test, folder, seed, max(2, round(CURVE_UPDATES * self.scale)))
                found.append({"size": size, "amount": amount, "episodes": len(some), "seed": seed, **made})
                print(f"{size}, {amount} episodes, seed {seed}: AUC {found[-1]['auc']:.3f}")
        return {"cells": found}

    def _best_of_n(self) -> dict[str, Any]:
        """The warm-started policy, its episodes chosen by the models."""
        trm, orm = self._model("warm", "nano"), self.folder / "orm"
        # It goes on from the model of calls, which has learned to read.
        _trm(["train", str(self._labels("train", "seen")), "--model", str(trm), *ON_ORM, "--output", str(orm)])
        output = self.folder / "best-of-n"
        count = str(max(8, round(100 * self.scale)))
        words = ["best-of-n", "--trm", str(trm), "--orm", str(orm), "--episodes", count, "--samples", "8"]
        held_out = ["--env-kwargs", json.dumps({"wording": "held_out"}), "--device", "cpu"]
        _trm([*words, *held_out, "--max-new-tokens", "48", "--output", str(output)])
        record: dict[str, Any] = json.loads((output / "best_of_n.json").read_text())
        return record


def write(results: Mapping[str, Any], path: Path, images: Path) -> None:
    """The results and their pictures."""
    path.write_text(json.dumps({"command": "python -m benchmarks.bench_trm", **results}, indent=1) + "\n")
    if "main" in results:
        shown = results["main"]["held_out"]
        bins = {"TRM": [(b["mean_score"], b["share_good"], b["count"]) for b in shown["TRM"]["bins"]]}
        draw_reliability(bins, images / "trm-reliability.png", title="Nano TRM on unseen entities and sentences")
        names = {"unseen sentences": "held_out", "seen sentences": "seen"}
        bars = {
            name: {who: Estimate(*each["auc"]) for who, each in results["main"][key].items()}
            for name, key in names.items()
        }
        draw_bars(
            bars, images / "trm-auc.png", title="Calls about unseen entities", y_label="AUC", lines={"goal": 0.95}
        )
    if "curves" in results:
        cells = results["curves"]["cells"]
        sizes = {
            size: [(a, _over_seeds(cells, size, a)) for a in AMOUNTS if any(_is(c, size, a) for c in cells)]
            for size in dict.fromkeys(cell["size"] for cell in cells)
        }
        updates = sorted({cell["updates"] for cell in cells})
        spread = f"{updates[0]}" if len(updates) == 1 else f"{updates[0]} to {updates[-1]}"
        title = f"{spread} updates each, seeds' mean and range"
        draw_curves(
            sizes, images / "trm-curves.png", title=title, x_label="labelled episodes", y_label="AUC", log_x=True
        )
    if "best-of-n" in results:
        curves = {
            name: [(point["n"], Estimate(point["value"], point["low"], point["high"])) for point in points]
            for name, points in results["best-of-n"]["curves"].items()
        }
        draw_curves(
            curves,
            images / "trm-best-of-n.png",
            title="Choosing one of n",
            x_label="episodes a task",
            y_label="share of tasks that are right",
            log_x=True,
        )


def _trm(words: Sequence[str]) -> None:
    """Run one of the workshop's commands.

    Raises:
        ToolEnvError: It failed; it has said why.
    """
    status = cli.main(["trm", *words])
    if status == cli.EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise ToolEnvError(f"toolenv trm {words[0]} failed")


def _baselines(learned: Sequence[LabelledEpisode], records: Sequence[LabelledEpisode]) -> dict[str, Evaluation]:
    found = {}
    for name, (learner, seen) in BASELINES.items():
        baseline = SurfaceBaseline(learner, seen).fit(learned)
        found[name] = evaluate(join_scores(records, baseline.probabilities(records)))
    return found


def _cell(
    size: str, some: Sequence[LabelledEpisode], test: Sequence[LabelledEpisode], folder: Path, seed: int, updates: int
) -> dict[str, Any]:
    """One point of the curves. Of what so many updates take, a share is held out to choose the best weights by."""
    settings = TrainSettings(
        extra_layers=2 if size == GROWN else 0,
        learning_rate=5e-4 if size == GROWN else 1e-3,
        epochs=1,
        batch_episodes=16,
        eval_every=75,
        patience=50,
        held_out=0.05,
        seed=seed,
    )
    records = copies_in_turn(some, updates * settings.batch_episodes, seed)
    trained = train_reward_model(records, lambda: _start(size, seed), folder, settings, name=size, device="cpu")
    scored = score_calls(HFScorer.from_pretrained(folder, device="cpu"), test)
    return {"auc": auc_of(scored), "held_out_auc": trained.best.auc, "updates": trained.looks[-1].update}


def copies_in_turn(some: Sequence[LabelledEpisode], count: int, seed: int) -> list[LabelledEpisode]:
    """So many renamed copies, of one episode as many as of another, or one more."""
    copies = -(-count // len(some))
    by_episode = list(rename_labelled(some, copies, seed=seed))
    return [by_episode[i * copies + copy] for copy in range(copies) for i in range(len(some))][:count]


def _start(size: str, seed: int) -> tuple[Any, Any]:
    """A causal model of a size, with drawn weights, or the warm start."""
    model, tokenizer = load_model("nano", device="cpu")
    if size not in SIZES:
        return model, tokenizer
    layers, hidden = SIZES[size]
    torch, transformers = require("torch", "train"), require("transformers", "train")
    shape = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": 2 * hidden, "layer_types": None}
    config = transformers.Qwen2Config.from_dict({**new_nano(tokenizer).config.to_dict(), **shape})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.Qwen2ForCausalLM(config), tokenizer


def _is(cell: Mapping[str, Any], size: str, amount: int) -> bool:
    return (cell["size"], cell["amount"]) == (size, amount)


def _over_seeds(cells: Sequence[Mapping[str, Any]], size: str, amount: int) -> Estimate:
    """Mean and range over the seeds."""
    found = [cell["auc"] for cell in cells if _is(cell, size, amount)]
    return Estimate(float(np.mean(found)), min(found), max(found))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
