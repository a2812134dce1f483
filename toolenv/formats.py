"""Formats: how a model writes calls and answers, and how results are shown to it.

A format turns the text of one turn into calls or an answer (``parse``), results into messages (``render``), and a
task with its tools into the first messages (``prompt``). Each reads in time linear in the text, whatever the text.
Every text that a model sees is a template: pass another string, or a ``Path`` to a file, to use your own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Protocol

from toolenv.episode import Task
from toolenv.errors import ConfigError
from toolenv.messages import Message, ToolCall, ToolResult


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a turn says.

    Attributes:
        calls: The tool calls.
        answer: The marked final answer, ``None`` where there is none.
        reply: The text outside of calls, stripped: an answer where the environment takes plain replies.
        error: What is wrong with the turn as a whole, in words for the model; then there are no calls, no answer.
        lenient: Whether only leniency made it readable.
    """

    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None
    reply: str = ""
    error: str | None = None
    lenient: bool = False


class Format(Protocol):
    """How a model speaks.

    Attributes:
        name: Short name, kept in episodes.
        stop: Strings after which a turn is over; samplers stop there and keep them.
        continues: Whether an observation goes on in the model's own message, as plain text, instead of standing in a
            message of its own.
    """

    name: str
    stop: tuple[str, ...]
    continues: bool

    def prompt(self, instruction: str, task: Task, schemas: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        """The first messages of an episode."""
        ...

    def parse(self, action: str) -> Parsed:
        """Read one turn. Never raises."""
        ...

    def render(self, results: Sequence[ToolResult]) -> tuple[Message, ...]:
        """Show results to the model."""
        ...

    def render_error(self, error: str) -> tuple[Message, ...]:
        """Tell the model what was wrong with its turn."""
        ...

    def write_call(self, call: ToolCall) -> str:
        """The text of a turn that makes this call: ``parse`` reads it back."""
        ...

    def write_answer(self, answer: str) -> str:
        """The text of a turn that gives this answer: ``parse`` reads it back."""
        ...


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
        if key != self._filled[0]:
            tools = "\n".join(json.dumps({"type": "function", "function": schema}) for schema in schemas)
            system = Template(self.system).safe_substitute(instruction=instruction, tools=tools)
            self._filled = (key, Message("system", system))
        return (self._filled[1], *task.history, Message("user", task.prompt))

    def parse(self, action: str) -> Parsed:
        """Read calls and an answer from tags."""
        bodies, rest = _extract(action, "<tool_call>", "</tool_call>")
        reply = rest.strip()
        answers, reply_without_answer = _extract(rest, "<answer>", "</answer>")
        if not bodies and self.lenient and not answers:
            loose = _loose_call(reply)
            if loose is not None:
                return Parsed((loose,), reply="", lenient=True)
        if not bodies and "<tool_call>" in action:
            return Parsed(error="<tool_call> is not closed; write the call inside <tool_call></tool_call>")
        calls = []
        for body in bodies:
            call = _json_call(body, "arguments")
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


class SearchR1:
    """Search-R1's text format: ``<search>`` queries, ``<information>`` results, an ``<answer>``.

    The text counts up to the first ``</search>``, else up to the first ``</answer>``. Our prompt is our own; public
    checkpoints want theirs, which you pass as ``template``.

    Args:
        template: Template of the user message; ``$question`` is filled in.
        tool: Name of the tool that a query calls.

    Source:
        PeterGriffinJin/Search-R1, ``search_r1/llm_agent/generation.py``.

    Example:
        >>> SearchR1().parse("<search> Lyon </search> and more").calls[0].arguments
        {'query': 'Lyon'}
    """

    name = "search_r1"
    stop: tuple[str, ...] = ("</search>", "</answer>")
    continues = True

    TEMPLATE = (
        "Answer the question below. Think inside <think></think> whenever you learn something. To look something up, "
        "write a query inside <search></search>; what is found comes back inside <information></information>. Search "
        "as often as you need. When you know the answer, write it inside <answer></answer>, without explanation."
        "\nQuestion: $question\n"
    )
    INVALID = (
        "\nThat action could not be read. A query stands inside <search></search>, the final answer inside "
        "<answer></answer>.\n"
    )

    def __init__(self, template: str | Path = TEMPLATE, invalid: str | Path = INVALID, tool: str = "search") -> None:
        self.template = read_template(template)
        self.invalid = read_template(invalid)
        self.tool = tool

    def prompt(self, instruction: str, task: Task, schemas: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        """One user message."""
        text = Template(self.template).safe_substitute(question=task.prompt, instruction=instruction)
        return (*task.history, Message("user", text))

    def parse(self, action: str) -> Parsed:
        """The first complete tag of the text that counts."""
        for tag in ("</search>", "</answer>"):
            end = action.find(tag)
            if end >= 0:
                action = action[: end + len(tag)]
                break
        found = [(action.find(f"<{tag}>"), tag) for tag in ("search", "answer")]
        for start, tag in sorted(item for item in found if item[0] >= 0):
            end = action.find(f"</{tag}>", start)
            if end >= 0:
                content = action[start + len(tag) + 2 : end].strip()
                if tag == "answer":
                    return Parsed(answer=content)
                return Parsed((ToolCall(self.tool, {"query": content}),))
        return Parsed(error="no complete <search> or <answer> in the action")

    def render(self, results: Sequence[ToolResult]) -> tuple[Message, ...]:
        """All results in one ``<information>`` block."""
        text = "\n".join(result.content for result in results).strip()
        return (Message("tool", f"\n\n<information>{text}</information>\n\n"),)

    def render_error(self, error: str) -> tuple[Message, ...]:
        """The fixed text for an action that cannot be read."""
        return (Message("tool", self.invalid),)

    def write_call(self, call: ToolCall) -> str:
        """The query inside ``<search>`` tags."""
        return f"<search> {call.arguments.get('query', '')} </search>"

    def write_answer(self, answer: str) -> str:
        """The answer inside ``<answer>`` tags."""
        return f"<answer> {answer} </answer>"


class ToRL:
    r"""ToRL's text format: a Python block, then ``\`\`\`output``, and the answer in ``\boxed{}``.

    The last complete Python block of a turn is the program. A box after it is the answer instead.

    Args:
        template: Template of the prompt; ``$question`` is filled in.
        tool: Name of the tool that a program calls.

    Source:
        GAIR-NLP/ToRL, ``verl/workers/rollout/vllm_rollout/vllm_rollout_spmd.py``.

    Example:
        >>> ToRL().parse("```python\nprint(1)\n```\n```output").calls[0].arguments
        {'code': 'print(1)\n'}
        >>> ToRL().parse("so it is \\boxed{4}").answer
        '4'
    """

    name = "torl"
    stop: tuple[str, ...] = ("```output",)
    continues = True

    TEMPLATE = (
        "Solve the problem below. Reason in words and write Python programs where they help: a program stands in a "
        "```python block, and its output comes back in a ```output block. Put the final answer in \\boxed{}."
        "\nProblem: $question\nSolution:\n"
    )

    def __init__(self, template: str | Path = TEMPLATE, tool: str = "python") -> None:
        self.template = read_template(template)
        self.tool = tool

    def prompt(self, instruction: str, task: Task, schemas: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        """One user message."""
        text = Template(self.template).safe_substitute(question=task.prompt, instruction=instruction)
        return (*task.history, Message("user", text))

    def parse(self, action: str) -> Parsed:
        """The last complete program, or the box after it."""
        program, end = _last_block(action)
        answer = last_boxed(action[end:])
        if answer is not None:
            return Parsed(answer=answer)
        if program is not None:
            return Parsed((ToolCall(self.tool, {"code": program}),))
        return Parsed(error="no complete ```python block and no \\boxed{} answer in the action")

    def render(self, results: Sequence[ToolResult]) -> tuple[Message, ...]:
        """The output block; the marker is the model's own where it wrote it."""
        text = "\n".join(result.content for result in results).strip()
        return (Message("tool", f"\n```output\n{text}\n```\n"),)

    def render_error(self, error: str) -> tuple[Message, ...]:
        """An output block that holds the error."""
        return (Message("tool", f"\n```output\nError: {error}\n```\n"),)

    def write_call(self, call: ToolCall) -> str:
        """The program in a Python block."""
        code = str(call.arguments.get("code", ""))
        return f"```python\n{code if code.endswith(chr(10)) else code + chr(10)}```"

    def write_answer(self, answer: str) -> str:
        r"""The answer in ``\boxed{}``."""
        return f"\\boxed{{{answer}}}"


class ToolRL:
    """ToolRL's text format: ``<think>``, then ``<tool_call>`` with one JSON object a line, or ``<response>``.

    Args:
        system: Template of the system message; ``$instruction`` and ``$tools`` are filled in.

    Source:
        qiancheng0/ToolRL, ``dataset/rlla_4k_raw`` and ``verl/utils/reward_score/rlla.py``.

    Example:
        >>> text = '<think>I look.</think>\\n<tool_call>\\n{"name": "f", "parameters": {"a": 1}}\\n</tool_call>'
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

    def __init__(self, system: str | Path = SYSTEM) -> None:
        self.system = read_template(system)

    def prompt(self, instruction: str, task: Task, schemas: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        """System message with numbered tools, then the task's history and its prompt."""
        tools = "\n".join(
            f"{i}. Name: {s['name']}\nDescription: {s.get('description', '')}\n"
            f"Parameters: {json.dumps(s.get('parameters', {}).get('properties', {}))}"
            for i, s in enumerate(schemas, start=1)
        )
        system = Template(self.system).safe_substitute(instruction=instruction, tools=tools)
        return (Message("system", system), *task.history, Message("user", task.prompt))

    def parse(self, action: str) -> Parsed:
        """Calls from the lines of the first ``<tool_call>``; a response where there is no call."""
        bodies, rest = _extract(action, "<tool_call>", "</tool_call>")
        responses, _ = _extract(rest, "<response>", "</response>")
        if not bodies and "<tool_call>" in action:
            return Parsed(error="<tool_call> is not closed")
        calls = []
        for line in bodies[0].strip().split("\n") if bodies else ():
            call = _json_call(line, "parameters")
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
        """One tool message with all results inside ``<obs>``."""
        text = "\n".join(f"{r.call.name}: {r.content}" for r in results)
        return (Message("tool", f"<obs>\n{text}\n</obs>"),)

    def render_error(self, error: str) -> tuple[Message, ...]:
        """The error inside ``<obs>``."""
        return (Message("tool", f"<obs>\nError: {error}\n</obs>"),)

    def write_call(self, call: ToolCall) -> str:
        """A thought and the call."""
        body = json.dumps({"name": call.name, "parameters": dict(call.arguments)})
        return f"<think>I call {call.name}.</think>\n<tool_call>\n{body}\n</tool_call>"

    def write_answer(self, answer: str) -> str:
        """A thought and the response."""
        return f"<think>I can answer.</think>\n<response>{answer}</response>"


FORMATS: dict[str, type[Format]] = {f.name: f for f in (Hermes, SearchR1, ToRL, ToolRL)}


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


def read_template(template: str | Path) -> str:
    """A template's text: the string itself, or the content of a ``Path``."""
    return template.read_text(encoding="utf-8") if isinstance(template, Path) else template


def last_boxed(text: str) -> str | None:
    r"""Content of the last ``\boxed{...}`` whose braces balance, ``None`` where there is none.

    Example:
        >>> last_boxed("\\boxed{1} or \\boxed{\\frac{1}{2}}")
        '\\frac{1}{2}'
    """
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    begin = start + len("\\boxed{")
    for position in range(begin, len(text)):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            if depth == 0:
                return text[begin:position].strip()
            depth -= 1
    return None


def _extract(text: str, opening: str, closing: str) -> tuple[list[str], str]:
    """Bodies between tags, in order, and the text outside of them."""
    if opening not in text:
        return [], text
    bodies, rest, position = [], [], 0
    while True:
        start = text.find(opening, position)
        end = text.find(closing, start + len(opening)) if start >= 0 else -1
        if end < 0:
            return bodies, "".join([*rest, text[position:]])
        rest.append(text[position:start])
        bodies.append(text[start + len(opening) : end])
        position = end + len(closing)


def _json_call(text: str, arguments_key: str) -> ToolCall | str:
    """The call in a JSON object, or what is wrong with it."""
    try:
        record = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        return f"not valid JSON ({error.__class__.__name__}: {str(error)[:80]})"
    except ValueError as error:  # an integer of more digits than Python converts
        return f"not valid JSON ({str(error)[:80]})"
    if not isinstance(record, dict) or not isinstance(record.get("name"), str):
        return 'not an object with a "name"'
    arguments = record.get(arguments_key, {})
    if not isinstance(arguments, dict):
        return f'"{arguments_key}" must be an object'
    return ToolCall(record["name"], arguments)


_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n\s*```\Z", re.DOTALL)


def _loose_call(text: str) -> ToolCall | None:
    """A call that is the whole text but for a Markdown fence; ``None`` where the text is anything else."""
    fenced = _FENCE.match(text)
    body = fenced.group(1) if fenced else text
    if not body.startswith("{"):
        return None
    call = _json_call(body, "arguments")
    return None if isinstance(call, str) else call


def _last_block(text: str) -> tuple[str | None, int]:
    """The last complete Python block, and where it ends (0 where there is none)."""
    end_of_search = len(text)
    while True:
        start = text.rfind("```python\n", 0, end_of_search)
        if start < 0:
            return None, 0
        begin = start + len("```python\n")
        end = text.find("```", begin)
        if end >= 0 and not text.startswith("```python", end):
            return text[begin:end], end + 3
        end_of_search = start
