"""Preference pairs of tool calls: one prompt, a right answer and a wrong one.

A line of a pairs file is a JSON object with the fields of FC-RewardBench, and ``origin``. An output is a list of
``{"name": ..., "arguments": {...}}``, or a text: a reply without a call, or calls that cannot be read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from rewards.toolrm import tool_conversation
from toolenv.data.jsonl import cut_torn_line, read_records
from toolenv.errors import ConfigError, DataError
from toolenv.messages import Message, ToolCall

_BEGINS = '{"tools": '
"""How each line of a pairs file begins."""

Output = tuple[ToolCall, ...] | str
"""Calls, or a text that is none: a reply, or calls in a form that cannot be read."""

ERROR_TYPES = (
    "incorrect parameter value",
    "incorrect function name",
    "incorrect number of functions",
    "missing optional parameter",
    "missing required parameter",
    "incorrect parameter type",
    "unexpected parameter",
    "incorrect output format",
)
"""What is wrong with a rejected answer, in FC-RewardBench's words."""
UNNEEDED_CALL = "call where none fits"
MISSING_CALL = "no call where one is needed"
PAIR_TYPES = (*ERROR_TYPES, UNNEEDED_CALL, MISSING_CALL)
"""FC-RewardBench's error types, and irrelevance both ways."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt with a right and a wrong answer.

    Attributes:
        tools: JSON schemas of the functions that may be called.
        conversation: The messages before the answer.
        chosen_output: The right answer.
        rejected_output: The wrong answer.
        error_type: What is wrong with it: one of ``PAIR_TYPES``.
        model_name: Who gave the wrong answer; ``"corruption"`` where it was made from a right one.
        test_category: Category of the task, such as ``"multiple"``.
        test_id: Id of the task.
        origin: How the pair was made: JSON values.

    Example:
        >>> pair = Pair(({"name": "f"},), (Message("user", "f of 1?"),), (ToolCall("f", {"x": 1}),), "1", "other")
        >>> Pair.from_json(pair.to_json()) == pair
        True
    """

    tools: tuple[Mapping[str, Any], ...]
    conversation: tuple[Message, ...]
    chosen_output: Output
    rejected_output: Output
    error_type: str
    model_name: str = ""
    test_category: str = ""
    test_id: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The pair as a JSON object."""
        return {
            "tools": [dict(tool) for tool in self.tools],
            "conversation": [{"role": message.role, "content": message.content} for message in self.conversation],
            "chosen_output": output_to_json(self.chosen_output),
            "rejected_output": output_to_json(self.rejected_output),
            "error_type": self.error_type,
            "model_name": self.model_name,
            "test_category": self.test_category,
            "test_id": self.test_id,
            "origin": dict(self.origin),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The pair of a JSON object.

        Raises:
            DataError: It is no pair; says which field is wrong, and how.
        """
        for name in ("tools", "conversation", "chosen_output", "rejected_output", "error_type"):
            if name not in record:
                raise DataError(f"not a pair: the field {name!r} is missing; it has {', '.join(record) or 'none'}")
        origin = record.get("origin") or {}
        if not isinstance(origin, Mapping):
            raise DataError(f"not a pair: 'origin' must be an object; got {origin!r:.80}")
        return cls(
            tools=tuple(_objects(record, "tools", "name")),
            conversation=tuple(
                Message(_text(m, "role"), _text(m, "content"))
                for m in _objects(record, "conversation", "role", "content")
            ),
            chosen_output=output_from_json(record["chosen_output"], "chosen_output"),
            rejected_output=output_from_json(record["rejected_output"], "rejected_output"),
            error_type=_text(record, "error_type"),
            model_name=_text(record, "model_name", ""),
            test_category=_text(record, "test_category", ""),
            test_id=_text(record, "test_id", ""),
            origin=origin,
        )

    @property
    def prompt_key(self) -> str:
        """Names tools and conversation: pairs with one key can share the forward pass of their prompt."""
        record = self.to_json()
        text = json.dumps([record["tools"], record["conversation"]])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def pair_conversations(pair: Pair) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """What ToolRM reads of a pair: the conversation with the chosen, and with the rejected answer.

    Example:
        >>> pair = Pair((), (Message("user", "f of 1?"),), (ToolCall("f", {"x": 1}),), "It is 2.", "other")
        >>> chosen, rejected = pair_conversations(pair)
        >>> chosen[-1].content.splitlines()[1], rejected[-1].content
        ('{"name": "f", "arguments": {"x": 1}}', 'It is 2.')
    """
    return (
        output_conversation(pair.tools, pair.conversation, pair.chosen_output),
        output_conversation(pair.tools, pair.conversation, pair.rejected_output),
    )


def output_conversation(
    tools: Sequence[Mapping[str, Any]], conversation: Sequence[Message], output: Output
) -> tuple[Message, ...]:
    """What ToolRM reads of one answer."""
    calls, reply = ((), output) if isinstance(output, str) else (output, "")
    return tool_conversation(tools, conversation, calls, reply)


def output_to_json(output: Output) -> Any:
    """An answer as a JSON value: a text, or a list of calls."""
    if isinstance(output, str):
        return output
    return [{"name": call.name, "arguments": dict(call.arguments)} for call in output]


def output_from_json(value: Any, where: str = "output") -> Output:
    """The answer of a JSON value.

    Raises:
        DataError: It is neither a text nor a list of calls.

    Example:
        >>> output_from_json([{"name": "f", "arguments": {}}])
        (ToolCall(name='f', arguments={}),)
    """
    if isinstance(value, str):
        return value
    calls = []
    for call in value if isinstance(value, list) else [value]:
        if not (isinstance(call, Mapping) and isinstance(call.get("name"), str)):
            raise DataError(f"{where}: must be a text or a list of calls with 'name' and 'arguments'; got {call!r:.80}")
        arguments = call.get("arguments", {})
        if not isinstance(arguments, Mapping):
            raise DataError(f"{where}: 'arguments' of {call['name']!r} must be an object; got {arguments!r:.80}")
        calls.append(ToolCall(call["name"], arguments))
    return tuple(calls)


def read_pairs(path: str | Path) -> Iterator[Pair]:
    """The pairs of a file, lazily.

    Raises:
        DataError: A line that is no pair; names file, line and reason.
    """
    for where, _, record in read_records(path):
        try:
            yield Pair.from_json(record)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error


class PairWriter:
    """Writes pairs to a file, line by line, and goes on with a file that an earlier call was stopped at.

    Pairs are made in an order that the settings give. So where the file holds lines already, the first pairs written
    must be these: they are compared, and not written again. A torn last line is cut off.

    Args:
        path: A ``.jsonl`` file.
        resume: Whether the file may exist.

    Attributes:
        kept: Lines that stood in the file.
        count: Pairs written, kept ones included.

    Raises:
        ConfigError: The file exists and ``resume`` is not set; or a pair is another one than the line that stands in
            its place.
        DataError: The file ends with what is no piece of a pair.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pairs.jsonl"
        >>> pair = Pair((), (Message("user", "?"),), "No.", "Yes.", "other")
        >>> for _ in range(2):
        ...     with PairWriter(path, resume=True) as writer:
        ...         writer.write([pair, pair])
        >>> writer.kept, len(list(read_pairs(path)))
        (2, 2)
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path = Path(path)
        if self.path.exists() and self.path.stat().st_size and not resume:
            raise ConfigError(f"{self.path} exists; go on with it (resume), or write another file")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._old: list[bytes] = []
        if self.path.exists():
            cut_torn_line(self.path, _BEGINS)
            self._old = self.path.read_bytes().splitlines(keepends=True)
        self.kept, self.count = len(self._old), 0
        self._file: IO[bytes] = self.path.open("ab")

    def write(self, pairs: Iterable[Pair]) -> None:
        """Append pairs, and make them safe from a kill of this process."""
        lines = []
        for pair in pairs:
            line = (json.dumps(pair.to_json()) + "\n").encode()
            if self.count >= self.kept:
                lines.append(line)
            elif line != self._old[self.count]:
                raise ConfigError(
                    f"{self.path}, line {self.count + 1}, was made with other settings or data; write another file"
                )
            self.count += 1
        self._file.write(b"".join(lines))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _objects(record: Mapping[str, Any], name: str, *needed: str) -> list[Mapping[str, Any]]:
    value = record[name]
    if not isinstance(value, list):
        raise DataError(f"not a pair: {name!r} must be a list; got {value!r:.80}")
    for item in value:
        if not isinstance(item, Mapping) or any(key not in item for key in needed):
            raise DataError(f"not a pair: {name!r} must hold objects with {' and '.join(needed)}; got {item!r:.80}")
    return value


def _text(record: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = record.get(name, default)
    if not isinstance(value, str):
        raise DataError(f"not a pair: {name!r} must be a text; got {value!r:.80}")
    return value
