"""The runs of an ablation, several at a time, each in a process of its own or as a task of Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from agents.ablation.plan import Cell, Plan
from agents.resume import METRICS_FILE
from toolenv.errors import ConfigError
from toolenv.extras import require
from toolenv.progress import Progress

POLL_S = 1.0
THREADS = {"OMP_NUM_THREADS": "1"}
"""Runs that share a machine are fastest with one thread each."""


class Job(Protocol):
    """A run that is on its way."""

    def failed(self) -> bool | None:
        """Whether it failed; ``None`` while it runs."""

    def interrupt(self) -> None:
        """Ask it to keep what it has, and to end."""

    def wait(self) -> None:
        """Wait until it has ended."""

    def kill(self) -> None:
        """End it at once."""


class Process:
    """A run as a process; what it says goes to a file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                list(command),
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **THREADS},
                start_new_session=True,  # so that Ctrl-C reaches it once: through ``interrupt``
            )

    def failed(self) -> bool | None:
        """Whether it failed; ``None`` while it runs."""
        status = self._process.poll()
        return None if status is None else bool(status)

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.wait()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


class RayTask:
    """A run on a Ray cluster."""

    def __init__(self, command: Sequence[str], log: Path, gpus: int) -> None:
        self._ray = require("ray", "ray")

        def work() -> int:
            process = Process(command, log)
            try:
                while (failed := process.failed()) is None:
                    time.sleep(POLL_S)
            finally:
                process.interrupt()
                process.wait()
            return int(failed)

        self._done = self._ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(work).remote()

    def failed(self) -> bool | None:
        """Whether it failed; ``None`` while it runs."""
        ready, _ = self._ray.wait([self._done], timeout=0)
        if not ready:
            return None
        try:
            return bool(self._ray.get(self._done))
        except self._ray.exceptions.RayError:  # its machine is gone
            return True

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._ray.cancel(self._done)

    def wait(self) -> None:
        """Wait until it has ended."""
        self._ray.wait([self._done])

    def kill(self) -> None:
        """End it at once."""
        self._ray.cancel(self._done, force=True)


def run_side_by_side(
    plan: Plan, cells: Sequence[Cell], folder: Path, start: Callable[[Cell], Job], jobs: int
) -> list[Cell]:
    """Make runs, so many at a time; returns those that failed.

    Args:
        plan: The ablation.
        cells: Its runs that are to be made.
        folder: Where they stand.
        start: Starts one.
        jobs: How many at a time.

    Raises:
        KeyboardInterrupt: Ctrl-C, after all have stopped.
    """
    waiting, running, failed = list(cells), dict[Cell, Job](), list[Cell]()
    progress = Progress("runs", sum(plan.config(cell, folder).num_updates for cell in cells))
    progress.start_at(_updates_done(plan, cells, folder))
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running[cell] = start(cell)
            time.sleep(POLL_S)
            for cell, job in list(running.items()):
                if (ended_badly := job.failed()) is not None:
                    del running[cell]
                    failed += [cell] if ended_badly else []
            note = " and ".join(f"{cell.setting}, seed {cell.seed}" for cell in running)
            progress.show(_updates_done(plan, cells, folder), note)
    except BaseException:
        _stop(list(running.values()))
        raise
    progress.close(f"{len(cells) - len(failed)} done, {len(failed)} failed")
    return failed


def _stop(jobs: Sequence[Job]) -> None:
    """Ask all to end, then wait for them; a second Ctrl-C ends them at once."""
    try:
        for job in jobs:
            job.interrupt()
        for job in jobs:
            job.wait()
    except BaseException:
        for job in jobs:
            job.kill()
        raise


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """A block in which being told to end, or a terminal that is closed, is what Ctrl-C is."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def log_of(cell: Cell, folder: Path) -> Path:
    """Where a run's process writes what it says."""
    return folder / f"{cell.folder}.log"


def starter(command: Callable[[Cell], Sequence[str]], plan: Plan, folder: Path, *, ray: bool) -> Callable[[Cell], Job]:
    """What starts a run.

    Args:
        command: The command line of a run.
        plan: The ablation.
        folder: Where its runs stand; on a Ray cluster one that all machines see.
        ray: Whether Ray starts them.

    Raises:
        MissingExtraError: Ray is wanted and not installed.
    """
    if not ray:
        return lambda cell: Process(command(cell), log_of(cell, folder))
    module: Any = require("ray", "ray")
    if not module.is_initialized():
        module.init(log_to_driver=False)
    there = bool(module.cluster_resources().get("GPU"))
    return lambda cell: RayTask(command(cell), log_of(cell, folder), _gpus(plan.config(cell, folder).device, there))


def _gpus(device: str, there: bool) -> int:
    """How many GPUs a run is given: it sees no other.

    Raises:
        ConfigError: It names one by its number.
    """
    if device.startswith("cuda:"):
        raise ConfigError(f"device is {device!r}; on Ray a run sees its own GPU alone: write 'cuda' or 'auto'")
    return int(device == "cuda" or (device == "auto" and there))


def cell_command(plan_file: Path, folder: Path, cell: Cell) -> list[str]:
    """The command line that makes one run."""
    command = [sys.executable, "-m", "agents.cli", "ablate", str(plan_file.resolve())]
    command += ["--output-dir", str(folder.resolve()), f"--only={cell.setting}", "--seeds", str(cell.seed)]
    return [*command, "--runs-only"]


def _updates_done(plan: Plan, cells: Sequence[Cell], folder: Path) -> int:
    files = [plan.config(cell, folder).output_dir / METRICS_FILE for cell in cells]
    return sum(file.read_bytes().count(b"\n") for file in files if file.exists())
