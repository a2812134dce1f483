"""Formats: how a model writes calls and answers, and how results are shown to it.

A format turns the text of one turn into calls or an answer (``parse``), results into messages (``render``), and a
task with its tools into the first messages (``prompt``). Each reads in time linear in the text, whatever the text.
Every text that a model sees is a template: pass another string, or a ``Path`` to a file, to use your own.
"""

from __future__ import annotations

from toolenv.errors import ConfigError
from toolenv.formats.base import Format, Parsed
from toolenv.formats.hermes import Hermes
from toolenv.formats.search_r1 import SearchR1
from toolenv.formats.toolrl import ToolRL
from toolenv.formats.torl import ToRL, last_boxed

__all__ = ["FORMATS", "Format", "Hermes", "Parsed", "SearchR1", "ToRL", "ToolRL", "last_boxed", "make_format"]

FORMATS: dict[str, type[Format]] = {f.name: f for f in (Hermes, SearchR1, ToRL, ToolRL)}
"""Formats by the name that ``format=`` takes."""


def make_format(format: str | Format) -> Format:
    """The format of this name, or the format itself.

    Raises:
        ConfigError: A name that is not known.

    Example:
        >>> make_format("torl").name
        'torl'
    """
    if not isinstance(format, str):
        return format
    if format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}; choose one of {sorted(FORMATS)}, or pass a Format object")
    return FORMATS[format]()
