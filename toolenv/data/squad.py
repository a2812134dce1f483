"""Questions and paragraphs in SQuAD's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolenv.data.json_stream import read_items
from toolenv.data.jsonl import text_of
from toolenv.episode import Task, TaskSet
from toolenv.errors import DataError
from toolenv.retrieval.base import Passage


@dataclass(frozen=True, slots=True)
class Squad:
    """What a SQuAD file holds.

    Attributes:
        tasks: The questions that have an answer, each with the id of the paragraph it was asked about.
        passages: All paragraphs, in order.
        unanswerable: How many questions were left out because they have no answer.
    """

    tasks: TaskSet
    passages: tuple[Passage, ...]
    unanswerable: int = 0


def load_squad(path: str | Path) -> Squad:
    """Read a file in SQuAD's format (SQuAD 1.1 and 2.0, SQuADShifts, XQuAD).

    Questions without an answer, which SQuAD 2.0 has, are left out. A passage's id is made of the file's name and of
    the numbers of the article and the paragraph in it, from 1.

    Raises:
        DataError: The file cannot be read or is in another format; the message names the place and the reason.
    """
    path = Path(path)
    passages: list[Passage] = []
    tasks: list[Task] = []
    unanswerable = 0
    for passage, questions, where in _paragraphs(path):
        passages.append(passage)
        for number, question in enumerate(questions, start=1):
            task = _task(question, passage, f"{where}, question {number}")
            if task is None:
                unanswerable += 1
            else:
                tasks.append(task)
    return Squad(TaskSet(tasks, name=str(path)), tuple(passages), unanswerable)


def read_paragraphs(path: str | Path) -> Iterator[Passage]:
    """The paragraphs alone, one at a time, with the ids that ``load_squad`` gives them.

    Raises:
        DataError: As for ``load_squad``.
    """
    for passage, _, _ in _paragraphs(Path(path)):
        yield passage


def _paragraphs(path: Path) -> Iterator[tuple[Passage, list[Any], str]]:
    """Passages with their questions, and where they stand in the file."""
    stem = path.name.split(".")[0]
    for a, article in enumerate(read_items(path, "data"), start=1):
        where = f"{path}, article {a}"
        title = text_of(article, ("title",), where, default="") if isinstance(article, Mapping) else ""
        for p, paragraph in enumerate(_list(article, "paragraphs", where), start=1):
            here = f"{where}, paragraph {p}"
            questions = _list(paragraph, "qas", here)
            text = " ".join(text_of(paragraph, ("context",), here).split())
            yield Passage(f"{stem}-{a}-{p}", title.replace("_", " "), text), questions, here


def _task(question: Any, passage: Passage, where: str) -> Task | None:
    answers = [text_of(answer, ("text",), where) for answer in _list(question, "answers", where)]
    if not answers:
        return None
    return Task(
        id=text_of(question, ("id",), where),
        prompt=text_of(question, ("question",), where).strip(),
        answers=tuple(dict.fromkeys(answers)),
        gold_passages=((passage.id,),),
    )


def _list(value: Any, key: str, where: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise DataError(f"{where}: needs a list {key!r}, as SQuAD's format has")
    return found
