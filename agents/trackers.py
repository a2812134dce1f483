"""Metrics on their way to TensorBoard, trackio or Weights & Biases, beside the JSONL that every run writes.

A step is shown once. A run that was killed goes on from its last checkpoint and does some updates again; what it had
shown of them stays, and ``metrics.jsonl`` has the numbers of the updates that count. On a CPU the two are the same. So
that this holds whatever the tracker, the last step that was sent is written down beside the metrics.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from toolenv.errors import ConfigError
from toolenv.extras import require

TrackerName = Literal["tensorboard", "trackio", "wandb"]

PROJECT = "toolenv"
"""Name under which trackio and Weights & Biases file the runs; a run has the name of its folder."""

SENT_FILE = "trackers.json"


class Tracker(Protocol):
    """Takes a run's metrics."""

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Take the metrics of a step; what is not a number is left out."""
        ...

    def close(self) -> None:
        """Send what is still to be sent."""
        ...


def open_trackers(
    names: Sequence[str], directory: str | Path, config: Mapping[str, Any], *, resume: bool = False
) -> Tracker:
    """Start the trackers of a run; of several processes, in the first one alone.

    TensorBoard's files go into ``directory/tensorboard``, those of Weights & Biases into ``directory/wandb``; trackio
    keeps all runs in one place, which its variable ``TRACKIO_DIR`` names. ``WANDB_MODE=offline`` needs no account.

    Args:
        names: ``"tensorboard"``, ``"trackio"``, ``"wandb"``, any of them or none.
        directory: The run's folder.
        config: The run's settings, as JSON values.
        resume: Go on with the run that the folder holds, instead of a new one.

    Raises:
        ConfigError: A name that is none of these or stands twice, or Weights & Biases does not let us in.
        MissingExtraError: What a tracker needs is not installed.

    Example:
        >>> import tempfile
        >>> tracker = open_trackers([], tempfile.mkdtemp(), {})
        >>> tracker.log({"success_rate": 0.5}, step=1)
        >>> tracker.close()
    """
    wrong = [name for name in names if name not in _OPENERS]
    if wrong or len(set(names)) < len(names):
        raise ConfigError(f"trackers are {', '.join(get_args(TrackerName))}, each at most once; got {', '.join(names)}")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / SENT_FILE
    sent = json.loads(file.read_text(encoding="utf-8")) if resume and file.is_file() else {}
    return _Once([_OPENERS[name](directory, config, sent, resume) for name in names], file, sent)


class _Once:
    """Sends each step to all trackers, once, also over several lives of a run."""

    def __init__(self, trackers: Sequence[Tracker], file: Path, sent: dict[str, Any]) -> None:
        self._trackers = list(trackers)
        self._file = file
        self._sent = sent

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        if not self._trackers or step <= self._sent.get("step", -1):
            return
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        for tracker in self._trackers:
            tracker.log(numbers, step)
        self._sent["step"] = step
        aside = self._file.with_suffix(".partial")
        aside.write_text(json.dumps(self._sent), encoding="utf-8")
        aside.rename(self._file)

    def close(self) -> None:
        while self._trackers:
            self._trackers.pop().close()


class _TensorBoard:
    def __init__(self, directory: Path, config: Mapping[str, Any], sent: dict[str, Any], resume: bool) -> None:
        self._writer = require("torch.utils.tensorboard", "tracking").SummaryWriter(str(directory / "tensorboard"))
        if not resume:
            self._writer.add_text("config", "\n".join(f"    {line}" for line in _lines(config)))

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a run that is killed has shown what it has done

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    def __init__(self, directory: Path, config: Mapping[str, Any], sent: dict[str, Any], resume: bool) -> None:
        self._run = require("trackio", "tracking").init(
            project=PROJECT,
            name=directory.resolve().name,
            config=dict(config),
            resume="allow" if resume else "never",
        )

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class _WandB:
    def __init__(self, directory: Path, config: Mapping[str, Any], sent: dict[str, Any], resume: bool) -> None:
        wandb = require("wandb", "wandb")
        try:
            self._run = wandb.init(
                project=PROJECT,
                name=directory.resolve().name,
                dir=str(directory),
                config=dict(config),
                id=sent.get("wandb"),
                resume="allow" if "wandb" in sent else None,
            )
        except wandb.Error as error:
            raise ConfigError(
                f"Weights & Biases did not start: {error}; run 'wandb login', or set WANDB_MODE=offline"
            ) from error
        sent["wandb"] = self._run.id

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


def _lines(config: Mapping[str, Any]) -> list[str]:
    return json.dumps(dict(config), indent=1, default=str).splitlines()


_OPENERS: dict[str, Callable[[Path, Mapping[str, Any], dict[str, Any], bool], Tracker]] = {
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
    "wandb": _WandB,
}
