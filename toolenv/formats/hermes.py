"""Native function calling."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from toolenv.episode import Task
from toolenv.formats.base import Parsed, extract, json_call, read_template, without_thoughts
from toolenv.messages import Message, ToolCall, ToolResult


class Hermes:
    """Native function calling: JSON in ``<tool_call>`` tags, the answer in ``<answer>`` tags.

    Several calls may stand in one turn. A turn with both calls and an answer is told to choose.

    Args:
        system: Template of the system message; ``$instruction`` and ``$tools`` are filled in.
        lenient: Whether a call in a Markdown block or as bare JSON, which is what small models write, is read too; it
            is marked as lenient in the record.

    Example:
        >>> Hermes().parse('<tool_call>{"name": "search", "arguments": {"query": "x"}}</tool_call>').calls[0].name
        'search'
        >>> Hermes().parse("<answer> Paris </answer>").answer
        'Paris'
    """

    name = "hermes"
    stop: tuple[str, ...] = ()
    continues = False

    SYSTEM = (
        "$instruction\n\n"
        "You may call these functions, given as JSON schemas inside <tools></tools>:\n<tools>\n$tools\n</tools>\n"
        "To call one, write a JSON object with its name and arguments inside <tool_call></tool_call>, for example:\n"
        '<tool_call>\n{"name": "function-name", "arguments": {"argument-name": "value"}}\n</tool_call>\n'
        "Results come back inside <tool_response></tool_response>. You may make several calls in one turn. "
        "When you are done, write the final answer inside <answer></answer>."
    )

    def __init__(self, system: str | Path = SYSTEM, lenient: bool = True) -> None:
        self.system = read_template(system)
        self.lenient = lenient
        # The last system message: most environments offer the same tools at every reset.
        self._filled: tuple[Any, Message] = (None, Message("system", ""))

    def prompt(self, instruction: str, task: Task, schemas: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        """System message with the tools, then the task's history and its prompt."""
        key = (instruction, list(schemas))
        filled = self._filled  # read once, for environments in other threads may share the format
        if key != filled[0]:
            tools = "\n".join(json.dumps({"type": "function", "function": schema}) for schema in schemas)
            system = Template(self.system).safe_substitute(instruction=instruction, tools=tools)
            filled = self._filled = (key, Message("system", system))
        return (filled[1], *task.history, Message("user", task.prompt))

    def parse(self, action: str) -> Parsed:
        """Read calls and an answer from tags outside of ``<think>``."""
        action = without_thoughts(action)
        bodies, rest = extract(action, "<tool_call>", "</tool_call>")
        reply = rest.strip()
        answers, reply_without_answer = extract(rest, "<answer>", "</answer>")
        if not bodies and self.lenient and not answers:
            loose = _loose_call(reply)
            if loose is not None:
                return Parsed((loose,), reply="", lenient=True)
        if not bodies and "<tool_call>" in action:
            return Parsed(error="<tool_call> is not closed; write the call inside <tool_call></tool_call>")
        if not answers and "<answer>" in rest:
            return Parsed(error="<answer> is not closed; write the answer inside <answer></answer>")
        if "<tool_response>" in action:
            return Parsed(error="only the environment writes <tool_response>; nothing was executed")
        calls = []
        for body in bodies:
            call = json_call(body, "arguments")
            if isinstance(call, str):
                return Parsed(error=f"cannot read the tool call: {call}")
            calls.append(call)
        if calls and answers:
            return Parsed(error="one turn holds either tool calls or an answer, not both; nothing was executed")
        if answers:
            return Parsed(answer=answers[-1].strip(), reply=reply_without_answer.strip())
        return Parsed(tuple(calls), reply=reply)

    def render(self, results: Sequence[ToolResult]) -> tuple[Message, ...]:
        """One tool message a result."""
        return tuple(
            Message("tool", f"<tool_response>\n{r.content}\n</tool_response>", name=r.call.name) for r in results
        )

    def render_error(self, error: str) -> tuple[Message, ...]:
        """A tool message without a tool's name."""
        return (Message("tool", f"<tool_response>\nError: {error}\n</tool_response>"),)

    def write_call(self, call: ToolCall) -> str:
        """The call as JSON inside ``<tool_call>`` tags."""
        body = json.dumps({"name": call.name, "arguments": dict(call.arguments)})
        return f"<tool_call>\n{body}\n</tool_call>"

    def write_answer(self, answer: str) -> str:
        """The answer inside ``<answer>`` tags."""
        return f"<answer>{answer}</answer>"


def _loose_call(text: str) -> ToolCall | None:
    """A call that is the whole text but for a Markdown fence; ``None`` where the text is anything else."""
    lines = text.split("\n")
    if len(lines) > 2 and lines[0].strip() in ("```", "```json") and lines[-1].strip() == "```":
        text = "\n".join(lines[1:-1]).strip()
    if not text.startswith("{"):
        return None
    call = json_call(text, "arguments")
    return None if isinstance(call, str) else call
