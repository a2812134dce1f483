"""A trainer as a command: its settings are the options, and an error is one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agents.config import TrainConfig
from agents.resume import CONFIG_FILE
from toolenv.errors import ConfigError, MissingExtraError, ToolEnvError
from toolenv.extras import require

if TYPE_CHECKING:
    from agents.session import TrainResult

Settings = TypeVar("Settings")
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
        if config.resume and not (config.output_dir / CONFIG_FILE).exists():
            raise ConfigError(
                f"there is no run to resume in {config.output_dir}; leave out --resume to start one there"
            )
        result = train(config)
    except ToolEnvError as error:
        return say_failed(error)
    except KeyboardInterrupt:  # while the model was loaded; the run itself hears it in train
        return 130
    if result.interrupted:
        return 130
    print(f"{result.update} updates; checkpoint: {result.checkpoint}")
    return 0


def say_failed(error: ToolEnvError) -> int:
    """Print an error as one line; returns the exit status: 2 where settings or an installation are wrong, else 1."""
    print(f"error: {error}", file=sys.stderr)
    return 2 if isinstance(error, ConfigError | MissingExtraError) else 1


def parse_command_line(
    config: type[Settings], arguments: Sequence[str] | None = None, prog: str | None = None
) -> Settings:
    """Read a configuration from the command line; dictionaries are written as JSON.

    Args:
        config: The dataclass.
        arguments: Words of the command line; ``None``: those of this process.
        prog: How the command is called in ``--help``.

    Raises:
        ConfigError: Values that do not fit.
        SystemExit: ``--help``, or an option that does not exist.
    """
    tyro = require("tyro", "train")
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule  # type: ignore[untyped-decorator]
    def json_object(info: Any) -> Any:
        if getattr(info.type, "__origin__", None) is not dict:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="JSON",
            instance_from_str=lambda words: _json_object(words[0]),
            is_instance=lambda value: isinstance(value, Mapping),
            str_from_instance=lambda value: [json.dumps(value)],
        )

    # A sequence grows with each time that its option is given; by itself, the last one alone would count.
    grows = (tyro.conf.UseAppendAction,)
    parsed: Settings = tyro.cli(config, args=arguments, prog=prog, registry=registry, config=grows)
    return parsed


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object: {text}")
    return value
