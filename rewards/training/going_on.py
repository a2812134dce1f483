"""What a training by transformers' Trainer needs beside it, whichever reward model it makes, so that it can go on."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from toolenv.data.text_files import replace_file
from toolenv.extras import require

STATE = "trainer_state.json"
"""What transformers' Trainer writes last into a checkpoint."""


def last_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that is whole; one after it was being written when the training was killed, and goes."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        try:
            json.loads((path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path)
            continue
        return str(path.resolve())
    return None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write what a training notes of itself, in one step."""
    replace_file(path, (json.dumps(record, indent=1) + "\n").encode())


@contextmanager
def own_generators() -> Iterator[None]:
    """Give transformers' Trainer, which seeds the global generators, its own; afterwards they are as they were."""
    torch = require("torch", "train")
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
