"""Train a reward model on labelled episodes: of each call (TRM), or of whole trajectories."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rewards.scoring import HFScorer, Kind
from rewards.training.going_on import last_checkpoint, own_generators, write_record
from rewards.training.heads import add_lora, make_classifier, merged
from rewards.training.labels.records import LabelledEpisode
from rewards.training.trm.rows import (
    Example,
    Examples,
    call_examples,
    continues,
    digest,
    episode_examples,
    split_by_task,
)
from rewards.training.trm.settings import Level, TrainSettings
from toolenv.data.text_files import replace_file
from toolenv.errors import ConfigError
from toolenv.extras import require
from toolenv.quiet import without_transformers_bars
from toolenv.seeding import derive

KINDS: dict[Level, Kind] = {"call": "turns", "episode": "outcome"}
RECORD = "train.json"
"""Stands beside the weights, and says how they were made."""
ADAM_BETA2 = 0.98
"""As the warm start of the nano policy has it: with few updates, the second moment must not lag behind."""
CHECKPOINTS = "checkpoints"
TASKS = "tasks.txt"
"""Ids of the tasks that were trained on, one a line, so that who judges the model can tell."""
Load = Callable[[], tuple[Any, Any]]
"""Gives a causal language model and its tokenizer."""


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the held-out rows.

    Attributes:
        update: After which update.
        train_loss: Mean loss since the look before; ``None`` where the log has none.
        auc: Held-out AUC.
        bce: Held-out loss, in nats.
        accuracy: Held-out accuracy at a score of one half.
    """

    update: int
    train_loss: float | None
    auc: float
    bce: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training came to.

    Attributes:
        folder: Holds the model; ``HFScorer.from_pretrained`` reads it.
        looks: The curve.
        record: What stands in ``train.json``.
    """

    folder: Path
    looks: tuple[Look, ...]
    record: Mapping[str, Any]

    @property
    def best(self) -> Look:
        """The look whose weights were kept."""
        return max(self.looks, key=lambda look: look.auc)


def train_reward_model(
    records: Sequence[LabelledEpisode],
    load: Load,
    output: str | Path,
    settings: TrainSettings,
    *,
    held_out: Sequence[LabelledEpisode] | None = None,
    name: str = "",
    device: str = "auto",
) -> Trained:
    """Train a reward model, or go on with a training that was stopped, to the same end.

    Args:
        records: Labelled episodes.
        load: Gives the causal language model whose backbone is used, in the precision to train in, and its tokenizer.
        output: Folder of the model. Until it is done it holds the checkpoints too; a training that is done is not done
            again.
        settings: Settings.
        held_out: Labelled episodes for the looks; ``None``: those of a share of the tasks.
        name: What the record calls the model that it started from.
        device: As torch names it; ``"auto"``: CUDA where there is one.

    Raises:
        ConfigError: Settings that do not fit, too few labels, or a folder that holds another training.

    Example:
        >>> train_reward_model(labels, lambda: load_model("nano"), "runs/trm", TrainSettings())  # doctest: +SKIP
    """
    require("transformers", "train")
    folder = Path(output)
    with own_generators():
        model, tokenizer = load()
        episodes = [record.episode for record in (*records, *(held_out or ()))]
        scorer = _new_scorer(model, tokenizer, settings, continues(episodes))
        found = _examples(records, scorer, settings)
        train, kept_out, held_found = _divide(found, held_out, scorer, settings)
        record = _describe(settings, name, scorer, train, kept_out, str(found), held_found)
        done = _done_before(folder, record)
        if done is not None:
            return done
        folder.mkdir(parents=True, exist_ok=True)
        tasks = sorted({row.group for row in train})
        replace_file(folder / TASKS, "".join(f"{task}\n" for task in tasks).encode())
        write_record(folder / RECORD, {**record, "finished": False})
        classifier = scorer.model
        if settings.lora_rank:
            classifier = add_lora(classifier, settings.lora_rank, seed=derive(settings.seed, "lora") % 2**32)
        looks = _fit(classifier, tokenizer, train, kept_out, folder / CHECKPOINTS, settings, device)
        plain = merged(classifier).float().cpu().eval()
        HFScorer(plain, tokenizer, continues=scorer.renderer.continues).save_pretrained(folder)
    return _finish(folder, record, looks)


def read_train_record(folder: str | Path) -> dict[str, Any] | None:
    """What ``train.json`` in a model's folder says; ``None`` where there is none."""
    path = Path(folder) / RECORD
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def trained_tasks(folder: str | Path) -> frozenset[str]:
    """Ids of the tasks that a model's folder says it was trained on; none where it does not say."""
    path = Path(folder) / TASKS
    return frozenset(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else frozenset()


# Inside ------------------------------------------------------------------------------------------------------------


def _new_scorer(model: Any, tokenizer: Any, settings: TrainSettings, continued: bool) -> HFScorer:
    """The model with a new head, as a scorer."""
    model.config.classifier_dropout = settings.dropout
    classifier = make_classifier(
        model,
        KINDS[settings.level],
        pad_token_id=tokenizer.pad_token_id,
        extra_layers=settings.extra_layers,
        seed=derive(settings.seed, "head"),
    )
    return HFScorer(classifier, tokenizer, continues=continued, max_length=settings.max_length)


def _examples(records: Sequence[LabelledEpisode], scorer: HFScorer, settings: TrainSettings) -> Examples:
    if settings.level == "episode":
        return episode_examples(records, scorer)
    return call_examples(records, scorer, label=settings.label, soft=settings.soft)


def _divide(
    found: Examples, held_out: Sequence[LabelledEpisode] | None, scorer: HFScorer, settings: TrainSettings
) -> tuple[list[Example], list[Example], str | None]:
    """Examples to train on and to look at; what was found in a file for the looks."""
    told = None
    if held_out is None:
        train, looked_at = split_by_task(found.rows, settings.held_out, settings.seed)
    else:
        given = _examples(held_out, scorer, settings)
        train, looked_at, told = list(found.rows), list(given.rows), str(given)
        if shared := {row.group for row in train} & {row.group for row in looked_at}:
            raise ConfigError(
                f"{len(shared)} tasks stand both in the training and in the held-out file, such as {min(shared)!r}; "
                "the AUC would measure what was learned by heart"
            )
    for part, rows in (("to train on", train), ("held out", looked_at)):
        targets = [target for row in rows for target in row.targets]
        good = sum(target >= 0.5 for target in targets)
        if not 0 < good < len(targets):
            raise ConfigError(
                f"of the {len(targets)} labels {part}, {good} are good; there must be both good and bad ones: "
                "label more episodes, or hold out another share of the tasks"
            )
    return train, looked_at, told


def _describe(
    settings: TrainSettings,
    name: str,
    scorer: HFScorer,
    train: Sequence[Example],
    held_out: Sequence[Example],
    data: str,
    held_out_data: str | None,
) -> dict[str, Any]:
    """What names a training: the same name, the same end."""
    return {
        "model": name,
        "settings": asdict(settings),
        "continues": scorer.renderer.continues,
        "data": data,
        "held_out_data": held_out_data,
        "train_episodes": len(train),
        "held_out_episodes": len(held_out),
        "data_sha256": digest(train),
        "held_out_sha256": digest(held_out),
    }


def _done_before(folder: Path, record: Mapping[str, Any]) -> Trained | None:
    """A finished training of the same record; ``None`` where there is none yet.

    Raises:
        ConfigError: The folder holds another training, or another model.
    """
    there = read_train_record(folder)
    if there is None:
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(f"{folder} is not empty, and holds no training of a TRM; give another --output")
        return None
    wanted = json.loads(json.dumps(record))
    if other := _differences(wanted, there):
        raise ConfigError(f"{folder} holds another training ({other}); give another --output, or delete that folder")
    if not there["finished"]:
        return None
    return Trained(folder, tuple(Look(**look) for look in there["looks"]), there)


def _differences(wanted: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """The first thing in which two records differ, in words; empty where none."""
    flat = [({**r, **r["settings"]}) for r in (wanted, there)]
    names = [name for name in flat[0] if name != "settings" and flat[0][name] != flat[1].get(name)]
    return f"its {names[0]} is {flat[1].get(names[0])!r}, here {flat[0][names[0]]!r}" if names else ""


def _fit(
    classifier: Any,
    tokenizer: Any,
    train: Sequence[Example],
    held_out: Sequence[Example],
    checkpoints: Path,
    settings: TrainSettings,
    device: str,
) -> list[Look]:
    """Train in place, from the newest checkpoint where there is one; leaves the best weights in the model."""
    from rewards.training.callbacks import ShowProgress, StopEarly
    from rewards.training.trm.trainer import ClassifierTrainer

    trainer = ClassifierTrainer(
        classifier,
        tokenizer.pad_token_id,
        train,
        held_out,
        derive(settings.seed, "rows"),
        _arguments(settings, len(train), checkpoints, device),
        [StopEarly(settings.patience), ShowProgress("AUC", "eval_auc")],
    )
    with without_transformers_bars(), warnings.catch_warnings():
        # PEFT asks transformers for things by names that are going away.
        warnings.simplefilter("ignore", FutureWarning)
        trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    return _looks(trainer.state.log_history)


def _arguments(settings: TrainSettings, rows: int, checkpoints: Path, device: str) -> Any:
    """The settings as transformers' Trainer takes them."""
    transformers, torch = require("transformers", "train"), require("torch", "train")
    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    an_epoch = math.ceil(rows / settings.batch_episodes)
    look_every = settings.eval_every or max(1, an_epoch // 2)
    updates = an_epoch * settings.epochs
    return transformers.TrainingArguments(
        output_dir=str(checkpoints.resolve()),
        per_device_train_batch_size=settings.batch_episodes // settings.accumulate,
        per_device_eval_batch_size=settings.batch_episodes,
        gradient_accumulation_steps=settings.accumulate,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup * updates),
        weight_decay=settings.weight_decay,
        adam_beta2=ADAM_BETA2,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16,
        eval_strategy="steps",
        eval_steps=min(look_every, updates),
        save_strategy="steps",
        save_steps=min(look_every, updates),
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=min(look_every, updates),
        load_best_model_at_end=True,
        metric_for_best_model="auc",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        remove_unused_columns=False,
        label_names=["targets"],
        dataloader_pin_memory=not on_cpu,
        use_cpu=on_cpu,
        disable_tqdm=True,
        report_to="none",
        seed=derive(settings.seed, "trainer") % 2**32,
    )


def _looks(log: Sequence[Mapping[str, Any]]) -> list[Look]:
    losses = {entry["step"]: entry["loss"] for entry in log if "loss" in entry}
    return [
        Look(e["step"], losses.get(e["step"]), e["eval_auc"], e["eval_bce"], e["eval_accuracy"])
        for e in log
        if "eval_auc" in e
    ]


def _finish(folder: Path, record: Mapping[str, Any], looks: Sequence[Look]) -> Trained:
    finished = {**record, "finished": True, "looks": [asdict(look) for look in looks]}
    write_record(folder / RECORD, finished)
    shutil.rmtree(folder / CHECKPOINTS)
    return Trained(folder, tuple(looks), finished)
