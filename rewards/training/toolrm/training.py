"""Train a ToolRM: Bradley-Terry with centred rewards over pairs of tool calls, by TRL's ``RewardTrainer``."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rewards.engine import keeps_keys
from rewards.rendering import ConversationRenderer
from rewards.scoring import HFScorer
from rewards.training.going_on import last_checkpoint, own_generators, write_record
from rewards.training.heads import add_lora, make_classifier, merged, own_parameters, parts_of, train_upper
from rewards.training.pairs.records import Pair, pair_conversations
from rewards.training.toolrm.rows import PreferenceRow, count_by_category, encode_pairs, split_rows, task_of
from rewards.training.toolrm.settings import Layout, ToolRMConfig
from toolenv.errors import ConfigError
from toolenv.extras import require
from toolenv.progress import Progress
from toolenv.quiet import without_transformers_bars

LoadModel = Callable[..., tuple[Any, Any]]
RECORD = "train.json"
SETTINGS = "settings.json"
CHECKPOINTS = "checkpoints"


def train_toolrm(
    pairs: Sequence[Pair],
    model: str | Path,
    output: str | Path,
    config: ToolRMConfig | None = None,
    *,
    load_model: LoadModel,
    device: str = "auto",
) -> dict[str, Any]:
    """Train, and save what ``HFScorer.from_pretrained`` loads: the weights of the best look, LoRA added in.

    What was stopped goes on from its last checkpoint when called again; what is done is not done again.

    Args:
        pairs: Preference pairs of at least two tasks.
        model: Name or folder of any causal language model.
        output: Folder of the reward model; ``train.json`` there says how it was made.
        config: Settings; ``None``: the defaults.
        load_model: Loads a model by name, as ``agents.models.load_model`` does, with ``device`` and ``precision``.
        device: As ``load_model`` takes it.

    Returns:
        What stands in ``train.json``.

    Raises:
        ConfigError: Settings that do not fit the model or the pairs, or a folder that holds another training.
        DataError: A pair whose two answers are the same.
        MissingExtraError: torch, transformers, TRL or PEFT is not installed.

    Source:
        "Outcome Reward Models for Tool-Calling LLMs" (2509.11963): Bradley-Terry with reward centring. As a loss, over
        pairs: ``-log sigmoid(r+ - r-) + centring * (r+ + r-)^2``.

    Example:
        >>> train_toolrm(pairs, "smollm2-135m", "runs/toolrm", load_model=load_model)  # doctest: +SKIP
    """
    require("trl", "train")
    config, output = config or ToolRMConfig(), Path(output)
    settings = {"model": str(model), **asdict(config), "pairs": len(pairs), "pairs_sha256": _digest(pairs)}
    done = _begin(output, settings)
    if done is not None:
        return done
    with own_generators():
        record = _train(pairs, output, config, *_load(model, config, load_model, device))
    write_record(output / RECORD, {**settings, **record})
    shutil.rmtree(output / CHECKPOINTS)
    return {**settings, **record}


# Inside ------------------------------------------------------------------------------------------------------------


def _train(
    pairs: Sequence[Pair], output: Path, config: ToolRMConfig, classifier: Any, tokenizer: Any
) -> dict[str, Any]:
    """Train and save; returns what there is to say of it."""
    rows, left_out = _encode(pairs, classifier, tokenizer, config)
    train, held_out = split_rows(rows, config.held_out, config.seed)
    lower, upper = None, None
    if config.keep_lower:
        from rewards.training.toolrm.lower_states import keep_lower_states

        _layout(classifier, config)
        named = {"pad_token_id": tokenizer.pad_token_id, "half": config.precision == "bfloat16"}
        backbone, folder = parts_of(classifier)[0], output / CHECKPOINTS
        lower, upper = keep_lower_states(backbone, config.upper_layers or 0, [*train, *held_out], folder, **named)
    trainer = _trainer(classifier, tokenizer, train, held_out, output, config, lower, upper)
    trained, started = trainer.trained_parameters, time.monotonic()
    with without_transformers_bars():
        trainer.train(resume_from_checkpoint=last_checkpoint(output / CHECKPOINTS))
    seconds = time.monotonic() - started
    if config.surprise:
        del trainer.model.surprise
    if config.keep_lower:
        from rewards.training.toolrm.lower_states import count_layers

        count_layers(parts_of(trainer.model)[0])
    plain = merged(trainer.model.float()).eval()
    scorer = HFScorer(plain, tokenizer)
    scorer.save_pretrained(output)
    looks = [look for look in trainer.state.log_history if "eval_accuracy" in look]
    return {
        "by_category": count_by_category(pairs),
        "too_long": left_out,
        "train": _counts(train),
        "held_out_of_training": _counts(held_out),
        "layout_used": _layout(classifier, config),
        "device": str(plain.device),
        "parameters": sum(p.numel() for p in plain.parameters()),
        "trained_parameters": trained,
        "updates": looks[-1]["step"],
        "best_update": trainer.state.best_global_step,
        "held_out_accuracy": _accuracy(scorer, pairs, {row.task for row in held_out}),
        "looks": looks,
        "losses": [look for look in trainer.state.log_history if "loss" in look],
        "seconds_since_last_start": round(seconds, 1),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }


def _begin(output: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Note what is to be trained; returns the record where it was trained already.

    Raises:
        ConfigError: The folder holds a training with other settings.
    """
    if (output / SETTINGS).is_file():
        before = json.loads((output / SETTINGS).read_text(encoding="utf-8"))
        other = [name for name in settings if before.get(name) != settings[name]]
        if other:
            says = ", ".join(f"{name} {before.get(name)!r}, not {settings[name]!r}" for name in other)
            raise ConfigError(f"{output} holds a training with {says}; give another output folder")
        if (output / RECORD).is_file():
            record: dict[str, Any] = json.loads((output / RECORD).read_text(encoding="utf-8"))
            return record
    elif output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty, and holds no training of a ToolRM; give another output folder")
    output.mkdir(parents=True, exist_ok=True)
    write_record(output / SETTINGS, settings)
    return None


def _load(model: str | Path, config: ToolRMConfig, load_model: LoadModel, device: str) -> tuple[Any, Any]:
    """The classifier, under LoRA where that is trained, and its tokenizer."""
    # What LoRA leaves as it is may stand in bfloat16; small steps of a weight that is trained would be lost in it.
    frozen = config.precision if config.lora_rank else "float32"
    causal, tokenizer = load_model(model, device=device, precision=frozen)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    vocabulary = causal.get_output_embeddings()
    classifier = make_classifier(
        causal,
        "outcome",
        pad_token_id=tokenizer.pad_token_id,
        layers=config.layers,
        extra_layers=config.extra_layers,
        seed=config.seed,
    )
    parts_of(classifier)[1].float()
    if classifier.device.type == "cpu" and keeps_keys(classifier):
        # On a CPU faster than sdpa: with SmolLM2-135M 5.0 s of a core against 5.8 s for 1,000 tokens.
        classifier.set_attn_implementation("eager")
    if config.lora_rank:
        classifier = add_lora(
            classifier, config.lora_rank, config.lora_alpha, upper_layers=config.upper_layers, seed=config.seed
        )
    elif config.upper_layers is not None:
        train_upper(classifier, config.upper_layers)
    if config.surprise:
        from rewards.training.surprise import Surprise

        # A part of the model while it is trained: so it stands in checkpoints, and its weights in the optimizer.
        classifier.surprise = Surprise(parts_of(classifier)[0], vocabulary, config.extra_layers)
    return classifier, tokenizer


def _encode(
    pairs: Sequence[Pair], classifier: Any, tokenizer: Any, config: ToolRMConfig
) -> tuple[list[PreferenceRow], int]:
    positions = getattr(classifier.config.get_text_config(), "max_position_embeddings", None)
    if config.max_length is not None and positions is not None and config.max_length > positions:
        raise ConfigError(f"max_length is {config.max_length}, and the model takes {positions} tokens")
    progress = Progress("tokens of the pairs", len(pairs))
    rows, left_out = encode_pairs(
        pairs,
        ConversationRenderer(tokenizer),
        max_length=config.max_length or positions,
        max_row_tokens=config.max_row_tokens,
        progress=progress.show,
    )
    if not rows:
        raise ConfigError(f"all {left_out} pairs are longer than {config.max_length or positions} tokens; none is left")
    return rows, left_out


def _layout(classifier: Any, config: ToolRMConfig) -> Layout:
    """The layout that ``"auto"`` means here.

    Raises:
        ConfigError: Rows are to be shared, and cannot be.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1  # the shared rows go past the wrapper of several processes
    possible = alone and keeps_keys(classifier) and not config.gradient_checkpointing
    if config.layout == "shared" and not possible:
        raise ConfigError(
            "layout 'shared' needs one process, no gradient_checkpointing, and full attention by sdpa or eager in all "
            "layers; take 'pairs'"
        )
    for name in ("surprise", "keep_lower"):
        if getattr(config, name) and (config.layout == "pairs" or not possible):
            raise ConfigError(f"{name} needs the layout 'shared', which cannot be here or was not asked for")
    return config.layout if config.layout != "auto" else "shared" if possible else "pairs"


def _trainer(
    classifier: Any,
    tokenizer: Any,
    train: Sequence[PreferenceRow],
    held_out: Sequence[PreferenceRow],
    output: Path,
    config: ToolRMConfig,
    lower: Any = None,
    upper: Any = None,
) -> Any:
    """The trainer, with the data in the right layout."""
    transformers = require("transformers", "train")
    from datasets import Dataset  # type: ignore[import-untyped]

    from rewards.training import callbacks
    from rewards.training.toolrm import shared_rows
    from rewards.training.toolrm import trainer as parts

    shared = _layout(classifier, config) == "shared"
    pad = tokenizer.pad_token_id
    collator = shared_rows.SharedPromptCollator(pad, lower) if shared else parts.PairCollator(pad)
    units = len(train) if shared else sum(len(row.pairs) for row in train)
    accumulate = max(1, round(config.batch_pairs * units / sum(len(row.pairs) for row in train) / config.micro_rows))
    updates = math.ceil(math.ceil(units / config.micro_rows) / accumulate)
    arguments = _arguments(config, output, accumulate, updates, classifier.device.type)
    trainer = parts.PreferenceTrainer(
        model=classifier,
        args=arguments,
        data_collator=collator,
        train_dataset=Dataset.from_list(shared_rows.shared_records(train) if shared else parts.pair_records(train)),
        eval_dataset=Dataset.from_list(
            shared_rows.shared_records(held_out, len(train)) if shared else parts.pair_records(held_out)
        ),
        processing_class=tokenizer,
        callbacks=[callbacks.StopEarly(config.patience), callbacks.ShowProgress("accuracy", "eval_accuracy")],
        surprise=config.surprise,
        slow=own_parameters(classifier, config.extra_layers),
        own_rate=config.own_rate,
        upper=upper,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _arguments(config: ToolRMConfig, output: Path, accumulate: int, updates: int, device: str) -> Any:
    """TRL's settings, for so many updates an epoch of so many batches each."""
    from trl.trainer.reward_config import RewardConfig

    from rewards.training.toolrm.trainer import BEST_BY

    look_every = config.eval_every or max(1, updates // 10)
    half = config.precision == "bfloat16"
    return RewardConfig(
        output_dir=str(output / CHECKPOINTS),
        per_device_train_batch_size=config.micro_rows,
        per_device_eval_batch_size=config.micro_rows,
        gradient_accumulation_steps=accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(config.warmup_share * updates * config.epochs),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=config.epochs,
        activation_checkpointing=config.gradient_checkpointing,
        center_rewards_coefficient=config.centring,
        bf16=half,
        use_cpu=device == "cpu",
        max_length=None,
        remove_unused_columns=False,
        dataloader_pin_memory=device == "cuda",
        eval_strategy="steps",
        eval_steps=look_every,
        save_strategy="steps",
        save_steps=look_every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{BEST_BY}",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        logging_steps=look_every,
        disable_tqdm=True,
        report_to="none",
        seed=config.seed,
    )


def _accuracy(scorer: HFScorer, pairs: Sequence[Pair], tasks: set[str]) -> float:
    """Share of the pairs of some tasks that the saved model orders rightly."""
    asked = [pair for pair in pairs if task_of(pair) in tasks]
    scores = scorer.score([conversation for pair in asked for conversation in pair_conversations(pair)])
    return float((scores[::2] > scores[1::2]).mean())


def _counts(rows: Sequence[PreferenceRow]) -> dict[str, int]:
    return {
        "pairs": sum(len(row.pairs) for row in rows),
        "tasks": len({row.task for row in rows}),
        "rows": len(rows),
        "tokens": sum(row.tokens for row in rows),
        "tokens_in_pairs": sum(len(ids) for row in rows for pair in row.single() for ids in pair),
    }


def _digest(pairs: Sequence[Pair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(json.dumps(pair.to_json()).encode())
    return digest.hexdigest()
