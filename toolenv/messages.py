"""What is said in an episode: messages, tool calls and their results. All frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: ``"system"``, ``"user"``, ``"assistant"`` or ``"tool"``. All but ``"assistant"`` was written by the
            environment, never by the model.
        content: The text.
        name: Name of the tool that a ``"tool"`` message comes from, where one tool alone wrote it.

    Example:
        >>> Message("user", "What is 2 + 2?").role
        'user'
    """

    role: str
    content: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model wrote.

    Attributes:
        name: Name of the tool.
        arguments: Keyword arguments, JSON values.

    Example:
        >>> ToolCall("search", {"query": "capital of France"}).arguments["query"]
        'capital of France'
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call came to.

    Attributes:
        call: The call.
        content: The text that the model is shown.
        error: ``None`` where the call was executed and succeeded, else the kind of failure: ``"unknown_tool"``,
            ``"bad_arguments"``, ``"tool_error"`` or ``"timeout"``.
        data: Facts about the result that rewards and reports use and the model is not shown (JSON values), such as
            the ids of the passages that a search returned.
    """

    call: ToolCall
    content: str
    error: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def executed(self) -> bool:
        """Whether the tool itself ran: calls of an unknown tool or with bad arguments never reach it."""
        return self.error not in ("unknown_tool", "bad_arguments")
