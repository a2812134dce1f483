"""ToolRL's data: single steps of dialogues, with the calls that come next.

Every record is one step: tools and dialogue are text, and the output is ToolRL's own ``<think>``, ``<tool_call>`` and
``<response>``. The tools become functions, the dialogue before its last message becomes the task's history, and the
calls of the output become the gold calls.

Source:
    qiancheng0/ToolRL, ``dataset/rlla_4k`` (Parquet) and ``dataset/rlla_4k_raw`` (JSON), Apache-2.0.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolenv.data.jsonl import as_text, id_of, read_records, task_set, text_of
from toolenv.data.text_files import short
from toolenv.episode import Task, TaskSet
from toolenv.errors import DataError
from toolenv.extras import require
from toolenv.formats import ToolRL
from toolenv.messages import Message

_TOOL = re.compile(r"^\d+\. Name: (.*?)\nDescription: (.*?)\nParameters: (\{.*?\})$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"<(user|think|tool_call|obs|response)>(.*?)</\1>", re.DOTALL)
_ROLES = {"user": "user", "obs": "tool", "think": "assistant", "tool_call": "assistant", "response": "assistant"}


def load_rlla(path: str | Path) -> TaskSet:
    """Read rlla tasks.

    A record holds ``instruction``, ``input`` and ``output``, or holds them in ``extra_info``. ``metadata["match"]`` is
    ``"exact"``: the calls must equal the gold calls, in any order, which is where ToolRL's correctness is at its most;
    a task whose output has no call is right without one, and ``metadata["response"]`` has its words.

    Args:
        path: A ``.parquet`` file (needs ``pyarrow``), or ``.json`` or ``.jsonl``, plain or gzipped.

    Raises:
        DataError: The file cannot be read, or a record is not one of rlla; names file, record and reason.
        MissingExtraError: A Parquet file, and ``pyarrow`` is not installed.
    """
    path = Path(path)
    stem = path.name.split(".")[0]
    return task_set(path, ((where, _task(record, f"{stem}-{n}", where)) for where, n, record in _records(path)))


def _records(path: Path) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    if path.suffix != ".parquet":
        yield from read_records(path)
        return
    parquet = require("pyarrow.parquet", "data")
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", number, row


def _task(record: Mapping[str, Any], default_id: str, where: str) -> Task:
    nested = record.get("extra_info")
    fields = nested if isinstance(nested, Mapping) else record
    output = ToolRL().parse(text_of(fields, ("output",), where))
    if output.error is not None:
        raise DataError(f"{where}: its output cannot be read: {output.error}")
    messages = dialogue(text_of(fields, ("input",), where), where)
    return Task(
        id=id_of(record, default_id, where),
        prompt=messages[-1].content,
        gold_calls=output.calls,
        functions=described_tools(text_of(fields, ("instruction",), where), where),
        history=messages[:-1],
        metadata={"match": "exact", "response": output.answer or ""},
    )


def described_tools(text: str, where: str) -> tuple[dict[str, Any], ...]:
    r"""The tools of a system message in ToolRL's form, as JSON schemas of functions.

    Types stay as they are written, among them names that JSON schema does not have, which are not checked; beside
    each a text will do, since the gold calls often give one. No parameter is said to be required, and gold calls have
    some that are not described. Of two tools with one name the first is kept.

    Args:
        text: The system message.
        where: Where it stands, for errors.

    Raises:
        DataError: No tool, or parameters that cannot be read.

    Example:
        >>> text = '1. Name: add\nDescription: Add.\nParameters: {"a": {"type": "int"}}'
        >>> described_tools(text, "line 1")[0]["parameters"]["properties"]
        {'a': {'type': ['int', 'string']}}
    """
    tools: dict[str, dict[str, Any]] = {}
    for name, description, parameters in _TOOL.findall(text):
        properties = _read_parameters(parameters, f"{where}: tool {short(name)}")
        schema = {"type": "object", "properties": properties, "required": [], "additionalProperties": True}
        tools.setdefault(name, {"name": name, "description": description, "parameters": schema})
    if not tools:
        raise DataError(
            f"{where}: describes no tool; a tool is three lines, '1. Name: ', 'Description: ', 'Parameters: '"
        )
    return tuple(tools.values())


def _read_parameters(text: str, where: str) -> dict[str, Any]:
    """Parameters, written as JSON or as Python."""
    try:
        try:
            parameters = json.loads(text)
        except ValueError:
            parameters = ast.literal_eval(text)
        return {name: _property(spec) for name, spec in parameters.items()}
    except (ValueError, SyntaxError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"{where}: its parameters cannot be read ({error}): {short(text)}") from error


def _property(spec: Mapping[str, Any]) -> dict[str, Any]:
    kind = spec.get("type", "string")
    return {**spec, "type": kind if kind in ("string", "str") else [kind, "string"]}


def dialogue(text: str, where: str) -> tuple[Message, ...]:
    r"""The messages of a dialogue in ToolRL's form.

    What the assistant wrote between two others is one message, with its tags, and so is a result, with its ``<obs>``.

    Args:
        text: The dialogue.
        where: Where it stands, for errors.

    Raises:
        DataError: No message, or the last one is the assistant's.

    Example:
        >>> dialogue("<user> Hi. </user>\n<response> Yes? </response>\n<user> Add 1 and 2. </user>", "line 1")[-1]
        Message(role='user', content='Add 1 and 2.', name=None)
    """
    messages: list[Message] = []
    for block in _BLOCK.finditer(text):
        role = _ROLES[block[1]]
        content = block[2].strip() if role == "user" else block[0]
        if role == "assistant" and messages and messages[-1].role == role:
            content = messages.pop().content + "\n" + content
        messages.append(Message(role, content))
    if not messages or messages[-1].role == "assistant":
        last = f"the last is the {messages[-1].role}'s" if messages else "there is none"
        raise DataError(f"{where}: a dialogue ends with a message of the user or a result; {last}: {short(text)}")
    as_text(messages[-1].content, f"{where}: the last message")
    return tuple(messages)
