"""Scripted experts: they read a task's gold facts from the record and write actions in any format.

They show an environment at work, and their episodes warm-start small policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from toolenv.episode import Task, Turn
from toolenv.errors import ConfigError
from toolenv.formats import Format
from toolenv.messages import ToolCall

QueryStyle = Literal["title", "relation", "question", "keyword"]
QUERY_STYLES: tuple[QueryStyle, ...] = get_args(QueryStyle)


class SearchExpert:
    """Answers questions of the bundled world; reads perfectly, and does not know how to phrase a query.

    For each hop it draws one of its styles until the passage of the hop is found: the subject's title, the relation
    and the title, the whole question, or the relation alone. Which of them find the passage is for a learner to find
    out. After ``max_searches`` it gives up and answers "unknown".

    Args:
        format: The format to write in.
        rng: Draws the styles.
        styles: The styles to draw from.
        max_searches: Searches after which it gives up.

    Raises:
        ConfigError: An unknown style, or none.
    """

    def __init__(
        self,
        format: Format,
        rng: np.random.Generator,
        styles: Sequence[QueryStyle] = QUERY_STYLES,
        max_searches: int = 5,
    ) -> None:
        unknown = [style for style in styles if style not in QUERY_STYLES]
        if unknown or not styles:
            raise ConfigError(f"styles must be some of {QUERY_STYLES}; got {tuple(styles)!r}")
        self.format = format
        self.rng = rng
        self.styles = tuple(styles)
        self.max_searches = max_searches

    def act(self, task: Task, turns: Sequence[Turn]) -> str:
        """The next action.

        Raises:
            ConfigError: The task does not say its hops.
        """
        hops = task.metadata.get("hops")
        if not hops:
            raise ConfigError(f"SearchExpert needs metadata['hops']; task {task.id!r} has none")
        found = {p for turn in turns for result in turn.results for p in result.data.get("passages", ())}
        open_hop = next((hop for hop in hops if hop["passage"] not in found), None)
        if open_hop is None:
            return self.format.write_answer(task.answers[0])
        if len(turns) >= self.max_searches:
            return self.format.write_answer("unknown")
        style = self.styles[int(self.rng.integers(len(self.styles)))]
        return self.format.write_call(ToolCall("search", {"query": _query(style, open_hop, task)}))


def _query(style: QueryStyle, hop: dict[str, Any], task: Task) -> str:
    relation = str(hop["relation"]).replace("_", " ")
    match style:
        case "title":
            return str(hop["subject"])
        case "relation":
            return f"{relation} of {hop['subject']}"
        case "question":
            return task.prompt
        case "keyword":
            return relation


class MathExpert:
    """Runs the program that a bundled math task carries, then answers with what it printed.

    Args:
        format: The format to write in.
    """

    def __init__(self, format: Format) -> None:
        self.format = format

    def act(self, task: Task, turns: Sequence[Turn]) -> str:
        """The next action.

        Raises:
            ConfigError: The task carries no program.
        """
        program = task.metadata.get("solution")
        if program is None:
            raise ConfigError(f"MathExpert needs metadata['solution']; task {task.id!r} has none")
        if not turns:
            return self.format.write_call(ToolCall("python", {"code": program}))
        return self.format.write_answer(turns[-1].results[0].content.strip())


class FunctionCallExpert:
    """Makes the gold calls of a task, then replies.

    Calls that may stand side by side are made in one turn; those of a sequential task one a turn.

    Args:
        format: The format to write in.
    """

    def __init__(self, format: Format) -> None:
        self.format = format

    def act(self, task: Task, turns: Sequence[Turn]) -> str:
        """The next action."""
        made = sum(len(turn.calls) for turn in turns)
        rest = task.gold_calls[made:]
        if not rest:
            return self.format.write_answer("Done." if task.gold_calls else "No function here can do that.")
        if task.metadata.get("category") == "sequential":
            rest = rest[:1]
        return "\n".join(self.format.write_call(call) for call in rest)
