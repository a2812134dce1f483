"""ToRL's text format, and boxed answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from toolenv.episode import Task
from toolenv.formats.base import Parsed, read_template
from toolenv.messages import Message, ToolCall, ToolResult

MARKER = "```output"


class ToRL:
    r"""ToRL's text format: a Python block, then ``\`\`\`output``, and the answer in ``\boxed{}``.

    The last Python block of a turn is the program: from a line that starts or ends with ``\`\`\`python`` to a line that
    starts with three backquotes. A box after it is the answer instead. The prompt is plain text, without a chat
    template. ToRL's checkpoints want their own, ``lenient=False``, and the environment's ``results="torl"``.

    Args:
        template: Template of the prompt; ``$question`` is filled in.
        tool: Name of the tool that a program calls.
        lenient: Whether a program without the marker is run too, and the model is told what was wrong with a turn.
            ``False``: as ToRL has it. A turn that does not stop at the marker is the last one, and its last box the
            answer; after a marker without a program the model goes on with nothing added.
        plain: Whether the prompt goes without the chat template.

    Source:
        GAIR-NLP/ToRL, ``verl/workers/rollout/vllm_rollout/vllm_rollout_spmd.py``.

    Example:
        >>> ToRL().parse("```python\nprint(1)\n```\n```output").calls[0].arguments
        {'code': 'print(1)\n'}
        >>> ToRL().parse("so it is \\boxed{4}").answer
        '4'
    """

    name = "torl"
    stop: tuple[str, ...] = (MARKER,)
    continues = True

    TEMPLATE = (
        "Solve the problem below. Reason in words and write Python programs where they help: a program stands in a "
        "```python block, and its output comes back in a ```output block. Put the final answer in \\boxed{}."
        "\nProblem: $question\nSolution:\n"
    )

    def __init__(
        self, template: str | Path = TEMPLATE, tool: str = "python", *, lenient: bool = True, plain: bool = True
    ) -> None:
        self.template = read_template(template)
        self.tool = tool
        self.lenient = lenient
        self.plain = plain

    def prompt(self, instruction: str, task: Task, schemas: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        """One user message."""
        text = Template(self.template).safe_substitute(question=task.prompt, instruction=instruction)
        return (*task.history, Message("user", text))

    def parse(self, action: str) -> Parsed:
        """The last program, or the box after it."""
        if not self.lenient:
            return self._parse_as_trained(self.cut(action))
        program, end = last_block(action)
        answer = last_boxed(action[end:])
        if answer is not None:
            return Parsed(answer=answer)
        return self._call(program, lenient=MARKER not in action)

    def _parse_as_trained(self, action: str) -> Parsed:
        """The program before the marker; or, where there is no marker, the last box."""
        if action.endswith(MARKER):
            return self._call(last_block(action.removesuffix(MARKER))[0])
        answer = last_boxed(action)
        if answer is not None:
            return Parsed(answer=answer)
        return Parsed(error="the turn ends without \\boxed{}", ends=True)

    def _call(self, program: str | None, *, lenient: bool = False) -> Parsed:
        if program is None:
            return Parsed(error="no complete ```python block and no \\boxed{} answer in the action")
        return Parsed((ToolCall(self.tool, {"code": program}),), lenient=lenient)

    def cut(self, action: str) -> str:
        """All up to the marker, where the format is not lenient."""
        head, marker, _ = action.partition(MARKER)
        return action if self.lenient else head + marker

    def render(self, results: Sequence[ToolResult]) -> tuple[Message, ...]:
        """The output block, marker included."""
        return (Message("tool", f"\n{MARKER}\n{_joined(results)}\n```\n"),)

    def render_after(self, action: str, results: Sequence[ToolResult]) -> tuple[Message, ...]:
        """The output block, without the marker where the model wrote it."""
        if not action.endswith(MARKER):
            return self.render(results)
        return (Message("tool", f"\n{_joined(results)}\n```\n"),)

    def render_error(self, error: str) -> tuple[Message, ...]:
        """An output block that holds the error; nothing where the format is not lenient."""
        return (Message("tool", f"\n{MARKER}\nError: {error}\n```\n"),) if self.lenient else ()

    def write_call(self, call: ToolCall) -> str:
        """The program in a Python block, and the marker."""
        code = str(call.arguments.get("code", ""))
        return f"```python\n{code if code.endswith(chr(10)) else code + chr(10)}```\n{MARKER}"

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


def last_block(text: str) -> tuple[str | None, int]:
    r"""The last Python block, line by line, and where it ends; ``(None, 0)`` where there is none or it is not closed.

    Example:
        >>> last_block("So ```python\nprint(1)\n```\nand on")
        ('print(1)\n', 25)
    """
    program, begin, end, position = None, -1, 0, 0
    for line in text.split("\n"):
        following = position + len(line) + 1
        if line.startswith("```python") or line.endswith("```python"):
            begin = following
        elif line.startswith("```"):
            if begin >= 0:
                program, end = text[begin:position], position + 3
            begin = -1
        position = following
    return (None, 0) if begin >= 0 or program is None else (program, end)


def _joined(results: Sequence[ToolResult]) -> str:
    return "\n".join(result.content for result in results).strip()
