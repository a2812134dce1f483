"""Checkpoints: a run that is killed at any moment goes on from the last one as if nothing had happened.

A checkpoint is a directory that transformers' ``from_pretrained`` loads, with the trainer's state beside the weights.
It is written aside, flushed to the disk and renamed, so that a checkpoint that is there is whole.

There are no generator states in it, since there are no running generators: every random stream of a run is named by
the run's seed and the update (``toolenv.seeding``), so the number of the update says where all of them stand. The
learning rate is a function of the update too.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from agents.lora import has_lora
from agents.models import PLAYED_AS_FILE
from agents.sharding import full_optimizer_state, full_state_dict, load_full_optimizer_state
from toolenv.errors import DataError
from toolenv.quiet import without_transformers_bars

STATE_FILE = "trainer.json"
_PREFIX = "update-"
_ASIDE = ".partial"


class Stateful(Protocol):
    """What can be saved and picked up again: an optimiser, a module."""

    def state_dict(self) -> dict[str, Any]:
        """Its state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take the state over."""
        ...


def save_checkpoint(
    directory: str | Path,
    update: int,
    *,
    model: Any,
    tokenizer: Any,
    parts: Mapping[str, Stateful],
    state: Mapping[str, Any] | None = None,
    played_as: str | None = None,
    keep: int = 2,
    write: bool = True,
) -> Path:
    """Write a checkpoint, then drop the oldest beyond ``keep``.

    Args:
        directory: Where the checkpoints of the run stand.
        update: The update that it stands after.
        model: A transformers model, or a PEFT model around one, whose adapter alone is written.
        tokenizer: Its tokenizer.
        parts: What else is trained or trains, by name, such as the optimiser and a critic; each in a file of its own.
        state: Further facts, JSON values.
        played_as: What ``agents.models.played_as`` shall say of the checkpoint.
        keep: How many checkpoints to keep.
        write: Whether this process writes. Where several train one model, all call this, and one of them writes.

    Returns:
        The checkpoint's directory.
    """
    directory = Path(directory)
    final = checkpoint_path(directory, update)
    aside = directory / f"{final.name}{_ASIDE}"
    weights = full_state_dict(model, keep=write)
    states = {name: _state_of(part, write) for name, part in parts.items()}
    if not write:
        return final
    for left in directory.glob(f"{_PREFIX}*{_ASIDE}"):  # by a process that was killed
        shutil.rmtree(left)
    aside.mkdir(parents=True)
    with without_transformers_bars():
        # PEFT asks the base model's hub whether its embeddings have grown, unless it is told that they have not.
        adapter = {"save_embedding_layers": False} if has_lora(model) else {}
        model.save_pretrained(aside, state_dict=weights, **adapter)
    tokenizer.save_pretrained(aside)
    for name, part_state in states.items():
        torch.save(part_state, _part_file(aside, name))
    if played_as is not None:
        (aside / PLAYED_AS_FILE).write_text(json.dumps({"played_as": played_as}) + "\n", encoding="utf-8")
    (aside / STATE_FILE).write_text(json.dumps({**(state or {}), "update": update}, indent=1), encoding="utf-8")
    for path in sorted(aside.rglob("*")):
        _flush(path)
    _flush(aside)
    if final.exists():
        _drop(final)
    aside.rename(final)
    _flush(directory)
    for old in checkpoints(directory)[: -max(keep, 1)]:
        _drop(old)
    return final


def load_checkpoint(
    path: str | Path, *, model: Any = None, parts: Mapping[str, Stateful] | None = None
) -> dict[str, Any]:
    """Load weights, optimiser and what else was saved in place.

    Args:
        path: A checkpoint's directory.
        model: The model to load into, of the class that was saved, not yet sharded; ``None``: no weights of its.
        parts: What to load into, by the names that it was saved under.

    Returns:
        The state that was saved, with ``update``.

    Raises:
        DataError: Not a checkpoint, or one that lacks a part.
    """
    path = Path(path)
    state = read_state(path)
    if model is not None:
        _load_weights(path, model)
    for name, part in (parts or {}).items():
        file = _part_file(path, name)
        if not file.is_file():
            raise DataError(f"{path} holds no {name!r}: there is no {file.name} in it")
        saved = torch.load(file, map_location="cpu", weights_only=True)
        if isinstance(part, torch.optim.Optimizer):
            load_full_optimizer_state(part, saved)
        else:
            part.load_state_dict(saved)
    return state


def _state_of(part: Stateful, keep: bool) -> dict[str, Any]:
    """The whole state, also of what is spread over processes."""
    if isinstance(part, torch.optim.Optimizer):
        return full_optimizer_state(part, keep=keep)
    return full_state_dict(part, keep=keep) if isinstance(part, torch.nn.Module) else part.state_dict()


def _part_file(path: Path, name: str) -> Path:
    return path / f"{name}.pt"


def read_state(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of its run, with ``update``, without loading any weights.

    Raises:
        DataError: Not a checkpoint.
    """
    path = Path(path)
    if not (path / STATE_FILE).is_file():
        raise DataError(f"{path} is not a checkpoint: there is no {STATE_FILE} in it")
    state: dict[str, Any] = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    return state


def _load_weights(path: Path, model: Any) -> None:
    peft = sys.modules.get("peft")  # whoever has a PEFT model has imported it
    if peft is not None and isinstance(model, peft.PeftModel):
        adapter = model.active_adapter
        folder = path if adapter == "default" else path / adapter
        weights = peft.utils.load_peft_weights(str(folder), device="cpu")
        peft.set_peft_model_state_dict(model, weights, adapter_name=adapter)
        return
    dtype = next(iter(model.parameters())).dtype
    with without_transformers_bars():
        saved = type(model).from_pretrained(path, dtype=dtype, local_files_only=True)
    model.load_state_dict(saved.state_dict())


def checkpoint_path(directory: str | Path, update: int) -> Path:
    """Where the checkpoint after an update stands.

    Example:
        >>> checkpoint_path("runs/grpo/checkpoints", 12).name
        'update-000012'
    """
    return Path(directory) / f"{_PREFIX}{update:06d}"


def checkpoints(directory: str | Path) -> list[Path]:
    """The whole checkpoints in a directory, the oldest first; what was left half-written is none."""
    found = [path for path in Path(directory).glob(f"{_PREFIX}*") if path.is_dir() and path.suffix != _ASIDE]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)))


def latest(directory: str | Path) -> Path | None:
    """The newest whole checkpoint, ``None`` where there is none."""
    found = checkpoints(directory)
    return found[-1] if found else None


def _drop(checkpoint: Path) -> None:
    """Delete a checkpoint, so that at no moment a half of it goes for a whole one."""
    doomed = checkpoint.with_name(f"{checkpoint.name}-old{_ASIDE}")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def _flush(path: Path) -> None:
    """Make sure that a file, or a directory's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
