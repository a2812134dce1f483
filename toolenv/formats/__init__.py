"""Formats: how a model writes calls and answers, and how results are shown to it.

A format turns the text of one turn into calls or an answer (``parse``), results into messages (``render``), and a
task with its tools into the first messages (``prompt``). Each reads in time linear in the text, whatever the text.
Every text that a model sees is a template: pass another string, or a ``Path`` to a file, to use your own. What public
checkpoints need beyond the protocol is in ``letter``.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from toolenv.errors import ConfigError
from toolenv.formats.base import Format, Parsed
from toolenv.formats.hermes import Hermes
from toolenv.formats.recall import ReCall
from toolenv.formats.retool import ReTool
from toolenv.formats.search_r1 import SearchR1
from toolenv.formats.simpletir import SimpleTIR
from toolenv.formats.toolrl import ToolRL
from toolenv.formats.torl import ToRL, last_boxed

__all__ = [
    "FORMATS",
    "Format",
    "Hermes",
    "Parsed",
    "ReCall",
    "ReTool",
    "SearchR1",
    "SimpleTIR",
    "ToRL",
    "ToolRL",
    "last_boxed",
    "make_format",
]

FORMATS: dict[str, type[Format]] = {f.name: f for f in (Hermes, SearchR1, ToRL, ToolRL, SimpleTIR, ReTool, ReCall)}
"""Formats by the name that ``format=`` takes."""
TEMPLATES = ("template", "system", "user", "invalid")
"""Settings of formats that are texts for the model; in a format that is written as text they name files."""


def make_format(format: str | Format) -> Format:
    r"""The format of this name, or the format itself.

    Args:
        format: A ``Format``; or a name, after which settings may stand as JSON. There texts for the model are names of
            files, as for a public checkpoint whose prompt you have.

    Raises:
        ConfigError: A name or a setting that is not known, or a file that cannot be read.

    Example:
        >>> make_format("torl").name
        'torl'
        >>> make_format('torl{"lenient": false}').parse("I give up.").ends
        True
    """
    if not isinstance(format, str):
        return format
    name, brace, rest = format.partition("{")
    if name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}; choose one of {sorted(FORMATS)}, or pass a Format object")
    return FORMATS[name](**_settings(name, brace + rest) if brace else {})


def _settings(name: str, text: str) -> dict[str, Any]:
    """Settings of a format, as they are written behind its name."""
    known = [parameter for parameter in inspect.signature(FORMATS[name]).parameters]
    try:
        settings: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the settings of format {name!r} are no JSON object ({error}): {text!r:.80}") from error
    if unknown := [key for key in settings if key not in known]:
        raise ConfigError(f"format {name!r} has no setting {unknown[0]!r}; it has {', '.join(known)}")
    files = {key: Path(value) for key, value in settings.items() if key in TEMPLATES}
    if absent := [str(file) for file in files.values() if not file.is_file()]:
        raise ConfigError(f"format {name!r}: there is no file {absent[0]!r}; texts for the model are files here")
    return {**settings, **files}
