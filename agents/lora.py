"""LoRA through PEFT: a few small matrices are trained beside the weights, which stay as they are.

With the matrices switched off the model is what it was, so that a reference policy needs no second model. A checkpoint
holds the matrices alone; ``agents.models.load_model`` reads it, and ``save_merged`` adds them into the weights for
whoever wants a plain model.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolenv.errors import ConfigError
from toolenv.extras import require
from toolenv.quiet import without_transformers_bars

ADAPTER_FILE = "adapter_config.json"
"""Stands in a folder that holds the matrices alone."""


def add_lora(
    model: Any,
    rank: int,
    alpha: float | None = None,
    target_modules: str | Sequence[str] = "all-linear",
    dropout: float = 0.0,
    *,
    seed: int = 0,
) -> Any:
    """Put trainable matrices beside the weights of a model, and freeze the weights.

    At first they change nothing: of each pair one is drawn and the other is 0.

    Args:
        model: A transformers causal language model; it is changed in place.
        rank: Rank of the matrices.
        alpha: Their product is scaled by ``alpha / rank``; by default ``alpha`` is twice the rank.
        target_modules: Names of the layers that get them, as PEFT reads them; ``"all-linear"``: every linear layer but
            the head.
        dropout: Share of the inputs that the matrices do not see in training mode.
        seed: Draws the matrices.

    Returns:
        The model in PEFT's hands; train, sample from and save this one.

    Raises:
        ConfigError: A rank below 1, a model that has such matrices already, or none of whose layers is meant.
        MissingExtraError: PEFT is not installed.
    """
    peft, torch = require("peft", "train"), require("torch", "train")
    if rank < 1:
        raise ConfigError(f"the rank of LoRA must be at least 1, not {rank!r}")
    if isinstance(model, peft.PeftModel):
        raise ConfigError("the model has LoRA already; add it to the plain model, or train the one that it has")
    names = target_modules if isinstance(target_modules, str) else list(target_modules)
    settings = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules=names,
        lora_dropout=dropout,
        task_type="CAUSAL_LM",
    )
    training = model.training
    try:
        with torch.random.fork_rng(devices=_cuda_devices(model)), _without_future_warnings():
            torch.manual_seed(seed)
            adapted = peft.get_peft_model(model, settings)
    except ValueError as error:
        raise ConfigError(f"LoRA cannot be added to {target_modules!r} of {type(model).__name__}: {error}") from error
    return adapted.train(training)


def has_lora(model: Any) -> bool:
    """Whether a model came out of ``add_lora``."""
    return hasattr(model, "disable_adapter")


@contextmanager
def without_lora(model: Any) -> Iterator[None]:
    """Switch the matrices off: within, the model is the one that LoRA was added to.

    Raises:
        ConfigError: There are none.
    """
    if not has_lora(model):
        raise ConfigError(
            f"{type(model).__name__} has no LoRA that could be switched off; it would be its own reference"
        )
    with model.disable_adapter():
        yield


def base_of(folder: Path) -> str:
    """The model that the matrices in a folder belong to, by the name that it was loaded by."""
    settings = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
    if not settings.get("base_model_name_or_path"):
        raise ConfigError(f"{folder / ADAPTER_FILE} does not say which model its LoRA belongs to")
    return str(settings["base_model_name_or_path"])


def merge_saved(model: Any, folder: Path) -> Any:
    """A bare model with the matrices that stand in a folder added into its weights."""
    peft = require("peft", "train")
    with _without_future_warnings():
        return peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload(safe_merge=True)


def save_merged(model: Any, tokenizer: Any, folder: str | Path) -> Path:
    """Save a model with the matrices added into its weights: a plain one, for ``from_pretrained``.

    The model itself stays as it is; for a moment there are two of it in memory.

    Args:
        model: What ``add_lora`` gave; a plain model is saved as it is.
        tokenizer: Its tokenizer.
        folder: Where to.

    Returns:
        The folder.
    """
    folder = Path(folder)
    plain = copy.deepcopy(model).merge_and_unload(safe_merge=True) if has_lora(model) else model
    with without_transformers_bars():
        plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def _without_future_warnings() -> Iterator[None]:
    """PEFT asks transformers for things by names that are going away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _cuda_devices(model: Any) -> list[int]:
    return sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
