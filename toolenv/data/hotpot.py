"""Questions that come with the paragraphs they need: HotpotQA's JSON, which 2WikiMultihopQA shares, and MuSiQue's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolenv.data.jsonl import ANSWERS, QUESTION, as_text, id_of, read_records, task_set, text_of
from toolenv.data.text_files import short
from toolenv.episode import Task, TaskSet
from toolenv.errors import DataError
from toolenv.retrieval.base import Passage


@dataclass(frozen=True, slots=True)
class Hotpot:
    """What such a file holds.

    Attributes:
        tasks: The questions, each with the ids of the paragraphs that support its answer, one a hop.
        passages: All paragraphs, each once.
    """

    tasks: TaskSet
    passages: tuple[Passage, ...]


def load_hotpot(path: str | Path) -> Hotpot:
    """Read a file of HotpotQA (both settings), 2WikiMultihopQA or MuSiQue: JSON, JSONL, or one of these with ``.gz``.

    A paragraph that several questions have is one passage. Its id is its title; where paragraphs with the same title
    differ, the later ones are numbered.

    Raises:
        DataError: The file cannot be read, or a record is not such a question; names file, line and reason.
    """
    paragraphs = Paragraphs()
    passages: list[Passage] = []

    def tasks() -> Iterator[tuple[str, Task]]:
        for where, number, record in read_records(path):
            found = paragraphs.of(record, where)
            passages.extend(passage for passage, is_new, _ in found if is_new)
            yield where, _task(record, found, f"{Path(path).name.split('.')[0]}-{number}", where)

    return Hotpot(task_set(path, tasks()), tuple(passages))


def has_paragraphs(record: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a question with its paragraphs."""
    if record.get("text") is not None or record.get("contents") is not None:
        return False
    return isinstance(record.get("context"), list | dict) or isinstance(record.get("paragraphs"), list)


class Paragraphs:
    """The paragraphs of many questions: says which were not seen before, and names them.

    Of a paragraph that was seen only a number is kept.

    Example:
        >>> question = {"context": [["Lyon", ["It is big.", " It is old."]]]}
        >>> seen = Paragraphs()
        >>> [(passage.text, is_new) for passage, is_new, _ in seen.of(question, "line 1") + seen.of(question, "line 2")]
        [('It is big. It is old.', True), ('It is big. It is old.', False)]
    """

    def __init__(self) -> None:
        self._ids: dict[bytes, int] = {}
        self._titles: dict[str, int] = {}

    def of(self, record: Mapping[str, Any], where: str) -> list[tuple[Passage, bool, bool]]:
        """The paragraphs of a question: each with whether it is new, and whether the answer rests on it.

        Raises:
            DataError: The record has none, or one that is no paragraph.
        """
        supporting = _supporting_titles(record)
        found = []
        for number, (title, text, supports) in enumerate(_paragraphs(record, where), start=1):
            here = f"{where}, paragraph {number}"
            title, text = as_text(title, f"{here}: its title"), " ".join(as_text(text, f"{here}: its text").split())
            passage, is_new = self._named(title, text)
            found.append((passage, is_new, title in supporting if supports is None else supports))
        return found

    def _named(self, title: str, text: str) -> tuple[Passage, bool]:
        key = hashlib.blake2b(f"{title}\n{text}".encode(), digest_size=12).digest()
        is_new = key not in self._ids
        if is_new:
            self._titles[title] = self._ids[key] = self._titles.get(title, 0) + 1
        number = self._ids[key]
        return Passage(title if number == 1 else f"{title} ({number})", title, text), is_new


def _paragraphs(record: Mapping[str, Any], where: str) -> Iterator[tuple[Any, Any, bool | None]]:
    """Title, text, and where the paragraph itself says so whether it supports the answer."""
    context, paragraphs = record.get("context"), record.get("paragraphs")
    if isinstance(context, dict):  # as the model hub's files have it
        titles, texts = context.get("title"), context.get("sentences") or context.get("content")
        if not isinstance(titles, list) or not isinstance(texts, list) or len(titles) != len(texts):
            raise DataError(f"{where}: field 'context' needs two lists of one length, 'title' and 'sentences'")
        context = [list(pair) for pair in zip(titles, texts, strict=True)]
    if isinstance(context, list):
        for pair in context:
            if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], list)):
                raise DataError(f"{where}: field 'context' needs pairs of a title and its sentences; got {short(pair)}")
            yield pair[0], " ".join(str(sentence).strip() for sentence in pair[1]), None
    elif isinstance(paragraphs, list):
        for paragraph in paragraphs:
            if not isinstance(paragraph, dict):
                raise DataError(f"{where}: field 'paragraphs' needs objects; got {short(paragraph)}")
            text = paragraph.get("paragraph_text", paragraph.get("text"))
            yield paragraph.get("title"), text, bool(paragraph.get("is_supporting"))
    else:
        raise DataError(f"{where}: needs a list 'context', as HotpotQA has, or 'paragraphs', as MuSiQue has")


def _supporting_titles(record: Mapping[str, Any]) -> set[str]:
    facts = record.get("supporting_facts")
    titles = facts.get("title") if isinstance(facts, dict) else facts
    if not isinstance(titles, list):
        return set()
    return {str(fact[0] if isinstance(fact, list) and fact else fact) for fact in titles}


def _task(record: Mapping[str, Any], found: list[tuple[Passage, bool, bool]], default_id: str, where: str) -> Task:
    answers = [text_of(record, ANSWERS[1:], where)]
    aliases = record.get("answer_aliases") or []
    if isinstance(aliases, list):
        answers += [as_text(alias, f"{where}: field 'answer_aliases'") for alias in aliases]
    gold = dict.fromkeys(passage.id for passage, _, supports in found if supports)
    return Task(
        id=id_of(record, default_id, where),
        prompt=text_of(record, QUESTION, where).strip(),
        answers=tuple(dict.fromkeys(answers)),
        gold_passages=tuple((id,) for id in gold),
    )
