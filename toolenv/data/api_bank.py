"""API-Bank as ToolRL prepared it: a dialogue, the tools that it offers, and the one call that comes next.

Source:
    AlibabaResearch/DAMO-ConvAI, ``api-bank``; processed files ``level-N-api_processed.json`` of qiancheng0/ToolRL,
    ``benchmarks/API-Bank`` (Apache-2.0). 399 items in ``level-1``, 67 in ``level-2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolenv.data.jsonl import read_records, task_set, text_of
from toolenv.data.rlla import described_tools, dialogue
from toolenv.data.text_files import short
from toolenv.episode import Task, TaskSet
from toolenv.errors import DataError
from toolenv.messages import ToolCall


def load_api_bank(path: str | Path) -> TaskSet:
    """Read API-Bank tasks.

    ``metadata["match"]`` is ``"any"``: a task is solved where any call equals the gold call, name and arguments, as
    ToolRL's evaluation has it. ``metadata["file"]`` is the API-Bank file that the dialogue comes from.

    Args:
        path: A ``level-N-api_processed.json`` file.

    Raises:
        DataError: The file cannot be read, or a record is not one of API-Bank; names file, record and reason.
    """
    return task_set(path, ((where, _task(record, where)) for where, _, record in read_records(path)))


def _task(record: Mapping[str, Any], where: str) -> Task:
    source = record.get("other")
    if not isinstance(source, Mapping) or not isinstance(source.get("file"), str) or "id" not in source:
        raise DataError(f"{where}: needs a field 'other' with 'file' and 'id'; got {short(source)}")
    messages = dialogue(text_of(record, ("user",), where), where)
    return Task(
        id=f"{source['file'].removesuffix('.jsonl')}-{source['id']}",
        prompt=messages[-1].content,
        gold_calls=(_gold_call(record.get("answer"), where),),
        functions=described_tools(text_of(record, ("system",), where), where),
        history=messages[:-1],
        metadata={"match": "any", "file": source["file"]},
    )


def _gold_call(answer: Any, where: str) -> ToolCall:
    """The call of an answer, which the one level writes as an object and the other as a list of one."""
    call = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    if (
        not isinstance(call, dict)
        or not isinstance(call.get("name"), str)
        or not isinstance(call.get("parameters"), dict)
    ):
        raise DataError(f"{where}: field 'answer' must be one call with 'name' and 'parameters'; got {short(answer)}")
    return ToolCall(call["name"], call["parameters"])
