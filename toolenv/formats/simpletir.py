"""SimpleTIR's text format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from toolenv.episode import Task
from toolenv.formats.base import Parsed, read_template
from toolenv.formats.torl import last_boxed
from toolenv.messages import Message, ToolCall, ToolResult

_FENCE = re.compile(r"```(?:py|python)?\n")
_CLOSING = "\n```"


class SimpleTIR:
    r"""SimpleTIR's text format: a program in a Markdown fence, its output after a fixed phrase, ``\boxed{}`` answers.

    A turn ends with its first complete fence, which no stop string can say: what is sampled after it is cut off. A box
    in the turn is the answer, and the program is run all the same; a box that the program prints is one too. A turn
    with neither is void: it ends the episode, and ``--void-turns mask-episode`` keeps it out of training. The
    environment needs ``results="simpletir"``.

    The text before a fence stays as the model wrote it; SimpleTIR strips the blanks in between, and so changes tokens.

    Args:
        template: Template of the prompt; ``$question`` is filled in.
        tool: Name of the tool that a program calls.
        plain: Whether the prompt goes without the chat template.

    Source:
        ltzheng/SimpleTIR, ``recipe/simpletir/agent_utils.py``.

    Example:
        >>> form = SimpleTIR()
        >>> form.parse("So:\n```python\nprint(1)\n```\nand so on").calls[0].arguments
        {'code': 'print(1)'}
        >>> form.cut("So:\n```python\nprint(1)\n```\nand so on")
        'So:\n```python\nprint(1)\n```'
    """

    name = "simpletir"
    stop: tuple[str, ...] = ()
    continues = True

    TEMPLATE = (
        "Solve the problem step by step. You may write whole Python programs between ``` fences; print() what you want "
        "to see, and it comes back after `Code execution result: `. final_answer(...) in a program gives the answer. "
        "Put the final answer in \\boxed{}.\nUser Question: $question\n"
    )

    def __init__(self, template: str | Path = TEMPLATE, tool: str = "python", *, plain: bool = False) -> None:
        self.template = read_template(template)
        self.tool = tool
        self.plain = plain

    def prompt(self, instruction: str, task: Task, schemas: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        """One user message."""
        text = Template(self.template).safe_substitute(question=task.prompt, instruction=instruction)
        return (*task.history, Message("user", text))

    def parse(self, action: str) -> Parsed:
        """The first program, and the last box of what counts."""
        begin, end = _first_fence(action)
        boxed = last_boxed(self.cut(action))
        if end:
            return Parsed((ToolCall(self.tool, {"code": action[begin:end].strip()}),), answer=boxed)
        if boxed is not None:
            return Parsed(answer=boxed)
        return Parsed(error="neither a complete program nor \\boxed{} in the turn", ends=True)

    def cut(self, action: str) -> str:
        """All up to the end of the first complete fence."""
        _, end = _first_fence(action)
        return action[: end + len(_CLOSING)] if end else action

    def render(self, results: Sequence[ToolResult]) -> tuple[Message, ...]:
        """The outputs; of a program that showed nothing, nothing."""
        text = "".join(f"\nCode execution result: {result.content}\n" for result in results if result.content)
        return (Message("tool", text),)

    def answer_in(self, results: Sequence[ToolResult]) -> str | None:
        """The box that a program printed."""
        return next((str(result.data["boxed"]) for result in results if "boxed" in result.data), None)

    def render_error(self, error: str) -> tuple[Message, ...]:
        """An error in the place of an output."""
        return (Message("tool", f"\nCode execution result: {error}\n"),)

    def write_call(self, call: ToolCall) -> str:
        """The program in a fence."""
        return f"```python\n{str(call.arguments.get('code', '')).strip()}\n```"

    def write_answer(self, answer: str) -> str:
        r"""The answer in ``\boxed{}``."""
        return f"\\boxed{{{answer}}}"


def _first_fence(text: str) -> tuple[int, int]:
    """Where the program in the first complete fence begins and ends; zeros where there is none.

    Where the first opening has no end, no later one has, so one search for each is enough.
    """
    opening = _FENCE.search(text)
    if opening is None:
        return 0, 0
    end = text.find(_CLOSING, opening.end())
    return (opening.end(), end) if end >= 0 else (0, 0)
