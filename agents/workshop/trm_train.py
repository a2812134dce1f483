"""``toolenv trm train``: train a reward model of calls, or of whole episodes, on labels."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from agents.workshop.places import folder_to_write

LEVELS = ("call", "episode")
LABELS = ("value", "necessity", "quality")
LEARNING_RATES = {"nano": 1.5e-3, "lora": 1e-4, "full": 1e-5}
"""Where none is given: of the nano model, of LoRA, of any other model trained whole."""


def add_parser(actions: Any, shown: type[argparse.HelpFormatter]) -> None:
    """Its options."""
    parser = actions.add_parser(
        "train", help="train a reward model on labels; the same call goes on after a kill", formatter_class=shown
    )
    parser.add_argument("labels", nargs="+", type=Path, help="label files of 'trm label'")
    parser.add_argument("--model", default="nano", help="nano, smollm2-135m, a folder, a .gguf file or a hub name")
    parser.add_argument("--output", type=folder_to_write, required=True, help="folder of the reward model")
    parser.add_argument("--held-out", type=Path, help="label file for early stopping (not given: some of the tasks)")
    parser.add_argument("--held-out-share", type=float, default=0.1, help="share of the tasks that is held out then")
    parser.add_argument("--level", choices=LEVELS, default="call", help="score calls, or whole episodes (on success)")
    parser.add_argument("--label", choices=LABELS, default="value", help="what calls are judged by")
    parser.add_argument(
        "--soft", action="store_true", help="learn soft values where there are any (Monte-Carlo labels)"
    )
    parser.add_argument("--lora-rank", type=int, default=0, help="rank of LoRA; 0: train all weights")
    parser.add_argument("--extra-layers", type=int, default=0, help="new layers on top of the model; try 2 with nano")
    parser.add_argument("--learning-rate", type=float, help="not given: 1.5e-3 for nano, 1e-4 with LoRA, else 1e-5")
    parser.add_argument("--epochs", type=int, default=4, help="most rounds through the data")
    parser.add_argument("--batch-episodes", type=int, default=16, help="episodes an update")
    parser.add_argument("--accumulate", type=int, default=1, help="parts in which they run, to save memory")
    parser.add_argument("--eval-every", type=int, help="updates between looks (not given: two looks an epoch)")
    parser.add_argument("--patience", type=int, default=4, help="looks without a better AUC before it stops")
    parser.add_argument("--max-length", type=int, help="most tokens of an episode (not given: what the model takes)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the weights")
    parser.add_argument("--bf16", action="store_true", help="run matrix products in bfloat16")
    parser.add_argument("--device", default="auto", help="as torch names it")
    parser.add_argument("--seed", type=int, default=0, help="of the head, the split and the order")


def run(options: argparse.Namespace) -> None:
    """Train, and say how good the model is on what was held out."""
    from agents.models import find_device, load_model
    from rewards.training.labels.records import read_labels
    from rewards.training.trm.training import read_train_record, train_reward_model
    from toolenv.quiet import without_load_report

    records = [record for path in options.labels for record in read_labels(path)]
    held_out = None if options.held_out is None else list(read_labels(options.held_out))
    device = find_device(options.device)

    def load() -> tuple[Any, Any]:
        print(f"loading {options.model}", file=sys.stderr)
        # Of a reward model the backbone is taken, so that its head has no place here and that of tokens is missing.
        is_reward_model = read_train_record(options.model) is not None
        with without_load_report() if is_reward_model else nullcontext():
            return load_model(options.model, device=device, precision=options.precision)

    trained = train_reward_model(
        records, load, options.output, _settings(options), held_out=held_out, name=str(options.model), device=device
    )
    best, record = trained.best, trained.record
    print(f"trained on {record['train_episodes']} episodes, looked at {record['held_out_episodes']}; {record['data']}")
    print(f"held-out AUC {best.auc:.3f}, accuracy {best.accuracy:.3f}, loss {best.bce:.3f}, at update {best.update}")
    print(f"model: {trained.folder}")


def _settings(options: argparse.Namespace) -> Any:
    from rewards.training.trm.settings import TrainSettings

    return TrainSettings(
        level=options.level,
        label=options.label,
        soft=options.soft,
        lora_rank=options.lora_rank,
        extra_layers=options.extra_layers,
        learning_rate=LEARNING_RATES[_kind(options)] if options.learning_rate is None else options.learning_rate,
        epochs=options.epochs,
        batch_episodes=options.batch_episodes,
        accumulate=options.accumulate,
        eval_every=options.eval_every,
        patience=options.patience,
        held_out=options.held_out_share,
        max_length=options.max_length,
        bf16=options.bf16,
        seed=options.seed,
    )


def _kind(options: argparse.Namespace) -> str:
    """Which of the usual learning rates fits."""
    from agents.models import played_as
    from rewards.training.trm.training import read_train_record

    if options.lora_rank:
        return "lora"
    start = options.model
    while (record := read_train_record(start)) is not None:  # a reward model is as large as what it was made from
        start = record["model"]
    return "nano" if played_as(start) == "nano" else "full"
