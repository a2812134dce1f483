"""Whether a turn's calls fit the schemas of the functions that may be called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewards.base import TurnView
from rewards.options import check_score
from toolenv.messages import ToolCall
from toolenv.tools import argument_problems


class SchemaFn:
    """1 for a turn whose calls all fit the task's function schemas, -1 for another.

    Calls fit where each names a function, with the arguments that it requires, none that it does not know, and values
    of the right types. A turn that cannot be read gets -1.

    Args:
        reply: Score of a turn without a call; ``None``: no opinion. As the only reward it needs one, or a policy that
            stops calling is never told.

    Raises:
        ConfigError: A score that is no number.

    Source:
        "Outcome Reward Models for Tool-Calling LLMs" (2509.11963), version 2: the reward of the form alone, beside
        ToolRL's and ToolRM's.

    Example:
        >>> from toolenv import Episode, Task, Turn
        >>> function = {"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}, "required": ["x"]}}
        >>> turns = [Turn(i, "...", (ToolCall("f", {"x": value}),)) for i, value in enumerate((1, "one"))]
        >>> episode = Episode("e", Task("t", "?", functions=(function,)), "hermes", (), tuple(turns))
        >>> SchemaFn().score([TurnView(episode, 0), TurnView(episode, 1)])
        [1.0, -1.0]
    """

    name = "schema"

    def __init__(self, reply: float | None = None) -> None:
        check_score("reply", reply)
        self.reply = reply

    def score(self, views: Sequence[TurnView]) -> list[float | None]:
        """Score turns; see the class."""
        return [self._score(view) for view in views]

    def _score(self, view: TurnView) -> float | None:
        if view.turn.error is not None:
            return -1.0
        if not view.turn.calls:
            return self.reply
        return 1.0 if calls_fit(view.turn.calls, view.task.functions) else -1.0


def calls_fit(calls: Sequence[ToolCall], functions: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all calls are of these functions, with arguments that their schemas allow.

    Example:
        >>> calls_fit((ToolCall("g"),), [{"name": "f"}])
        False
    """
    parameters = {function["name"]: function.get("parameters", {}) for function in functions}
    return all(
        call.name in parameters and not argument_problems(call.arguments, parameters[call.name]) for call in calls
    )
