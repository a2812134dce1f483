"""Progress of a training run on the terminal, with the time that is left."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from toolenv.extras import require


class TrainingProgress:
    """A bar for the updates and one for the episodes of the current update; plain lines where there is no terminal.

    Args:
        total: Updates of the whole run.
        done: Updates made before.
        quiet: Show nothing.

    Example:
        >>> with TrainingProgress(total=2, quiet=True) as progress:
        ...     progress.updated({"update": 1, "success_rate": 0.5})
    """

    def __init__(self, total: int, done: int = 0, quiet: bool = False) -> None:
        console = require("rich.console", "train")
        bars = require("rich.progress", "train")
        self.console = console.Console(stderr=True, quiet=quiet)
        self.total = total
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TextColumn("left"),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[news]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self._updates = self._bars.add_task("updates ", total=total, completed=done, news="")
        self._episodes = self._bars.add_task("episodes", total=None, news="")

    def __enter__(self) -> TrainingProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def played(self, ended: int, total: int) -> None:
        """So many episodes of the update have ended."""
        self._bars.update(self._episodes, completed=ended, total=total)

    def updated(self, metrics: Mapping[str, Any]) -> None:
        """An update is done."""
        news = ", ".join(
            f"{label} {metrics[name]:.3f}"
            for name, label in (
                ("success_rate", "success"),
                ("return", "return"),
                ("calls_per_episode", "calls"),
                ("eval/success_rate", "held-out success"),
            )
            if name in metrics
        )
        self._bars.update(self._updates, completed=metrics["update"], news=news)
        if not self.console.is_terminal:
            self.console.print(f"update {metrics['update']}/{self.total}: {news}", highlight=False)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
