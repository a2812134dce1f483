"""Agents that are no language model: experts that show how a task is done, and players for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from toolenv.episode import Task, Turn


class ScriptedAgent(Protocol):
    """Writes actions from the task itself, which it may read whole, answers and gold calls included."""

    def act(self, task: Task, turns: Sequence[Turn]) -> str:
        """Text of the next turn.

        Args:
            task: The task.
            turns: What was played so far, with results.
        """
        ...


class FixedScript:
    """Plays the same actions in every episode, the last one over and over.

    Args:
        actions: The texts, at least one.

    Example:
        >>> script = FixedScript("look", "answer")
        >>> script.act(Task(id="t", prompt="?"), ())
        'look'
    """

    def __init__(self, *actions: str) -> None:
        self.actions = actions

    def act(self, task: Task, turns: Sequence[Turn]) -> str:
        """The action of this turn's index."""
        return self.actions[min(len(turns), len(self.actions) - 1)]
