"""A trainer as a command: its settings are the options, and an error is one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from agents.config import TrainConfig, parse_command_line
from agents.session import TrainResult
from toolenv.errors import ConfigError, MissingExtraError, ToolEnvError

Config = TypeVar("Config", bound=TrainConfig)


def run_trainer(
    config_class: type[Config], train: Callable[[Config], TrainResult], arguments: Sequence[str] | None, prog: str
) -> int:
    """Train from the command line.

    Args:
        config_class: The trainer's settings.
        train: The trainer.
        arguments: Words of the command line; ``None``: those of this process.
        prog: How the command is called in ``--help``.

    Returns:
        Exit status: 0, 1 (the run failed), 2 (settings that do not fit, or an extra is missing), 130 (interrupted).
    """
    try:
        config = parse_command_line(config_class, arguments, prog=prog)
        if config.resume and not (config.output_dir / "metrics.jsonl").exists():
            raise ConfigError(
                f"there is no run to resume in {config.output_dir}; leave out --resume to start one there"
            )
        result = train(config)
    except ToolEnvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError | MissingExtraError) else 1
    except KeyboardInterrupt:  # while the model was loaded; the run itself hears it in train
        return 130
    if result.interrupted:
        return 130
    print(f"{result.update} updates; checkpoint: {result.checkpoint}")
    return 0
