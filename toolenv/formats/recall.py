"""ReCall's text format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from toolenv.episode import Task
from toolenv.formats.base import Parsed, extract, json_call, read_template
from toolenv.formats.torl import last_boxed
from toolenv.messages import Message, ToolCall, ToolResult

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class ReCall:
    r"""ReCall's text format: JSON in ``<tool_call>`` tags, results in one user message, the answer in ``\boxed{}``.

    Every message of the model starts with ``<think>``, which the environment writes; a turn has what follows it.
    Calls are read wherever they stand, also in a thought, and not at all where the tags do not pair up. A turn without
    calls is the last one.

    Args:
        system: Template of the system message; ``$tools`` and ``$instruction`` are filled in.

    Source:
        Agent-RL/ReCall, ``src/verl/utils/dataset/template.py`` and the inference client.

    Example:
        >>> ReCall().parse('Look.</think><tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>').calls
        (ToolCall(name='f', arguments={'a': 1}),)
        >>> ReCall().parse("I know.</think> It is \\boxed{Paris}.").answer
        'Paris'
    """

    name = "recall"
    stop: tuple[str, ...] = ()
    continues = False
    opening = "<think>"
    tool_role = "user"

    SYSTEM = (
        "$instruction\n\nThese functions may be called, in several rounds and several in a round; here are their JSON "
        "schemas:\n```json\n$tools\n```\nThink first, inside <think></think>. Then call functions, each as a JSON "
        'object:\n<tool_call>\n{"name": function-name, "arguments": {argument-name: value}}\n</tool_call>\n'
        "Their results come back to you. When you know the answer, call nothing and write it inside \\boxed{}."
    )

    def __init__(self, system: str | Path = SYSTEM) -> None:
        self.system = read_template(system)

    def prompt(self, instruction: str, task: Task, schemas: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        """System message with the tools, then the task's history and its prompt."""
        tools = json.dumps([dict(schema) for schema in schemas], indent=4)
        system = Template(self.system).safe_substitute(instruction=instruction, tools=tools)
        return (Message("system", system), *task.history, Message("user", task.prompt))

    def parse(self, action: str) -> Parsed:
        """All calls, or the last box."""
        calls = []
        for body in _bodies(action):
            call = json_call(body, "arguments")
            if isinstance(call, str):
                return Parsed(error=f"cannot read the tool call: {call}")
            calls.append(call)
        if calls:
            return Parsed(tuple(calls))
        answer = last_boxed(action)
        if answer is None:
            return Parsed(error="the turn has neither a tool call nor \\boxed{}", ends=True)
        return Parsed(answer=answer, reply=action.rpartition("</think>")[2].strip())

    def render(self, results: Sequence[ToolResult]) -> tuple[Message, ...]:
        """All results in one message, each after its call."""
        return self.render_after("".join(f"{_OPEN}{_text_of(r.call)}{_CLOSE}" for r in results), results)

    def render_after(self, action: str, results: Sequence[ToolResult]) -> tuple[Message, ...]:
        """All results in one message, each after its call as the model wrote it."""
        told = [f"{'error' if r.error else 'result'}: \n{r.content}".strip() for r in results]
        pairs = zip(_bodies(action), told, strict=True)
        return (Message("tool", "".join(f"<tool_response>{call}\n{text}\n</tool_response>\n" for call, text in pairs)),)

    def render_error(self, error: str) -> tuple[Message, ...]:
        """The error in the place of a result."""
        return (Message("tool", f"<tool_response>\nerror: \n{error}\n</tool_response>\n"),)

    def write_call(self, call: ToolCall) -> str:
        """The end of a thought, and the call."""
        return f"I call {call.name}.</think>\n{_OPEN}\n{_text_of(call)}\n{_CLOSE}"

    def write_answer(self, answer: str) -> str:
        r"""The end of a thought, and the answer in ``\boxed{}``."""
        return f"I know the answer.</think>\n\\boxed{{{answer}}}"


def _text_of(call: ToolCall) -> str:
    return json.dumps({"name": call.name, "arguments": dict(call.arguments)})


def _bodies(action: str) -> list[str]:
    """What stands between the tags; nothing where they do not pair up."""
    bodies, rest = extract(action, _OPEN, _CLOSE)
    return [] if _OPEN in rest or _CLOSE in rest else [body.strip() for body in bodies]
