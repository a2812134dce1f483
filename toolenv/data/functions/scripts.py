"""Functions that a task offers, with the results that it scripts for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from toolenv.episode import Task
from toolenv.grading.calls import Accepted, accept_only, match_calls
from toolenv.messages import ToolCall
from toolenv.tools import Tool


class ScriptedFunction:
    """A function that a task offers: it looks its result up in the task's script.

    A call that the script does not hold gets a result that says only that it was done, and is the same every time.

    Args:
        schema: JSON schema of the function.
        script: Accepted arguments and result, in order of preference.

    Example:
        >>> schema = {"name": "f", "parameters": {"properties": {"city": {"type": "string"}}}}
        >>> f = ScriptedFunction(schema, [({"city": ["New York", "NYC"]}, '{"sky": "clear"}')])
        >>> f(city="NYC")
        '{"sky": "clear"}'
        >>> f(city="Lyon")
        '{"status": "ok", "received": {"city": "Lyon"}}'
    """

    def __init__(self, schema: Mapping[str, Any], script: Sequence[tuple[Accepted, str]] = ()) -> None:
        self.name: str = schema["name"]
        self.schema = schema
        self.script = tuple(script)

    def __call__(self, /, **arguments: Any) -> str:
        """The scripted result, or the one that only says that it was done."""
        call = ToolCall(self.name, arguments)
        for accepted, content in self.script:
            if match_calls([call], [ToolCall(self.name)], [accepted], [self.schema]):
                return content
        return json.dumps({"status": "ok", "received": arguments})

    def __deepcopy__(self, memo: dict[int, Any]) -> ScriptedFunction:
        return self


def scripted_functions(task: Task) -> dict[str, Tool]:
    """The functions of a task as tools, by name."""
    accepted = task.metadata.get("accepted") or [accept_only(call.arguments) for call in task.gold_calls]
    values = {_key(call): entry for call, entry in zip(task.gold_calls, accepted, strict=True)}
    scripts: dict[str, list[tuple[Accepted, str]]] = {}
    for entry in task.metadata.get("results", ()):
        call = ToolCall(**entry["call"])
        accepts = values.get(_key(call)) or accept_only(call.arguments)
        scripts.setdefault(call.name, []).append((accepts, entry["content"]))
    return {s["name"]: ScriptedFunction(s, scripts.get(s["name"], ())) for s in task.functions}


def _key(call: ToolCall) -> str:
    return json.dumps([call.name, dict(call.arguments)], sort_keys=True)
