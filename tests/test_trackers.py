"""Trackers get what a run logs, each step once, and say what they miss."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agents import trackers
from agents.trackers import open_trackers
from toolenv.errors import ConfigError, MissingExtraError

CONFIG = {"learning_rate": 1e-4, "env_kwargs": {"hops": [1, 2]}}


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """All that TensorBoard would show: step and value, under each name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory / "tensorboard"))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def log_three(tracker: trackers.Tracker, first: int = 0, scale: float = 1.0) -> None:
    for step in range(first, first + 3):
        tracker.log({"update": step, "eval/success_rate": scale * step / 4, "note": "no number", "none": None}, step)


def test_tensorboard_shows_every_number_of_every_step(tmp_path: Path) -> None:
    tracker = open_trackers(["tensorboard"], tmp_path, CONFIG)
    log_three(tracker)
    assert scalars(tmp_path)["update"] == [(0, 0), (1, 1), (2, 2)]  # before it is closed: a kill loses nothing
    tracker.close()
    tracker.close()
    shown = scalars(tmp_path)
    assert shown == {"update": [(0, 0), (1, 1), (2, 2)], "eval/success_rate": [(0, 0), (1, 0.25), (2, 0.5)]}


def test_a_resumed_run_shows_no_step_twice(tmp_path: Path) -> None:
    log_three(open_trackers(["tensorboard"], tmp_path, CONFIG))  # killed: never closed
    tracker = open_trackers(["tensorboard"], tmp_path, CONFIG, resume=True)
    log_three(tracker, first=1, scale=9)
    tracker.close()
    assert scalars(tmp_path)["eval/success_rate"] == [(0, 0), (1, 0.25), (2, 0.5), (3, 27 / 4)]


def test_a_new_run_in_an_old_folder_starts_over(tmp_path: Path) -> None:
    log_three(open_trackers(["tensorboard"], tmp_path, CONFIG))
    tracker = open_trackers(["tensorboard"], tmp_path, CONFIG)
    tracker.log({"update": 0}, 0)
    tracker.close()
    assert len(scalars(tmp_path)["update"]) == 4


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    tracker = open_trackers([], tmp_path, CONFIG)
    log_three(tracker)
    tracker.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [["tensorbord"], ["tensorboard", "tensorboard"]])
def test_a_name_that_is_wrong_is_told_what_there_is(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tensorboard, trackio, wandb, each at most once"):
        open_trackers(names, tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("tensorboard", "torch.utils.tensorboard", "tracking"), ("trackio", "trackio", "tracking"),
     ("wandb", "wandb", "wandb")],
)  # fmt: skip
def test_a_missing_package_is_one_line(
    name: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'toolenv\[{extra}\]'"):
        open_trackers([name], tmp_path, CONFIG)


def run_alone(code: str, environment: Mapping[str, str]) -> str:
    """Run a program that may use what these packages keep for the whole process."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


TWO_LIVES = """
from agents.trackers import open_trackers
for resume in (False, True):
    tracker = open_trackers([{name!r}], {folder!r}, {{"learning_rate": 1e-4}}, resume=resume)
    for step in (range(1, 5) if resume else range(3)):
        tracker.log({{"outcome": step / 4, "again": float(resume), "note": "no number"}}, step)
    tracker.close()
"""


def missing(name: str) -> Any:
    """Skips a test where a package is not installed."""
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


@missing("trackio")
def test_trackio_goes_on_with_the_run(tmp_path: Path) -> None:
    read = """
from trackio.sqlite_storage import SQLiteStorage
print("FOUND", [(row["step"], row["outcome"], row["again"]) for row in SQLiteStorage.get_logs("toolenv", "run")])
"""
    program = TWO_LIVES.format(name="trackio", folder=str(tmp_path / "run")) + read
    said = run_alone(program, {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"})
    want = [(0, 0.0, 0.0), (1, 0.25, 0.0), (2, 0.5, 0.0), (3, 0.75, 1.0), (4, 1.0, 1.0)]
    assert f"FOUND {want}" in said


@missing("wandb")
def test_weights_and_biases_goes_on_with_the_run(tmp_path: Path) -> None:
    program = TWO_LIVES.format(name="wandb", folder=str(tmp_path / "run"))
    run_alone(program, {"WANDB_MODE": "offline", "WANDB_SILENT": "true"})
    logs = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(logs) == 2
    assert len({log.name for log in logs}) == 1  # one id, which is what `wandb sync` goes by
