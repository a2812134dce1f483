"""What the layers below the trained ones give for each row, computed once: later passes run the trained layers alone.

Layers that stay as they are give the same for the same tokens, in every epoch and at every look. With most of a model
frozen, the first pass costs what it did and each further one a fraction of it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewards.training.toolrm.rows import PreferenceRow
from rewards.training.toolrm.shared_rows import SharedPromptCollator, run_rows, shared_records
from toolenv.data.text_files import replace_file
from toolenv.progress import Progress

STATES, DONE = "lower-states.bin", "lower-states.json"
EVERY = 16
"""Rows between two notes of how far the states are."""


def keep_lower_states(
    backbone: Any, upper_layers: int, rows: Sequence[PreferenceRow], folder: Path, *, pad_token_id: int, half: bool
) -> tuple[LowerStates, Any]:
    """Run the layers of a decoder below the upper ones over all rows.

    Args:
        backbone: The decoder; ``split_backbone`` says what becomes of it.
        upper_layers: How many of its layers do not run.
        rows: The rows.
        folder: Where the states are kept, and found again after a kill.
        pad_token_id: Of the tokenizer.
        half: Whether matrix products run in bfloat16.

    Returns:
        The states, and the upper layers as a decoder that takes them for embeddings.
    """
    lower, upper = split_backbone(backbone, upper_layers)
    collate, device = SharedPromptCollator(pad_token_id), next(backbone.parameters()).device

    def run(row: PreferenceRow) -> list[Tensor]:
        batch = {name: value.to(device) for name, value in collate(shared_records([row])).items()}
        for name in ("preferred", "attention_mask"):
            del batch[name]
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            prompt, answers = run_rows(lower, **batch)
        return [prompt[0], *(states[: len(ids)] for states, ids in zip(answers, row.answers, strict=True))]

    folder.mkdir(exist_ok=True)
    progress = Progress("layers that stay", len(rows))
    width = backbone.config.get_text_config().hidden_size
    return compute_lower_states(folder, rows, run, width, progress.show), upper


def split_backbone(backbone: Any, upper_layers: int) -> tuple[Any, Any]:
    """Two shells over the layers of one decoder: below, without a final norm, and above, which takes embeddings.

    The layers are not copied. Those above count their keys from 0 from now on: run them through the shell, and
    ``count_layers`` before the whole decoder runs again.
    """
    layers = list(backbone.layers)
    lower = _shell(backbone, layers[:-upper_layers])
    lower.norm = nn.Identity()
    upper = _shell(backbone, layers[-upper_layers:])
    count_layers(upper)
    return lower, upper


def count_layers(backbone: Any) -> None:
    """Number the layers of a decoder from 0, by which they find their keys in a cache."""
    for place, layer in enumerate(backbone.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = place


class LowerStates:
    """States of rows in a file, by row.

    Args:
        folder: Where the file is.
        rows: The rows, whose order tells where a state stands.
        width: Numbers a token.

    Raises:
        FileNotFoundError: The states are not computed.
    """

    def __init__(self, folder: Path, rows: Sequence[PreferenceRow], width: int) -> None:
        starts = [0]
        for row in rows:
            starts.append(starts[-1] + row.tokens)
        self._starts, self._rows = starts, rows
        whole = torch.from_file(str(folder / STATES), shared=False, size=starts[-1] * width, dtype=torch.float32)
        self._states = whole.view(starts[-1], width)

    def of(self, index: int) -> list[Tensor]:
        """States ``(L, D)`` of a row's prompt, then of each of its answers."""
        row = self._rows[index]
        lengths = [len(row.prompt), *map(len, row.answers)]
        return list(torch.split(self._states[self._starts[index] : self._starts[index + 1]], lengths))


def compute_lower_states(
    folder: Path,
    rows: Sequence[PreferenceRow],
    run: Callable[[PreferenceRow], Sequence[Tensor]],
    width: int,
    progress: Callable[[int], None],
) -> LowerStates:
    """Compute the states of all rows, or go on where an earlier call was stopped.

    Args:
        folder: Where the file is kept; it is there already.
        rows: The rows.
        run: Gives the states ``(L, D)`` of a row's prompt and of each of its answers.
        width: Numbers a token.
        progress: Called with the number of rows that are done.
    """
    noted = folder / DONE
    done = int(json.loads(noted.read_text(encoding="utf-8"))["rows"]) if noted.is_file() else 0
    with (folder / STATES).open("r+b" if done else "wb") as file:
        file.truncate(sum(row.tokens for row in rows[:done]) * width * 4)
        file.seek(0, 2)
        for index in range(done, len(rows)):
            for states in run(rows[index]):
                file.write(states.detach().float().cpu().contiguous().numpy().tobytes())
            if (index + 1) % EVERY == 0 or index + 1 == len(rows):
                file.flush()
                replace_file(noted, json.dumps({"rows": index + 1}).encode())
            progress(index + 1)
    return LowerStates(folder, rows, width)


def _shell(backbone: Any, layers: Sequence[Any]) -> Any:
    """A decoder with other layers, which shares all else."""
    shell = copy.copy(backbone)
    shell._modules = dict(backbone._modules)
    shell.config = copy.deepcopy(backbone.config)
    shell.layers = nn.ModuleList(layers)
    config = shell.config.get_text_config()
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: len(layers)]
    return shell
