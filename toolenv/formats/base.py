"""What formats have in common: the protocol, and reading tags and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from toolenv.episode import Task
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
        ends: With an error: whether the turn ends the episode all the same, without an answer. The formats of some
            checkpoints end where their model stops writing, whatever it wrote.
    """

    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None
    reply: str = ""
    error: str | None = None
    lenient: bool = False
    ends: bool = False


class Format(Protocol):
    """How a model speaks. What a format may say beside this is in ``toolenv.formats.letter``.

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


MAX_DEPTH = 64


def _depth(text: str) -> int:
    """How deep brackets nest, at most: those inside strings count too, which errs on the safe side."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def read_template(template: str | Path) -> str:
    """A template's text: the string itself, or the content of a ``Path``."""
    return template.read_text(encoding="utf-8") if isinstance(template, Path) else template


def extract(text: str, opening: str, closing: str) -> tuple[list[str], str]:
    """Bodies between tags, in order, and the text outside of them."""
    if opening not in text:
        return [], text
    bodies: list[str] = []
    rest: list[str] = []
    position = 0
    while True:
        start = text.find(opening, position)
        end = text.find(closing, start + len(opening)) if start >= 0 else -1
        if end < 0:
            return bodies, "".join([*rest, text[position:]])
        rest.append(text[position:start])
        bodies.append(text[start + len(opening) : end])
        position = end + len(closing)


_OPENING = re.compile("<(think|tool_call|answer|response)>")


def without_thoughts(action: str) -> str:
    """A turn without its ``<think>`` blocks: a draft in a thought is neither a call nor an answer.

    A thought that is not closed goes on to the end. Tags inside a call or an answer belong to it.

    Example:
        >>> without_thoughts("<think>Is it <answer>Lyon</answer>?</think><answer>Paris</answer>")
        '<answer>Paris</answer>'
    """
    if "<think>" not in action:
        return action
    kept: list[str] = []
    position = 0
    while (opening := _OPENING.search(action, position)) is not None:
        tag = opening.group(1)
        start, end = opening.start(), action.find(f"</{tag}>", opening.end())
        kept.append(action[position:start])
        if end < 0:
            return "".join(kept if tag == "think" else [*kept, action[start:]])
        position = end + len(f"</{tag}>")
        if tag != "think":
            kept.append(action[start:position])
    return "".join([*kept, action[position:]])


def json_call(text: str, arguments_key: str) -> ToolCall | str:
    """The call in a JSON object, or what is wrong with it."""
    # Counted before it is read: a record nested deeper could be read here and not be written later.
    if _depth(text) > MAX_DEPTH:
        return f"nested more than {MAX_DEPTH} deep"
    try:
        record = json.loads(text)
    except ValueError as error:  # JSONDecodeError, or an integer of more digits than Python converts
        return f"not valid JSON ({str(error)[:80]})"
    if not isinstance(record, dict) or not isinstance(record.get("name"), str):
        return 'not an object with a "name"'
    arguments = record.get(arguments_key, {})
    if not isinstance(arguments, dict):
        return f'"{arguments_key}" must be an object'
    return ToolCall(record["name"], arguments)
