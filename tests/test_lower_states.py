"""Layers that stay as they are run once: the training is the same, and a kill costs no more than a few rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from agents_fixtures import make_model  # noqa: E402
from test_toolrm_training import QUICK, load_tiny, make_pairs, rows_of  # noqa: E402

from rewards.scoring import HFScorer  # noqa: E402
from rewards.training.pairs.records import pair_conversations  # noqa: E402
from rewards.training.toolrm import lower_states  # noqa: E402
from rewards.training.toolrm.lower_states import LowerStates, compute_lower_states, split_backbone  # noqa: E402
from rewards.training.toolrm.rows import PreferenceRow  # noqa: E402
from rewards.training.toolrm.settings import ToolRMConfig  # noqa: E402
from rewards.training.toolrm.training import train_toolrm  # noqa: E402
from toolenv.errors import ConfigError  # noqa: E402

UPPER = replace(QUICK, lora_rank=0, extra_layers=1, upper_layers=2, epochs=2)


def scores_of(folder: Path) -> Any:
    conversations = [c for pair in make_pairs()[:4] for c in pair_conversations(pair)]
    return HFScorer.from_pretrained(folder, device="cpu").score(conversations)


@pytest.mark.parametrize("more", [{}, {"surprise": 0.5}, {"lora_rank": 2, "extra_layers": 0, "upper_layers": 1}])
def test_the_training_is_the_same(tmp_path: Path, more: dict[str, Any]) -> None:
    config = replace(UPPER, **more)
    for name, keep in (("run", False), ("kept", True)):
        train_toolrm(
            make_pairs(), "tiny", tmp_path / name, replace(config, keep_lower=keep), load_model=load_tiny, device="cpu"
        )
    assert scores_of(tmp_path / "kept") == pytest.approx(scores_of(tmp_path / "run"), abs=1e-5)
    assert not list((tmp_path / "kept").rglob("lower-states*"))


def test_the_lower_layers_run_once_for_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []

    def load(name: str | Path, **options: Any) -> tuple[Any, Any]:
        model, tokenizer = load_tiny(name, **options)
        model.model.layers[0].register_forward_hook(lambda *_: runs.append(1))
        return model, tokenizer

    monkeypatch.setattr("rewards.training.toolrm.training._accuracy", lambda *_: 1.0)  # which reads the whole model
    config = replace(UPPER, keep_lower=True, epochs=3, patience=99)
    record = train_toolrm(make_pairs(), "tiny", tmp_path / "rm", config, load_model=load)
    rows = record["train"]["rows"] + record["held_out_of_training"]["rows"]
    # Its prompt, and its answers; and once the scorer of what is saved looks whether attention is causal.
    assert len(runs) == 2 * rows + 1


def test_both_parts_together_are_the_whole() -> None:
    model = make_model().model
    ids = torch.tensor([[5, 9, 30, 7]])
    with torch.no_grad():
        whole = model(input_ids=ids).last_hidden_state
        lower, upper = split_backbone(model, 1)
        below = lower(input_ids=ids).last_hidden_state
        assert torch.allclose(upper(inputs_embeds=below).last_hidden_state, whole, atol=1e-6)
    assert len(model.layers) == len(lower.layers) + len(upper.layers)
    assert upper.layers[0] is model.layers[-1]


def test_what_was_stopped_goes_on_and_no_row_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower_states, "EVERY", 2)
    rows = rows_of(make_pairs(5))
    asked: list[str] = []

    def run(row: PreferenceRow) -> list[Any]:
        if len(asked) == 3:
            asked.append("killed")
            raise KeyboardInterrupt
        asked.append(row.task)
        number = float(row.task.removeprefix("task-"))
        return [torch.full((len(ids), 3), number + place) for place, ids in enumerate([row.prompt, *row.answers])]

    with pytest.raises(KeyboardInterrupt):
        compute_lower_states(tmp_path, rows, run, 3, lambda done: None)
    kept = compute_lower_states(tmp_path, rows, run, 3, lambda done: None)
    # Two rows were noted; what was written of the third was written again.
    assert asked == ["task-0", "task-1", "task-2", "killed", "task-2", "task-3", "task-4"]
    for states in (kept, LowerStates(tmp_path, rows, 3)):
        for index, row in enumerate(rows):
            parts = states.of(index)
            assert [len(part) for part in parts] == [len(row.prompt), *map(len, row.answers)]
            assert [float(part.mean()) for part in parts] == [index + place for place in range(len(parts))]


def test_a_kill_in_the_training_costs_no_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rewards.training import callbacks

    config = replace(UPPER, keep_lower=True)
    train_toolrm(make_pairs(), "tiny", tmp_path / "whole", config, load_model=load_tiny)

    class Killed(callbacks.ShowProgress):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "ShowProgress", Killed)
        with pytest.raises(KeyboardInterrupt):
            train_toolrm(make_pairs(), "tiny", tmp_path / "killed", config, load_model=load_tiny)
    noted = json.loads((tmp_path / "killed" / "checkpoints" / "lower-states.json").read_text())
    assert noted["rows"] == 10
    train_toolrm(make_pairs(), "tiny", tmp_path / "killed", config, load_model=load_tiny)
    assert np.allclose(scores_of(tmp_path / "killed"), scores_of(tmp_path / "whole"), atol=1e-6)


def test_it_needs_layers_that_stay(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give upper_layers"):
        ToolRMConfig(keep_lower=True)
    config = replace(UPPER, keep_lower=True, layout="pairs")
    with pytest.raises(ConfigError, match="keep_lower needs the layout 'shared'"):
        train_toolrm(make_pairs(), "tiny", tmp_path / "rm", config, load_model=load_tiny)
