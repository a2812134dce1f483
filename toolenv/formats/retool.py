"""ReTool's text format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from toolenv.episode import Task
from toolenv.formats.base import Parsed, read_template
from toolenv.formats.torl import last_boxed
from toolenv.messages import Message, ToolCall, ToolResult

_STOP = "</code>"
_NOTHING_RUN = "None"


class ReTool:
    r"""ReTool's text format: a program in ``<code>``, its output in ``<interpreter>``, the answer in ``\boxed{}``.

    A turn that does not stop at ``</code>`` is the last one, and its last box the answer. The program is what follows
    the last ``\`\`\`python``, without backquotes; where there is none, the model reads ``None``. The environment needs
    ``results="retool"``.

    Args:
        template: Template of the user message; ``$question`` is filled in.
        tool: Name of the tool that a program calls.

    Source:
        ReTool-RL/ReTool, ``evaluation/eval.py``.

    Example:
        >>> ReTool().parse("<code>\n```python\nprint(1)\n```\n</code>").calls[0].arguments
        {'code': 'print(1)'}
        >>> ReTool().parse("<answer>\n\\boxed{1}\n</answer>").answer
        '1'
    """

    name = "retool"
    stop: tuple[str, ...] = (_STOP,)
    continues = True

    TEMPLATE = (
        "Solve the problem below, step by step. Where a program helps, write it as\n<code>\n```python\nprogram\n```\n"
        "</code>\nand read what it prints inside <interpreter></interpreter>. End with\n<answer>\n\\boxed{the answer}\n"
        "</answer>\nProblem: $question\n"
    )

    def __init__(self, template: str | Path = TEMPLATE, tool: str = "python") -> None:
        self.template = read_template(template)
        self.tool = tool

    def prompt(self, instruction: str, task: Task, schemas: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        """One user message."""
        text = Template(self.template).safe_substitute(question=task.prompt, instruction=instruction)
        return (*task.history, Message("user", text))

    def parse(self, action: str) -> Parsed:
        """The program before ``</code>``; where there is none, the last box."""
        said, stop, _ = action.partition(_STOP)
        if not stop:
            answer = last_boxed(action)
            if answer is None:
                return Parsed(error="the turn ends without </code> and without \\boxed{}", ends=True)
            return Parsed(answer=answer)
        _, fence, code = said.rpartition("```python")
        if not fence:
            return Parsed(error="there is no ```python before </code>")
        return Parsed((ToolCall(self.tool, {"code": code.replace("```", "").strip()}),))

    def cut(self, action: str) -> str:
        """All up to the first ``</code>``."""
        head, stop, _ = action.partition(_STOP)
        return head + stop

    def render(self, results: Sequence[ToolResult]) -> tuple[Message, ...]:
        """The output, as the program wrote it: where it ends no line, the tag follows at once."""
        return _interpreter("".join(result.content for result in results))

    def render_error(self, error: str) -> tuple[Message, ...]:
        """What the model reads where nothing was run, whatever the reason."""
        return _interpreter(_NOTHING_RUN)

    def write_call(self, call: ToolCall) -> str:
        """The program in its tags."""
        return f"<code>\n```python\n{str(call.arguments.get('code', '')).strip()}\n```\n{_STOP}"

    def write_answer(self, answer: str) -> str:
        r"""The answer in ``\boxed{}``, in its tags."""
        return f"<answer>\n\\boxed{{{answer}}}\n</answer>"


def _interpreter(output: str) -> tuple[Message, ...]:
    return (Message("tool", f"\n<interpreter>\n{output}</interpreter>\n\n"),)
