"""The bundled functions: their schemas, the sentences that ask for them and what they return.

``domains/*.json`` holds a list of functions a domain. Beside what a schema needs, each parameter names in ``from``
where its values come from (see ``slots``), ``do`` and ``ask`` hold sentences with ``{parameter}`` slots (a list gives
the sentence and the arguments that its words imply), and ``result`` describes what the function returns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence that asks for a call.

    Attributes:
        text: With a ``{parameter}`` slot for each argument that it names.
        implied: Arguments that its words imply without naming.
    """

    text: str
    implied: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the catalogue.

    Attributes:
        name: Its name.
        domain: Domain it belongs to.
        schema: JSON schema, as the model is shown it.
        slots: For each parameter, where its values come from.
        imperatives: Clauses such as ``play "{title}"``, which can be joined.
        questions: Whole sentences.
        result: Description of what it returns.
        near: Functions of other domains that could serve the same request.
    """

    name: str
    domain: str
    schema: Mapping[str, Any]
    slots: Mapping[str, Any]
    imperatives: tuple[Sentence, ...]
    questions: tuple[Sentence, ...]
    result: Mapping[str, Any]
    near: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Chain:
    """Two calls of which the second needs the first one's result.

    Attributes:
        calls: Names of the two functions.
        link: Field of the first result, by the parameter of the second call that it becomes.
        same: Argument of the first call, by the parameter of the second call that repeats it.
        prompts: Sentences with ``{0.parameter}`` and ``{1.parameter}`` slots.
    """

    calls: tuple[str, str]
    link: Mapping[str, str]
    same: Mapping[str, str]
    prompts: tuple[str, ...]


@cache
def functions() -> Mapping[str, Function]:
    """All bundled functions by name."""
    found: dict[str, Function] = {}
    folder = files(__package__).joinpath("domains")
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".json"):
            for record in json.loads(file.read_text(encoding="utf-8")):
                function = _function(record, file.name.removesuffix(".json"))
                found[function.name] = function
    return found


@cache
def chains() -> tuple[Chain, ...]:
    """All bundled chains of two calls."""
    return tuple(
        Chain(tuple(record["calls"]), record["link"], record.get("same", {}), tuple(record["prompts"]))
        for record in _read("chains.json")
    )


@cache
def pools() -> Mapping[str, list[Any]]:
    """Tables of values by name; an entry is a value, or an object with ``value``, ``say`` and ``also``."""
    return _read("pools.json")  # type: ignore[no-any-return]


def _read(name: str) -> Any:
    return json.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def _function(record: Mapping[str, Any], domain: str) -> Function:
    parameters = record["parameters"]
    shown = {name: {k: v for k, v in spec.items() if k != "from"} for name, spec in parameters.items()}
    return Function(
        name=record["name"],
        domain=domain,
        schema={
            "name": record["name"],
            "description": record["description"],
            "parameters": {"type": "object", "properties": shown, "required": record["required"]},
        },
        slots={name: spec.get("from", {"enum": spec.get("enum", [])}) for name, spec in parameters.items()},
        imperatives=tuple(_sentence(entry) for entry in record["do"]),
        questions=tuple(_sentence(entry) for entry in record.get("ask", ())),
        result=record["result"],
        near=frozenset(record.get("near", ())),
    )


def _sentence(entry: Any) -> Sentence:
    return Sentence(entry) if isinstance(entry, str) else Sentence(entry[0], entry[1])
