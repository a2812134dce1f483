"""Function-calling tasks from files, refused with their line where an environment or a reward would fail over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolenv.data.functions.scripts import scripted_functions
from toolenv.data.jsonl import as_text, read_records, task_set
from toolenv.data.text_files import short
from toolenv.episode import Task, TaskSet, task_from_json
from toolenv.errors import ConfigError, DataError
from toolenv.grading.calls import match_calls
from toolenv.grading.episodes import MATCHES
from toolenv.tools import tools_by_name


def read_function_tasks(path: str | Path) -> TaskSet:
    """Read tasks from JSONL, or from a JSON array: one object a task, with the fields of ``Task``.

    Raises:
        DataError: The file cannot be read, or holds what is not a function-calling task that its own gold calls solve;
            names file, line and reason.
    """
    return task_set(path, ((where, _read_task(record, where)) for where, _, record in read_records(path)))


def _read_task(record: Mapping[str, Any], where: str) -> Task:
    _check_record(record, where)
    try:
        task = task_from_json(record)
        tools = scripted_functions(task)
        if len(tools) != len(task.functions):
            raise DataError(f"{where}: two of its functions have one name; names must be unique")
        tools_by_name(list(tools.values()))
        match = match_calls(task.gold_calls, task.gold_calls, task.metadata.get("accepted"), task.functions)
    except ConfigError as error:
        raise DataError(f"{where}: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: not a function-calling task: {error!r}") from error
    if not match:
        raise DataError(f"{where}: its gold calls do not solve it: {match.reason}")
    return task


def _check_record(record: Mapping[str, Any], where: str) -> None:
    """Check the shapes that the constructors take as they come."""
    for name in ("id", "prompt"):
        _string(record.get(name), f"{where}: field {name!r}")
    for number, answer in enumerate(_list(record.get("answers", []), f"{where}: field 'answers'"), start=1):
        _string(answer, f"{where}: answer {number}")
    for number, message in enumerate(_list(record.get("history", []), f"{where}: field 'history'"), start=1):
        here = f"{where}: message {number} of 'history'"
        _string(_object(message, here).get("role"), f"{here}: field 'role'")
        _string(message.get("content"), f"{here}: field 'content'", blank=True)
    functions = _list(record.get("functions", []), f"{where}: field 'functions'")
    if not functions:
        raise DataError(f"{where}: it offers no function")
    for number, function in enumerate(functions, start=1):
        here = f"{where}: function {number}"
        _string(_object(function, here).get("name"), f"{here}: field 'name'")
        _check_schema(function.get("parameters", {}), f"{here}: 'parameters'")
    names = [function["name"] for function in functions]
    calls = _list(record.get("gold_calls", []), f"{where}: field 'gold_calls'")
    for number, call in enumerate(calls, start=1):
        _check_call(call, names, f"{where}: gold call {number}")
    metadata = _object(record.get("metadata", {}), f"{where}: field 'metadata'")
    _check_metadata(metadata, len(calls), names, f"{where}: field 'metadata'")


def _check_metadata(metadata: Mapping[str, Any], calls: int, names: Sequence[str], where: str) -> None:
    match, known = metadata.get("match", "bfcl"), [name for name in MATCHES if name != "world"]
    if match not in known or "world" in metadata:
        got = short(match) if match not in known else "a 'world', which only BFCL's own loader gives"
        raise DataError(f"{where}: 'match' must be one of {', '.join(known)}; got {got}")
    for number, message in enumerate(_list(metadata.get("follow_ups", []), f"{where}: 'follow_ups'"), start=1):
        here = f"{where}: message {number} of 'follow_ups'"
        _string(_object(message, here).get("prompt"), f"{here}: field 'prompt'")
    accepted = metadata.get("accepted")
    if accepted is not None:
        for entry in _list(accepted, f"{where}: 'accepted'"):
            for name, values in _object(entry, f"{where}: an entry of 'accepted'").items():
                _list(values, f"{where}: what 'accepted' has for {name!r}")
        if len(accepted) != calls:
            raise DataError(f"{where}: 'accepted' has {len(accepted)} entries for {calls} gold calls")
    for number, entry in enumerate(_list(metadata.get("results", []), f"{where}: 'results'"), start=1):
        here = f"{where}: result {number}"
        _only(_object(entry, here), ("call", "content"), here)
        _check_call(entry.get("call"), names, f"{here}: its call")
        _string(entry.get("content"), f"{here}: its 'content'", blank=True)
    steps = metadata.get("steps")
    if steps is not None:
        groups = [_list(step, f"{where}: a step of 'steps'") for step in _list(steps, f"{where}: 'steps'")]
        listed = [index for group in groups for index in group]
        whole = all(type(index) is int for index in listed) and sorted(listed) == list(range(calls))
        if not whole or not all(groups):
            raise DataError(
                f"{where}: 'steps' must group the indices 0 to {calls - 1} of the gold calls, each once, "
                f"in lists that are not empty; got {short(steps)}"
            )


def _check_call(call: Any, names: Sequence[str], where: str) -> None:
    _only(_object(call, where), ("name", "arguments"), where)
    if _string(call.get("name"), f"{where}: field 'name'") not in names:
        raise DataError(f"{where}: {call['name']!r} is none of its functions {short(names)}")
    _object(call.get("arguments", {}), f"{where}: field 'arguments'")


def _check_schema(schema: Any, where: str) -> None:
    """Check those parts of a JSON schema that calls are compared with."""
    kind = _object(schema, where).get("type", [])
    for name in [kind] if isinstance(kind, str) else _list(kind, f"{where}: field 'type'"):
        _string(name, f"{where}: field 'type'")
    for name in _list(schema.get("required", []), f"{where}: field 'required'"):
        _string(name, f"{where}: field 'required'")
    _list(schema.get("enum", []), f"{where}: field 'enum'")
    for name, inner in _object(schema.get("properties", {}), f"{where}: field 'properties'").items():
        _check_schema(inner, f"{where}: {name!r}")
    if isinstance(schema.get("items"), Mapping):
        _check_schema(schema["items"], f"{where}: field 'items'")


def _only(value: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    other = next((name for name in value if name not in names), None)
    if other is not None:
        raise DataError(f"{where} has a field {other!r}; its fields are {', '.join(names)}")


def _string(value: Any, where: str, *, blank: bool = False) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where} must be a text; got {short(value)}")
    return value if blank and not value.strip() else as_text(value, where)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{where} must be a list; got {short(value)}")
    return value


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where} must be an object; got {short(value)}")
    return value
