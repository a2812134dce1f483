"""Mathematical problems from files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolenv.data.jsonl import as_text, id_of, read_records, task_set, text_of
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
    from ``####``; where there is only a ``solution``, its last ``\boxed{}`` counts. Without an ``id``, a problem is
    named after its file and line.

    Args:
        path: A ``.jsonl`` or ``.json`` file, or one of these with ``.gz``.
        skip_unanswered: Leave out problems without an answer, instead of refusing the file.

    Raises:
        DataError: A record without problem or answer, with a blank one, or with an id that another has; the message
            names file, line and reason.
    """
    path = Path(path)
    stem = path.name.split(".")[0]
    found = (
        (where, _task(record, f"{stem}-{number}", where))
        for where, number, record in read_records(path)
        if _answer_key(record) is not None or not skip_unanswered
    )
    return task_set(path, found)


def _task(record: Mapping[str, Any], default_id: str, where: str) -> Task:
    prompt = text_of(record, PROMPTS, where)
    key = _answer_key(record)
    if key is None:
        raise DataError(f"{where}: no answer; give one of {', '.join(ANSWERS)}")
    value = record[key]
    answers = [_answer(item, key, where) for item in (value if isinstance(value, list) else [value])]
    metadata = {fact: record[fact] for fact in FACTS if fact in record}
    return Task(id_of(record, default_id, where), prompt, tuple(dict.fromkeys(answers)), metadata=metadata)


def _answer_key(record: Mapping[str, Any]) -> str | None:
    return next((key for key in ANSWERS if record.get(key) not in (None, "", [])), None)


def _answer(value: Any, key: str, where: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = as_text(value, f"{where}: field {key!r}")
    if key == "solution":
        boxed = last_boxed(text)
        if boxed is None:
            raise DataError(f"{where}: no answer; the solution holds no \\boxed{{}}")
        text = boxed
    return as_text(text.rsplit("####", 1)[-1].strip(), f"{where}: the answer in {key!r}")
