"""ToolRL's text format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from toolenv.episode import Task
from toolenv.formats.base import Parsed, extract, json_call, read_template, without_thoughts
from toolenv.messages import Message, ToolCall, ToolResult


class ToolRL:
    r"""ToolRL's text format: ``<think>``, then ``<tool_call>`` with one JSON object a line, or ``<response>``.

    ToolRL trains on single steps: the dialogue so far, the task's history with its last message, stands in one user
    message. What the model does from there on are turns of their own, where ToolRL's evaluation of several steps would
    write that one message anew.

    Args:
        system: Template of the system message; ``$instruction`` and ``$tools`` are filled in.
        user: Template of the user message; ``$dialogue`` is filled in.

    Source:
        qiancheng0/ToolRL, ``dataset/rlla_4k_raw``, ``verl/utils/reward_score/rlla.py`` and
        ``benchmarks/BFCL/rlla_qwen.py``.

    Example:
        >>> text = '<think>I look.</think>\n<tool_call>\n{"name": "f", "parameters": {"a": 1}}\n</tool_call>'
        >>> ToolRL().parse(text).calls
        (ToolCall(name='f', arguments={'a': 1}),)
    """

    name = "toolrl"
    stop: tuple[str, ...] = ()
    continues = False

    SYSTEM = (
        "$instruction\n\n**Available Tools**\n$tools\n\n**Output Format**\n"
        "Think first, then call tools or respond; an action has this shape:\n"
        "<think> your thoughts </think>\n<tool_call>\n"
        '{"name": "tool name", "parameters": {"parameter name": "value"}}\n'
        "</tool_call>\nor, where no call is needed,\n<think> your thoughts </think>\n<response> your reply </response>"
        "\nSeveral calls stand on a line each. Results come back inside <obs></obs>."
    )

    USER = "**Dialogue Records History**\n$dialogue"

    def __init__(self, system: str | Path = SYSTEM, user: str | Path = USER) -> None:
        self.system = read_template(system)
        self.user = read_template(user)

    def prompt(self, instruction: str, task: Task, schemas: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        """System message with numbered tools, and one user message with the dialogue."""
        tools = "\n".join(
            f"{i}. Name: {s['name']}\nDescription: {s.get('description', '')}\n"
            f"Parameters: {json.dumps(s.get('parameters', {}).get('properties', {}))}"
            for i, s in enumerate(schemas, start=1)
        )
        system = Template(self.system).safe_substitute(instruction=instruction, tools=tools)
        text = Template(self.user).safe_substitute(dialogue=_dialogue((*task.history, Message("user", task.prompt))))
        return (Message("system", system), Message("user", text))

    def parse(self, action: str) -> Parsed:
        """Calls from the lines of the first ``<tool_call>`` after the thought; a response where there is no call."""
        action = without_thoughts(action)
        bodies, rest = extract(action, "<tool_call>", "</tool_call>")
        responses, _ = extract(rest, "<response>", "</response>")
        if not bodies and "<tool_call>" in action:
            return Parsed(error="<tool_call> is not closed")
        calls = []
        for line in bodies[0].strip().split("\n") if bodies else ():
            call = json_call(line, "parameters")
            if isinstance(call, str):
                return Parsed(error=f"cannot read the tool call: {call}")
            calls.append(call)
        if calls:
            return Parsed(tuple(calls))
        if responses:
            reply = responses[0].strip()
            return Parsed(answer=reply, reply=reply)
        return Parsed(error="an action holds <tool_call></tool_call> or <response></response>; this one has neither")

    def render(self, results: Sequence[ToolResult]) -> tuple[Message, ...]:
        """One tool message, with an ``<obs>`` a result."""
        told = (f"You have made the tool call {r.call.name}. Execution returns: {r.content.strip()}" for r in results)
        return (Message("tool", "\n".join(f"<obs> {text} </obs>" for text in told)),)

    def render_error(self, error: str) -> tuple[Message, ...]:
        """The error inside ``<obs>``."""
        return (Message("tool", f"<obs> Error: {error} </obs>"),)

    def write_call(self, call: ToolCall) -> str:
        """A thought and the call."""
        body = json.dumps({"name": call.name, "parameters": dict(call.arguments)})
        return f"<think>I call {call.name}.</think>\n<tool_call>\n{body}\n</tool_call>"

    def write_answer(self, answer: str) -> str:
        """A thought and the response."""
        return f"<think>I can answer.</think>\n<response>{answer}</response>"


def _dialogue(messages: Sequence[Message]) -> str:
    """Messages as ToolRL writes a dialogue down: what the user says in tags, all else as it is, which has its own."""
    return "\n".join(
        f"<user> {message.content.strip()} </user>" if message.role == "user" else message.content.strip()
        for message in messages
    )
