"""What looks on while transformers' Trainer trains a reward model."""

from __future__ import annotations

from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from toolenv.progress import Progress


class StopEarly(EarlyStoppingCallback):
    """Stops where the looks get no better, and stays stopped where a kill came between the last look and the end."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Do not go on with what had been stopped: one update is made, and the best weights are loaded again."""
        super().on_train_begin(args, state, control, **more)  # type: ignore[no-untyped-call]
        control.should_training_stop = self.early_stopping_patience_counter >= self.early_stopping_patience


class ShowProgress(TrainerCallback):
    """Says how far the training is, on stderr.

    Args:
        look: What the looks at held-out data tell, in words: ``"accuracy"``.
        metric: Its name among the metrics.
    """

    def __init__(self, look: str, metric: str) -> None:
        self.look, self.metric = look, metric
        self._progress: Progress | None = None
        self._note = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Begin to count, where the training begins or goes on."""
        self._progress = Progress("training", state.max_steps)
        self._progress.start_at(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Count an update."""
        if self._progress is not None:
            self._progress.show(state.global_step, f"update {state.global_step} of {state.max_steps}{self._note}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Keep what was seen."""
        self._note = f", held-out {self.look} {more['metrics'][self.metric]:.3f} at {state.global_step}"

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Write the last line."""
        if self._progress is not None:
            self._progress.close(f"{state.global_step} updates; best look: update {state.best_global_step}")
