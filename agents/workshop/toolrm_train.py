"""``toolenv toolrm train``: a reward model of tool calls from preference pairs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from agents.workshop.places import folder_to_write


def add_parser(actions: Any, shown: type[argparse.HelpFormatter]) -> None:
    """Its options: by name, the fields of ``rewards.training.toolrm.settings.ToolRMConfig``."""
    parser = actions.add_parser(
        "train", help="train a ToolRM on preference pairs; the same call goes on after a kill", formatter_class=shown
    )
    parser.add_argument("pairs", nargs="+", type=Path, help="files of pairs, as toolenv toolrm pairs writes them")
    parser.add_argument("--model", required=True, help="smollm2-135m, a folder, a .gguf file or a hub name")
    parser.add_argument("--output", type=folder_to_write, required=True, help="folder of the reward model")
    parser.add_argument("--limit", type=int, help="take the first so many pairs (not given: all)")
    parser.add_argument("--device", default="auto", help="as torch names it")
    trained = parser.add_argument_group("what is trained")
    trained.add_argument("--lora-rank", type=int, default=16, help="rank of LoRA, beside the head; 0: the weights")
    trained.add_argument("--lora-alpha", type=float, help="its scale, over the rank (not given: twice the rank)")
    trained.add_argument("--upper-layers", type=int, help="train the last so many layers alone (not given: all)")
    trained.add_argument("--layers", type=int, help="keep the first so many layers of the model (not given: all)")
    trained.add_argument("--extra-layers", type=int, default=0, help="new layers on top; with --lora-rank 0")
    trained.add_argument(
        "--surprise", type=float, default=0.0, help="weight of a loss that teaches them what the model expected"
    )
    trained.add_argument(
        "--own-rate", type=float, default=1.0, help="share of the learning rate for layers that the model had before"
    )
    trained.add_argument(
        "--keep-lower", action="store_true", help="run the layers below --upper-layers once, and keep what they give"
    )
    trained.add_argument("--precision", default="bfloat16", help="of matrix products: bfloat16 or float32")
    steps = parser.add_argument_group("how")
    steps.add_argument("--centring", type=float, default=0.01, help="weight of the squared sum of a pair's rewards")
    steps.add_argument("--learning-rate", type=float, default=2e-4, help="peak, of AdamW; without LoRA take about 2e-5")
    steps.add_argument("--warmup-share", type=float, default=0.05, help="share of the updates in which it rises")
    steps.add_argument("--weight-decay", type=float, default=0.01, help="decoupled")
    steps.add_argument("--max-grad-norm", type=float, default=1.0, help="gradients are clipped to it")
    steps.add_argument("--epochs", type=float, default=1.0, help="passes over the pairs")
    steps.add_argument("--batch-pairs", type=int, default=32, help="pairs an update, about")
    steps.add_argument("--micro-rows", type=int, default=1, help="rows (or pairs, by the layout) that run at once")
    steps.add_argument("--max-length", type=int, help="leave out pairs of more tokens (not given: as the model takes)")
    steps.add_argument("--max-row-tokens", type=int, default=1024, help="a row takes no further pair beyond this")
    steps.add_argument(
        "--layout", default="auto", help="shared: pairs of one prompt hold it once; pairs: TRL's; auto: where it can be"
    )
    steps.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    steps.add_argument("--seed", type=int, default=0, help="draws the head, the held-out tasks and the order")
    looks = parser.add_argument_group("when it stops")
    looks.add_argument("--held-out", type=float, default=0.05, help="share of the tasks that is held out")
    looks.add_argument(
        "--eval-every", type=int, help="updates between looks, each a checkpoint (not given: a tenth of an epoch)"
    )
    looks.add_argument("--patience", type=int, default=5, help="looks without a better accuracy after which it stops")


def run(options: argparse.Namespace) -> None:
    """Train, and say what came of it."""
    from dataclasses import fields
    from itertools import islice

    from agents.models import load_model
    from rewards.training.pairs.records import read_pairs
    from rewards.training.toolrm.settings import ToolRMConfig
    from rewards.training.toolrm.training import train_toolrm
    from toolenv.errors import ConfigError

    config = ToolRMConfig(**{field.name: getattr(options, field.name) for field in fields(ToolRMConfig)})
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit must be at least 1, not {options.limit}")
    pairs = list(islice((pair for path in options.pairs for pair in read_pairs(path)), options.limit))
    try:
        record = train_toolrm(
            pairs, options.model, options.output, config, load_model=load_model, device=options.device
        )
    except KeyboardInterrupt:
        print(f"\nstopped; the last checkpoint is kept in {options.output}: the same command goes on", file=sys.stderr)
        raise
    train, held_out = record["train"], record["held_out_of_training"]
    left_out = f"; {record['too_long']} pairs were too long" if record["too_long"] else ""
    print(f"{options.model}: {record['trained_parameters']:,} of {record['parameters']:,} weights trained")
    print(f"trained on {train['pairs']} pairs of {train['tasks']} tasks, {record['updates']} updates{left_out}")
    print(
        f"held-out accuracy {record['held_out_accuracy']:.3f} on {held_out['pairs']} pairs of {held_out['tasks']} "
        f"other tasks, at the best look, update {record['best_update']}"
    )
    print(f"reward model: {options.output}")
