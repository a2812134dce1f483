"""``python -m agents.sft``: from stored episodes to a model that plays like them.

The episodes are those that ``toolenv eval`` or a training run wrote, or an expert's; of these, the ones that succeeded
are learned from. The result is a plain model, also where LoRA was trained: the next training starts from it, adds LoRA
of its own, and has it as the reference.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agents.command_line import parse_command_line, say_failed
from agents.lora import add_lora, save_merged
from agents.models import PLAYED_AS_FILE, Precision, load_model, played_as
from agents.recompute import enable_gradient_checkpointing
from agents.sft import Evaluation, SFTConfig, fit
from agents.tokens import ConversationEncoder
from rewards import OutcomeFn, RewardSum
from rewards.options import check_choice
from toolenv.data.jsonl import read_records
from toolenv.episode import Episode
from toolenv.errors import ConfigError, DataError, ToolEnvError
from toolenv.formats import make_format
from toolenv.seeding import rng

RECORD_FILE = "sft.json"
"""Settings, how many episodes were learned from, and the looks at the held-out loss."""
_STATE_FILE = "sft.pt"


@dataclass(frozen=True)
class WarmStartConfig(SFTConfig):
    """Settings of ``python -m agents.sft``; the rest is ``SFTConfig``'s.

    Attributes:
        model: What agents.models.load_model takes: nano, a folder, a .gguf file, a model hub's name.
        episodes: JSONL files of episodes, as toolenv eval and training runs write them; may be given several times.
        keep: Which episodes are learned from: successes (outcome 1) or all.
        output_dir: Where the model goes. Where a run was stopped there, the same command goes on.
        validation_share: Share of the tasks whose episodes are held out.
        lora_rank: Train LoRA matrices of this rank instead of the weights; 0: the weights.
        lora_alpha: Scale of LoRA, over the rank; by default twice the rank.
        gradient_checkpointing: Make activations again in the backward pass instead of keeping them.
        device: Where the model runs: cpu, cuda, cuda:1, ...; auto: CUDA where there is one.
        precision: Of the weights: float32 or bfloat16.

    Raises:
        ConfigError: Values that are out of range.

    Example:
        >>> WarmStartConfig()
        Traceback (most recent call last):
        toolenv.errors.ConfigError: episodes names no file; toolenv eval writes one
    """

    model: str = "nano"
    episodes: tuple[Path, ...] = ()
    keep: Literal["successes", "all"] = "successes"
    output_dir: Path = Path("runs/sft")
    validation_share: float = 0.1
    lora_rank: int = 0
    lora_alpha: float | None = None
    gradient_checkpointing: bool = False
    device: str = "auto"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.episodes:
            raise ConfigError("episodes names no file; toolenv eval writes one")
        check_choice("keep", self.keep, ("successes", "all"))
        if not 0 < self.validation_share < 1:
            raise ConfigError(f"validation_share must lie in (0, 1), not {self.validation_share!r}")


def warm_start(config: WarmStartConfig) -> list[Evaluation]:
    """Learn from stored episodes, and save the model.

    Returns:
        One entry a look at the held-out loss.

    Raises:
        ConfigError: No episode to learn from, or settings that do not fit together.
        DataError: A file that holds something else than episodes.
    """
    episodes = [episode for path in config.episodes for episode in read_any_episodes(path)]
    chosen = successes(episodes) if config.keep == "successes" else episodes
    if not chosen:
        raise ConfigError(
            f"none of {len(episodes)} episodes succeeded, so there is nothing to learn from; play more, take an "
            "expert's, or give --keep all"
        )
    train, validation = split_by_task(chosen, config.validation_share, config.seed)
    print(f"{len(chosen)} of {len(episodes)} episodes: {len(train)} to learn, {len(validation)} held out", flush=True)
    policy = played_as(config.model)
    model, tokenizer = load_model(config.model, device=config.device, precision=config.precision)
    if config.lora_rank:
        model = add_lora(model, config.lora_rank, config.lora_alpha, seed=config.seed)
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    state = _claim(config)
    encoder = ConversationEncoder(tokenizer, make_format(chosen[0].format))
    curve = fit(model, encoder, train, validation, config, progress=_say, checkpoint=state)
    save_merged(model.eval(), tokenizer, config.output_dir)
    if policy is not None:
        (config.output_dir / PLAYED_AS_FILE).write_text(json.dumps({"played_as": policy}) + "\n", encoding="utf-8")
    _record(config, learned=len(train), curve=[asdict(look) for look in curve])
    state.unlink()
    return curve


def _claim(config: WarmStartConfig) -> Path:
    """Where the state of the training stands; a run with other settings that was stopped there is not gone on with."""
    state = config.output_dir / _STATE_FILE
    if state.exists():
        settings = json.loads((config.output_dir / RECORD_FILE).read_text(encoding="utf-8"))["settings"]
        if settings != _settings(config):
            raise ConfigError(
                f"{config.output_dir} holds a run that was stopped and had other settings; give another output_dir, or "
                f"delete {state} to start anew"
            )
    config.output_dir.mkdir(parents=True, exist_ok=True)
    _record(config)
    return state


def _record(config: WarmStartConfig, **found: Any) -> None:
    text = json.dumps({"settings": _settings(config), **found}, indent=1) + "\n"
    (config.output_dir / RECORD_FILE).write_text(text, encoding="utf-8")


def _settings(config: WarmStartConfig) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return settings


def read_any_episodes(path: Path) -> list[Episode]:
    """Episodes of a JSONL file, which stand there alone or in the records of a training run.

    Raises:
        DataError: A line that holds no episode; the message names file, line and reason.
    """
    found = []
    for where, _, record in read_records(path):
        try:
            found.append(Episode.from_json(record.get("episode", record)))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    return found


def successes(episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes whose outcome is 1, each graded as its environment is made for."""
    outcome = OutcomeFn()
    columns = [row.columns[outcome.name] for row in RewardSum({outcome.name: outcome}).score(episodes)]
    return [e for e, column in zip(episodes, columns, strict=True) if np.nansum(column) >= 1.0]


def split_by_task(episodes: Sequence[Episode], share: float, seed: int) -> tuple[list[Episode], list[Episode]]:
    """Episodes to learn and episodes to hold out, which are of other tasks.

    Raises:
        ConfigError: All are of one task, or they do not all speak one format.
    """
    formats = sorted({episode.format for episode in episodes})
    if len(formats) > 1:
        raise ConfigError(f"the episodes speak {', '.join(formats)}; learn from those of one format")
    tasks = sorted({episode.task.id for episode in episodes})
    if len(tasks) < 2:
        raise ConfigError(f"all {len(episodes)} episodes are of the task {tasks[0]!r}; none is left to be held out")
    count = min(len(tasks) - 1, max(1, round(share * len(tasks))))
    held_out = {tasks[i] for i in rng(seed, "held out").permutation(len(tasks))[:count]}
    return [e for e in episodes if e.task.id not in held_out], [e for e in episodes if e.task.id in held_out]


def _say(look: Evaluation) -> None:
    print(
        f"update {look.update}: {look.train_loss:.3f} nats a token, held out {look.validation_loss:.3f}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn from the command line.

    Args:
        arguments: Words of the command line; ``None``: those of this process.

    Returns:
        Exit status: 0, 1 (it failed), 2 (settings that do not fit, or an extra is missing), 130 (interrupted).
    """
    try:
        config: Any = parse_command_line(WarmStartConfig, arguments, prog="python -m agents.sft")
        warm_start(config)
    except ToolEnvError as error:
        return say_failed(error)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last look", file=sys.stderr)
        return 130
    print(f"model: {config.output_dir}")
    return 0
