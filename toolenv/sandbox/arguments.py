"""What a caller gives is looked at before it costs anything: a worker that met it first would be lost."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from toolenv.errors import ConfigError


def whole(name: str, value: Any, *, like: str, least: int = 1, most: int | None = None) -> int:
    """A whole number that a caller gave.

    Args:
        name: What the caller calls it.
        value: What the caller gave.
        like: How one may be written.
        least: The smallest one that makes sense.
        most: The largest one; ``None``: there is none.

    Raises:
        ConfigError: Another type (a float, even a whole one; a boolean), or out of range.

    Example:
        >>> whole("memory_bytes", "1g", like="1 << 30")
        Traceback (most recent call last):
        toolenv.errors.ConfigError: memory_bytes must be a whole number of at least 1, such as 1 << 30; got '1g'
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if number >= least and (most is None or number <= most):
            return number
    span = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ConfigError(f"{name} must be a whole number {span}, such as {like}; got {value!r}")


def seconds(name: str, value: Any, *, most: float) -> float:
    """A time limit that a caller gave.

    Args:
        name: What the caller calls it.
        value: What the caller gave.
        most: The longest one.

    Raises:
        ConfigError: No number, or not from 0 to ``most``.
    """
    number: Any = value
    if isinstance(value, Real) and not isinstance(value, bool) and 0 <= number <= most:  # not a number is in no range
        return float(number)
    raise ConfigError(f"{name} must be a number of seconds from 0 to {most:g}, not {value!r}")


def check_name(name: str, value: Any) -> None:
    """Refuse what names nothing: no text, or an empty one.

    Raises:
        ConfigError: It is so.
    """
    check_text(name, value)
    if not value.strip():
        raise ConfigError(f"{name} must be a name, not {value!r}")


def check_text(name: str, value: Any) -> None:
    """Refuse what is no text.

    Raises:
        ConfigError: Another type.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be text, not {value!r:.100}")
