"""Tools: what a model may call, and the one place where their I/O happens."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

from toolenv.errors import ConfigError, InfrastructureError, ToolError, ToolTimeout
from toolenv.messages import ToolCall, ToolResult
from toolenv.tool_sessions import ToolSession

RETRIES = 2


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """A tool's text together with facts that rewards and reports may use and the model is not shown.

    Attributes:
        content: The text that the model is shown.
        data: JSON values.
        error: As ``ToolResult.error``: a tool that reports a failure with its text names the kind here.
    """

    content: str
    data: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


@runtime_checkable
class Tool(Protocol):
    """What an environment needs of a tool.

    A tool that has a true ``checks_arguments`` is called whatever the arguments are. A tool may also have
    ``batch(arguments: Sequence[Mapping]) -> Sequence[str | ToolOutput | Exception]``: it is then called once for all
    pending calls, of all environments, and returns one entry a call. ``retries`` is how often a call is tried again
    that failed for no fault of the model: a tool that does so by itself says 0.

    A tool whose calls build on those before them in their episode has a true ``stateful``, a method
    ``open_session(turns) -> ToolSession``, and a ``batch`` that takes the session of each call as its second argument.

    Attributes:
        name: Name by which the model calls it.
        schema: JSON schema of the function: ``name``, ``description`` and ``parameters``.
    """

    name: str
    schema: Mapping[str, Any]

    def __call__(self, **arguments: Any) -> str | ToolOutput:
        """Run one call.

        Raises:
            ToolError: What the model did wrong, in words for the model.
            InfrastructureError: Something else broke; the call is retried, then the episode is dropped.
        """
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """A call whose tool exists and whose arguments fit.

    Attributes:
        tool: The tool.
        call: The call.
        session: What the tool keeps of the call's episode, where it is ``stateful``.
    """

    tool: Tool
    call: ToolCall
    session: ToolSession | None = None


class FunctionTool:
    """A tool made of a Python function; see ``tool``."""

    def __init__(self, function: Callable[..., str | ToolOutput], name: str | None = None) -> None:
        self.function = function
        self.name = name or function.__name__
        self.schema: Mapping[str, Any] = schema_of(function, self.name)
        self.__doc__ = function.__doc__

    def __call__(self, **arguments: Any) -> str | ToolOutput:
        """Call the function."""
        return self.function(**arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> FunctionTool:
        return self

    def __repr__(self) -> str:
        return f"tool({self.name!r})"


def tool(function: Callable[..., str | ToolOutput]) -> FunctionTool:
    """Make a tool of a function with type hints and a docstring.

    The first paragraph of the docstring is the tool's description, and the lines of its ``Args:`` section describe
    the parameters.

    Raises:
        ConfigError: A parameter without a type hint, or with one that has no JSON form.

    Example:
        >>> @tool
        ... def add(a: int, b: int = 1) -> str:
        ...     '''Add two numbers.'''
        ...     return str(a + b)
        >>> add.schema["parameters"]["required"]
        ['a']
        >>> add(a=2)
        '3'
    """
    return FunctionTool(function)


_JSON_TYPES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}


def schema_of(function: Callable[..., Any], name: str | None = None) -> dict[str, Any]:
    """JSON schema of a function, from its signature, type hints and docstring.

    Raises:
        ConfigError: A parameter without a type hint, or with one that has no JSON form.
    """
    doc = inspect.getdoc(function) or ""
    described = _argument_docs(doc)
    hints = typing.get_type_hints(function)
    properties: dict[str, Any] = {}
    required = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ConfigError(f"tool {function.__name__!r}: parameter {parameter.name!r} must be an ordinary one")
        if parameter.name not in hints:
            raise ConfigError(f"tool {function.__name__!r}: parameter {parameter.name!r} needs a type hint")
        properties[parameter.name] = _type_schema(hints[parameter.name], function.__name__, parameter.name)
        if parameter.name in described:
            properties[parameter.name]["description"] = described[parameter.name]
        if parameter.default is inspect.Parameter.empty:
            required.append(parameter.name)
    return {
        "name": name or function.__name__,
        "description": " ".join(doc.split("\n\n")[0].split()),
        "parameters": {"type": "object", "properties": properties, "required": required},
    }


def _type_schema(hint: Any, function: str, parameter: str) -> dict[str, Any]:
    if hint in _JSON_TYPES:
        return {"type": _JSON_TYPES[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return {"type": sorted({_JSON_TYPES[type(value)] for value in arguments})[0], "enum": list(arguments)}
    if origin in (list, Sequence) or hint is list:
        items = _type_schema(arguments[0], function, parameter) if arguments else {}
        return {"type": "array", "items": items}
    if origin is dict:
        return {"type": "object"}
    if origin in (typing.Union, types.UnionType):
        rest = [a for a in arguments if a is not type(None)]
        if len(rest) == 1:
            schema = _type_schema(rest[0], function, parameter)
            return {**schema, "type": [schema["type"], "null"]} if len(rest) < len(arguments) else schema
    known = ", ".join(t.__name__ for t in _JSON_TYPES)
    raise ConfigError(
        f"tool {function!r}: parameter {parameter!r} has type {hint!r}, which has no JSON form; "
        f"use one of {known}, list[...], Literal[...] or an optional one of these"
    )


def _argument_docs(doc: str) -> dict[str, str]:
    """Descriptions from the ``Args:`` section of a Google-style docstring."""
    described: dict[str, str] = {}
    inside, current = False, ""
    for line in doc.splitlines():
        if line.strip() == "Args:":
            inside = True
        elif inside and line.strip() and not line.startswith(" "):
            break
        elif inside and line.startswith("    ") and not line.startswith("     ") and ":" in line:
            current, text = (part.strip() for part in line.split(":", 1))
            described[current] = text
        elif inside and current and line.strip():
            described[current] += " " + line.strip()
    return described


def tools_by_name(tools: Sequence[Tool]) -> dict[str, Tool]:
    """Tools by name, checked.

    Raises:
        ConfigError: Two tools of one name, a schema of another name, or a required parameter that is not described.
    """
    named: dict[str, Tool] = {}
    for item in tools:
        if item.name in named:
            raise ConfigError(f"two tools are called {item.name!r}; names must be unique")
        if item.schema.get("name") != item.name:
            raise ConfigError(f"tool {item.name!r} has the name {item.schema.get('name')!r} in its schema")
        parameters = item.schema.get("parameters", {})
        for required in parameters.get("required", ()):
            if required not in parameters.get("properties", {}):
                raise ConfigError(f"tool {item.name!r} requires {required!r}, which its schema does not describe")
        named[item.name] = item
    return named


def describe_problem(call: ToolCall, tools: Mapping[str, Tool]) -> tuple[str, str] | None:
    """What is wrong with a call, as (kind, message for the model); ``None`` where it can be executed."""
    if call.name not in tools:
        near = difflib.get_close_matches(call.name, tools, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        available = ", ".join(sorted(tools)) or "none"
        return "unknown_tool", f"unknown tool '{_short(call.name)}'; available: {available}.{hint}"
    if getattr(tools[call.name], "checks_arguments", False):
        return None
    problems = argument_problems(call.arguments, tools[call.name].schema.get("parameters", {}))
    if problems:
        return "bad_arguments", f"bad arguments for '{call.name}': {'; '.join(problems)}"
    return None


def argument_problems(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[str]:
    """What in ``arguments`` does not fit a JSON schema of type object; empty where all fits.

    Example:
        >>> schema = {"properties": {"query": {"type": "string"}}, "required": ["query"]}
        >>> argument_problems({"qery": "x"}, schema)
        ["missing 'query'", "unknown argument 'qery'. Did you mean 'query'?"]
    """
    properties = parameters.get("properties", {})
    problems = [f"missing '{name}'" for name in parameters.get("required", ()) if name not in arguments]
    for name, value in arguments.items():
        if name in properties:
            problem = _value_problem(value, properties[name])
            if problem:
                problems.append(f"'{name}' {problem}")
        elif not parameters.get("additionalProperties"):
            near = difflib.get_close_matches(name, properties, n=1)
            problems.append(f"unknown argument '{_short(name)}'." + (f" Did you mean '{near[0]}'?" if near else ""))
    return problems


def _value_problem(value: Any, schema: Mapping[str, Any]) -> str | None:
    expected = schema.get("type")
    if expected and not any(_has_type(value, t) for t in ([expected] if isinstance(expected, str) else expected)):
        return f"must be of type {expected}, not {_short(json.dumps(value))}"
    if "enum" in schema and value not in schema["enum"]:
        return f"must be one of {schema['enum']}, not {_short(json.dumps(value))}"
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, item in enumerate(value):
            problem = _value_problem(item, schema["items"])
            if problem:
                return f"item {index} {problem}"
    if isinstance(value, dict) and schema.get("properties"):
        nested = argument_problems(value, schema)
        return "; ".join(nested) or None
    return None


def _has_type(value: Any, name: str) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match name:
        case "string":
            return isinstance(value, str)
        case "integer":
            return is_number and (isinstance(value, int) or (math.isfinite(value) and value.is_integer()))
        case "number" | "float":
            return is_number
        case "boolean":
            return isinstance(value, bool)
        case "array" | "tuple":
            return isinstance(value, list)
        case "object" | "dict":
            return isinstance(value, dict)
        case "null":
            return value is None
        case _:
            return True


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def execute(jobs: Sequence[Job]) -> list[ToolResult | InfrastructureError]:
    """Run all pending calls: the only I/O of a step.

    The calls of one tool that has ``batch`` become one call of it, whichever environments they come from; the others
    run one by one in their order, since what one does may matter to the next. An infrastructure failure is retried,
    ``RETRIES`` times where the tool does not say how often, then returned in its place, so that one lost call does not
    take the others along.

    Args:
        jobs: The calls.

    Returns:
        One result a job, in order; an ``InfrastructureError`` where the call could not be served at all.
    """
    outcomes: list[ToolResult | InfrastructureError | None] = [None] * len(jobs)
    groups: dict[tuple[str, int], list[int]] = {}
    for index, job in enumerate(jobs):
        key = ("batch", id(job.tool)) if hasattr(job.tool, "batch") else ("call", index)
        groups.setdefault(key, []).append(index)
    for indices in groups.values():
        pending = indices
        retries: int = getattr(jobs[indices[0]].tool, "retries", RETRIES)
        for attempt in range(1 + retries):
            outputs = _run([jobs[i] for i in pending])
            lost = []
            for i, output in zip(pending, outputs, strict=True):
                # A tool's own bug is not retried: it would only happen again, side effects included.
                is_lost = isinstance(output, InfrastructureError) and not isinstance(output, _ToolBugError)
                if is_lost and attempt < retries:
                    lost.append(i)
                else:
                    outcomes[i] = _to_result(jobs[i].call, output)
            pending = lost
            if not pending:
                break
    return typing.cast("list[ToolResult | InfrastructureError]", outcomes)


def _run(jobs: Sequence[Job]) -> Sequence[str | ToolOutput | Exception]:
    """One attempt at the calls of one tool, or at one call of a tool without ``batch``."""
    batch = getattr(jobs[0].tool, "batch", None)
    if batch is None:
        return [_guard(partial(job.tool, **job.call.arguments), job.tool) for job in jobs]
    run = partial(batch, [job.call.arguments for job in jobs])
    if getattr(jobs[0].tool, "stateful", False):
        run = partial(run, [job.session for job in jobs])
    outputs: Any = _guard(run, jobs[0].tool)
    if isinstance(outputs, Exception):
        return [outputs] * len(jobs)
    if len(outputs) != len(jobs):
        raise ConfigError(
            f"tool {jobs[0].tool.name!r}: batch returned {len(outputs)} entries for {len(jobs)} calls; "
            "it must return one a call"
        )
    return list(outputs)


class _ToolBugError(InfrastructureError):
    """A tool raised what it should not."""


def _guard(run: Callable[[], Any], tool: Tool) -> Any:
    """Run; return errors. A tool's own bug is nobody's wrong call: it counts as infrastructure."""
    try:
        return run()
    except (ToolError, InfrastructureError) as error:
        return error
    except Exception as error:
        failure = _ToolBugError(f"tool {tool.name!r} raised {error!r}; tools report by ToolError")
        failure.__cause__ = error
        return failure


def _to_result(call: ToolCall, output: str | ToolOutput | Exception) -> ToolResult | InfrastructureError:
    match output:
        case InfrastructureError():
            return output
        case ToolTimeout():
            return ToolResult(call, f"Error: {output}", "timeout")
        case Exception():
            return ToolResult(call, f"Error: {output}", "tool_error")
        case ToolOutput():
            return ToolResult(call, output.content, output.error, output.data)
        case str():
            return ToolResult(call, output)
        case _:
            return InfrastructureError(f"tool {call.name!r} returned {output!r}; a tool returns a str or a ToolOutput")
