"""What a format may say beyond the protocol, so that a public checkpoint meets the text it was trained on.

A ``Format`` that has none of these members is read as it always was:

- ``cut(action) -> str``: the head of a turn that counts. What follows it was never said: the conversation does not show
  it, and a rollout keeps no token of it.
- ``render_after(action, results)``: results as messages, where what they look like depends on what the model wrote.
- ``answer_in(results) -> str | None``: an answer that the model's own program gave.
- ``opening``: text that every message of the model starts with, and which the environment writes.
- ``plain``: the prompt is plain text, also where the tokenizer has a chat template.
- ``tool_role``: the role of a message with results in the chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolenv.formats.base import Format
from toolenv.messages import Message, ToolResult


def cut(form: Format, action: str) -> str:
    """The head of a turn that counts.

    Example:
        >>> from toolenv.formats import SearchR1
        >>> cut(SearchR1(), "<search>Lyon</search> <information>I made this up")
        '<search>Lyon</search>'
    """
    counted = getattr(form, "cut", None)
    return action if counted is None else counted(action)


def render_after(form: Format, action: str, results: Sequence[ToolResult]) -> tuple[Message, ...]:
    """Results as the format shows them after this action."""
    render: Any = getattr(form, "render_after", None)
    return form.render(results) if render is None else render(action, results)


def answer_in(form: Format, results: Sequence[ToolResult]) -> str | None:
    """The answer that a program of the model gave, ``None`` where it gave none or the format knows no such thing."""
    read: Any = getattr(form, "answer_in", None)
    return None if read is None else read(results)


def opening(form: Format) -> str:
    """What every message of the model starts with, written by the environment."""
    return getattr(form, "opening", "")


def is_plain(form: Format) -> bool:
    """Whether the prompt goes without the chat template."""
    return bool(getattr(form, "plain", False))


def tool_role(form: Format) -> str | None:
    """The role that results have in the chat template; ``None``: the one that the template knows for them."""
    return getattr(form, "tool_role", None)
