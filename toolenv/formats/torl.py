"""ToRL's text format, and boxed answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from toolenv.episode import Task
from toolenv.formats.base import Parsed, read_template
from toolenv.messages import Message, ToolCall, ToolResult


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
