"""Questions that come with the paragraphs they need: HotpotQA's JSON, which 2WikiMultihopQA shares, and MuSiQue's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
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

    Questions that MuSiQue marks as not answerable are left out. A paragraph that several questions have is one passage.
    Its id is its title; where paragraphs with the same title differ, the later ones are numbered.

    Raises:
        DataError: The file cannot be read, or a record is not such a question; names file, line and reason.
    """
    paragraphs = Paragraphs()
    passages: list[Passage] = []

    def tasks() -> Iterator[tuple[str, Task]]:
        for where, number, record in read_records(path):
            found = paragraphs.of(record, where)
            passages.extend(passage for passage, is_new, _ in found if is_new)
            if record.get("answerable") is not False:
                yield where, hotpot_task(record, found, f"{Path(path).name.split('.')[0]}-{number}", where)

    return Hotpot(task_set(path, tasks()), tuple(passages))


def has_paragraphs(record: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a question with its paragraphs, which FlashRAG has in the field ``metadata``."""
    if record.get("text") is not None or record.get("contents") is not None:
        return False
    held = _holder(record)
    return isinstance(held.get("context"), list | dict) or isinstance(held.get("paragraphs"), list)


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
        held = _holder(record)
        supporting = _supporting_titles(held)
        found = []
        for number, (title, text, supports) in enumerate(_paragraphs(held, where), start=1):
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


def _holder(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What holds the paragraphs: the record, or its metadata."""
    metadata = record.get("metadata")
    if isinstance(metadata, dict) and "context" not in record and "paragraphs" not in record:
        return metadata
    return record


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


def hotpot_task(
    record: Mapping[str, Any],
    found: Sequence[tuple[Passage, bool, bool]],
    default_id: str,
    where: str,
    more_answers: Sequence[str] = (),
) -> Task:
    """The question of a record, with the paragraphs that its answer rests on as gold passages, one a hop.

    Args:
        record: The record.
        found: Its paragraphs.
        default_id: Id of a question that has none of its own.
        where: Where it stands, for errors.
        more_answers: Further names of the answer.

    Raises:
        DataError: The record has no question or no answer.
    """
    given = record.get("golden_answers")
    answers = [as_text(a, f"{where}: field 'golden_answers'") for a in given] if isinstance(given, list) else []
    answers = answers or [text_of(record, ANSWERS[1:], where)]
    aliases = record.get("answer_aliases") or []
    if isinstance(aliases, list):
        kept = (alias for alias in aliases if not isinstance(alias, str) or alias.strip())
        answers += [as_text(alias, f"{where}: field 'answer_aliases'") for alias in kept]
    return Task(
        id=id_of(record, default_id, where),
        prompt=text_of(record, QUESTION, where).strip(),
        answers=tuple(dict.fromkeys([*answers, *more_answers])),
        gold_passages=tuple((id,) for id in _hops(record, found)),
    )


def _hops(record: Mapping[str, Any], found: Sequence[tuple[Passage, bool, bool]]) -> list[str]:
    """Ids of the supporting paragraphs: in the order of the steps where the record has them, as MuSiQue does."""
    steps = record.get("question_decomposition")
    order = [step.get("paragraph_support_idx") for step in steps if isinstance(step, dict)] if steps else []
    places = [place for place in order if isinstance(place, int) and 0 <= place < len(found) and found[place][2]]
    first = [found[place][0].id for place in places]
    return list(dict.fromkeys([*first, *(passage.id for passage, _, supports in found if supports)]))
