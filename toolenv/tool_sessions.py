"""What tools keep from call to call within an episode, and never beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from toolenv.episode import Turn


class ToolSession(Protocol):
    """What the calls of an episode have led a tool to.

    The record of the episode is all there is to know: where a session is not at it, another is opened, which runs the
    record's calls again before the next one.
    """

    def is_at(self, turns: Sequence[Turn]) -> bool:
        """Whether it is where the calls of these turns lead to."""
        ...

    def close(self) -> None:
        """Forget everything: the episode has ended."""
        ...


class OpenSessions:
    """The sessions of an environment's running episode, one for each tool that keeps something.

    A copy of the environment gets none of them: its tools come to the same state from its own record.
    """

    def __init__(self) -> None:
        self._open: dict[str, ToolSession] = {}

    def of(self, tool: Any, turns: Sequence[Turn]) -> ToolSession | None:
        """The tool's session after these turns; ``None`` for a tool that keeps nothing."""
        if not getattr(tool, "stateful", False):
            return None
        session = self._open.get(tool.name)
        if session is None or not session.is_at(turns):
            if session is not None:
                session.close()
            session = self._open[tool.name] = tool.open_session(turns)
        return session

    def end(self) -> None:
        """Close all."""
        while self._open:
            self._open.popitem()[1].close()

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenSessions:
        return OpenSessions()

    def __reduce__(self) -> tuple[type[OpenSessions], tuple[()]]:
        return OpenSessions, ()
