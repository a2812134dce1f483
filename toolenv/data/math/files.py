"""Mathematical problems from files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolenv.data.jsonl import read_records
from toolenv.episode import Task, TaskSet
from toolenv.errors import DataError
from toolenv.formats import last_boxed

PROMPTS = ("problem", "question", "input", "prompt")
ANSWERS = ("answer", "final_answer", "output", "answers", "solution")
FACTS = ("subject", "level", "type", "difficulty", "source")


def load_math_jsonl(path: str | Path, *, skip_unanswered: bool = False) -> TaskSet:
    r"""Read problems in the shapes in which the common sets come.

    The problem is ``problem``, ``question``, ``input`` or ``prompt``; the answer ``answer``, ``final_answer``,
    ``output`` or ``answers``, a text, a number or a list of them. An answer that is worked out, as GSM8K's is, counts
    from ``####``; where there is only a ``solution``, its last ``\boxed{}`` counts. Ids are the file's name and the
    line.

    Args:
        path: A ``.jsonl`` or ``.json`` file, or one of these with ``.gz``.
        skip_unanswered: Leave out problems without an answer, instead of refusing the file.

    Raises:
        DataError: A record without problem or answer; the message names file, line and reason.
    """
    path = Path(path)
    stem = path.name.split(".")[0]
    records = read_records(path)
    tasks = [
        _task(record, f"{stem}-{number}", where)
        for where, number, record in records
        if _answer_key(record) is not None or not skip_unanswered
    ]
    return TaskSet(tasks, name=str(path))


def _task(record: Mapping[str, Any], name: str, where: str) -> Task:
    prompt = next((record[key] for key in PROMPTS if record.get(key)), None)
    if not isinstance(prompt, str):
        raise DataError(f"{where}: no problem; give one of {', '.join(PROMPTS)} as text")
    key = _answer_key(record)
    if key is None:
        raise DataError(f"{where}: no answer; give one of {', '.join(ANSWERS)}")
    value = record[key]
    answers = tuple(_answer(item, key, where) for item in (value if isinstance(value, list) else [value]))
    metadata = {fact: record[fact] for fact in FACTS if fact in record}
    return Task(name, prompt, answers, metadata=metadata)


def _answer_key(record: Mapping[str, Any]) -> str | None:
    return next((key for key in ANSWERS if record.get(key) not in (None, "", [])), None)


def _answer(value: Any, key: str, where: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{where}: {key!r} must be a text or a number, not {value!r:.80}")
    text = str(value)
    if key == "solution":
        boxed = last_boxed(text)
        if boxed is None:
            raise DataError(f"{where}: no answer; the solution holds no \\boxed{{}}")
        return boxed
    return text.rsplit("####", 1)[-1].strip()
