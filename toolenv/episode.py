"""The record of what happened: tasks, turns and episodes, frozen, and their JSONL form.

An episode holds facts only. Rewards stand beside it, by name and turn, and never inside it; so a stored run can be
scored again without playing it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, overload

from toolenv.errors import DataError
from toolenv.messages import Message, ToolCall, ToolResult

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do.

    Attributes:
        id: Unique and stable within its task set.
        prompt: What the user asks.
        answers: Accepted final answers: aliases of one another. Empty where the task is graded by its calls.
        gold_calls: Calls that a right solution makes.
        gold_passages: Hop by hop, the ids of the passages that hold what the hop needs.
        functions: JSON schemas of the functions that this task alone offers.
        history: Messages before the prompt.
        metadata: Further facts, JSON values.

    Example:
        >>> Task(id="t1", prompt="What is 2 + 2?", answers=("4",)).answers
        ('4',)
    """

    id: str
    prompt: str
    answers: tuple[str, ...] = ()
    gold_calls: tuple[ToolCall, ...] = ()
    gold_passages: tuple[tuple[str, ...], ...] = ()
    functions: tuple[Mapping[str, Any], ...] = ()
    history: tuple[Message, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


class TaskSet(Sequence[Task]):
    """A sequence of tasks with unique ids, which Gymnasium may copy for free.

    Args:
        tasks: The tasks, in an order that must not change: a seed names an index.
        name: What the set is called in errors and reports.

    Raises:
        DataError: No task, or two tasks with one id.

    Example:
        >>> tasks = TaskSet([Task(id="a", prompt="?"), Task(id="b", prompt="!")], name="two")
        >>> tasks.index_of("b"), len(tasks)
        (1, 2)
    """

    def __init__(self, tasks: Iterable[Task], name: str = "tasks") -> None:
        self.name = name
        self._tasks = tuple(tasks)
        self._index = {task.id: index for index, task in enumerate(self._tasks)}
        if not self._tasks:
            raise DataError(f"task set {name!r} is empty; it needs at least one task")
        if len(self._index) != len(self._tasks):
            twice = next(task.id for i, task in enumerate(self._tasks) if self._index[task.id] != i)
            raise DataError(f"task set {name!r} holds the id {twice!r} twice; ids must be unique")

    def __len__(self) -> int:
        return len(self._tasks)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Task, ...]: ...
    def __getitem__(self, index: int | slice) -> Task | tuple[Task, ...]:
        return self._tasks[index]

    def index_of(self, task_id: str) -> int:
        """Index of the task with this id; ``DataError`` where there is none."""
        if task_id not in self._index:
            raise DataError(f"task set {self.name!r} has no task {task_id!r}; ids look like {self._tasks[0].id!r}")
        return self._index[task_id]

    def __deepcopy__(self, memo: dict[int, Any]) -> TaskSet:
        # Reading env.spec deep-copies constructor arguments, and a task set never changes.
        return self

    def __repr__(self) -> str:
        return f"TaskSet({self.name!r}, {len(self)} tasks)"


@dataclass(frozen=True, slots=True)
class Turn:
    """One action and what came of it: one ``env.step``.

    Attributes:
        index: Position in the episode, from 0.
        action: The model's text, as it was written.
        calls: The calls read from the action.
        results: One result a call, in order.
        answer: The final answer read from the action, ``None`` where it gave none.
        error: What was wrong with the action as a whole, as the model was told; ``None`` where nothing was.
        lenient: Whether the action was read only because the format is lenient (a call without its tags, say).
        observation: The messages that the environment replied with; empty after a final turn.
    """

    index: int
    action: str
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()
    answer: str | None = None
    error: str | None = None
    lenient: bool = False
    observation: tuple[Message, ...] = ()


def conversation(
    prompt: Iterable[Message], turns: Iterable[Turn], show: Callable[[str], str] = str
) -> tuple[Message, ...]:
    """The prompt, then each action, as ``show`` shows it, and its observation."""
    spoken = [m for turn in turns for m in (Message("assistant", show(turn.action)), *turn.observation)]
    return (*prompt, *spoken)


@dataclass(frozen=True, slots=True)
class Episode:
    """From reset to end: the facts.

    Attributes:
        env_id: Id or class name of the environment.
        task: The task.
        format: Name of the format that the model spoke.
        prompt: The messages at reset.
        turns: The turns so far.
        terminated: Whether the task ended by itself, as Gymnasium defines it.
        truncated: Whether the episode was cut from outside, as Gymnasium defines it.
        reason: Why it ended (``"answer"``, ``"reply"``, ``"max_turns"``, ``"token_budget"``, ...), ``None`` while it
            runs.
        seed: The seed given to ``reset``, ``None`` where none was.
        grading: How the environment's answers are meant to be compared: ``"em"``, ``"math"`` or ``"calls"``.
    """

    env_id: str
    task: Task
    format: str
    prompt: tuple[Message, ...]
    turns: tuple[Turn, ...] = ()
    terminated: bool = False
    truncated: bool = False
    reason: str | None = None
    seed: int | None = None
    grading: str = "em"

    @property
    def answer(self) -> str | None:
        """The final answer, ``None`` where the episode gave none."""
        return self.turns[-1].answer if self.turns else None

    @property
    def num_calls(self) -> int:
        """How many calls the model wrote."""
        return sum(len(turn.calls) for turn in self.turns)

    def messages(self) -> tuple[Message, ...]:
        """The whole conversation: the prompt, then each action and its observation."""
        return conversation(self.prompt, self.turns)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with a schema version; ``from_json`` is its inverse.

        JSON values, such as functions and arguments, are the episode's own, not copies.
        """
        return {
            "schema": SCHEMA_VERSION,
            **_fields(self),
            "task": _task_to_json(self.task),
            "prompt": [_fields(message) for message in self.prompt],
            "turns": [_turn_to_json(turn) for turn in self.turns],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Episode:
        """Read what ``to_json`` wrote.

        Raises:
            DataError: Another schema version, or a field that is missing or of the wrong shape.
        """
        version = record.get("schema") if isinstance(record, Mapping) else None
        if version != SCHEMA_VERSION:
            raise DataError(f"an episode of schema {version!r} cannot be read; this version reads {SCHEMA_VERSION}")
        try:
            values = {key: value for key, value in record.items() if key != "schema"}
            values["task"] = task_from_json(record["task"])
            values["prompt"] = tuple(Message(**m) for m in record["prompt"])
            values["turns"] = tuple(_turn_from_json(turn) for turn in record["turns"])
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"not an episode: {error!r}") from error


def task_from_json(record: Mapping[str, Any]) -> Task:
    """Read a task from its JSON object.

    Raises:
        KeyError: A field is missing.
        TypeError: A field is unknown or of the wrong shape.
    """
    values = dict(record)
    values["answers"] = tuple(record.get("answers", ()))
    values["gold_calls"] = tuple(ToolCall(**call) for call in record.get("gold_calls", ()))
    values["gold_passages"] = tuple(tuple(hop) for hop in record.get("gold_passages", ()))
    values["functions"] = tuple(record.get("functions", ()))
    values["history"] = tuple(Message(**m) for m in record.get("history", ()))
    return Task(**values)


def _fields(record: Any) -> dict[str, Any]:
    """The fields of a dataclass, shallowly: ``asdict`` would copy every schema, and descend into what a model wrote."""
    return {entry.name: getattr(record, entry.name) for entry in fields(record)}


def _task_to_json(task: Task) -> dict[str, Any]:
    return {
        **_fields(task),
        "answers": list(task.answers),
        "gold_calls": [_fields(call) for call in task.gold_calls],
        "gold_passages": [list(hop) for hop in task.gold_passages],
        "functions": list(task.functions),
        "history": [_fields(message) for message in task.history],
    }


def _turn_to_json(turn: Turn) -> dict[str, Any]:
    return {
        **_fields(turn),
        "calls": [_fields(call) for call in turn.calls],
        "results": [{**_fields(result), "call": _fields(result.call)} for result in turn.results],
        "observation": [_fields(message) for message in turn.observation],
    }


def _turn_from_json(record: Mapping[str, Any]) -> Turn:
    values = dict(record)
    values["calls"] = tuple(ToolCall(**call) for call in record["calls"])
    values["results"] = tuple(ToolResult(**{**r, "call": ToolCall(**r["call"])}) for r in record["results"])
    values["observation"] = tuple(Message(**m) for m in record["observation"])
    return Turn(**values)


def write_episodes(path: str | Path, episodes: Iterable[Episode], *, append: bool = False) -> int:
    """Write episodes as JSONL, one a line, in ASCII so that any text a model can write survives.

    Returns:
        How many were written.
    """
    count = 0
    with open(path, "a" if append else "w", encoding="ascii") as file:
        for episode in episodes:
            file.write(json.dumps(episode.to_json()) + "\n")
            count += 1
    return count


def read_episodes(path: str | Path) -> Iterator[Episode]:
    """Read episodes from JSONL, lazily.

    Raises:
        DataError: A line that is not an episode; the message names file, line and reason.
    """
    from toolenv.data.jsonl import read_records  # it builds on this module

    for where, _, record in read_records(path):
        try:
            yield Episode.from_json(record)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
