"""One question of a record, whatever data set it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolenv.data.hotpot import Paragraphs, has_paragraphs, hotpot_task
from toolenv.data.jsonl import ANSWERS, as_text, id_of, read_records, task_of, text_of
from toolenv.data.text_files import short
from toolenv.episode import Task
from toolenv.errors import DataError
from toolenv.retrieval.base import Passage

NO_ANSWER = "without an answer"
UNANSWERABLE = "unanswerable"
ALIASES_FILE = "id_aliases.json"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was read.

    Attributes:
        task: The task.
        gold: The paragraphs that hold its answer, where the record has them.
    """

    task: Task
    gold: tuple[Passage, ...] = ()


class EntityAliases:
    """Other names of answers, by the id of the entity: the file that 2WikiMultihopQA has beside its questions.

    Args:
        folder: Where the questions stand; the file is read when the first of them names an entity.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ALIASES_FILE
        self._names: dict[str, list[str]] | None = None

    def of(self, record: Mapping[str, Any]) -> list[str]:
        """Other names of a question's answer.

        Raises:
            DataError: The file stands there and cannot be read.
        """
        entity = record.get("answer_id")
        if not isinstance(entity, str):
            return []
        if self._names is None:
            self._names = self._read() if self._path.exists() else {}
        return self._names.get(entity, [])

    def _read(self) -> dict[str, list[str]]:
        lines = read_records(self._path)
        return {
            text_of(entry, ("Q_id",), where): _texts(
                [*_list(entry.get("aliases")), *_list(entry.get("demonyms"))], where
            )
            for where, _, entry in lines
        }


def layout_of(record: Mapping[str, Any]) -> str:
    """What data set a record looks like it is from."""
    if has_paragraphs(record):
        return "MuSiQue" if "paragraphs" in record else "2WikiMultihopQA" if "evidences" in record else "HotpotQA"
    if _trivia_answer(record) is not None:
        return "TriviaQA"
    if "reward_model" in record:
        return "Search-R1"
    if "golden_answers" in record:
        return "FlashRAG"
    return "PopQA" if "possible_answers" in record else "questions and answers"


def read_question(
    record: Mapping[str, Any], default_id: str, where: str, paragraphs: Paragraphs, aliases: EntityAliases
) -> Asked | str:
    """The question of a record; or, where it has none to ask, the reason why it is skipped.

    Args:
        record: The record.
        default_id: Id of a question that has none of its own.
        where: Where it stands, for errors.
        paragraphs: The paragraphs of the file so far.
        aliases: Other names of answers.

    Raises:
        DataError: The record is no question.
    """
    if has_paragraphs(record):
        found = paragraphs.of(record, where)  # also of a question that is skipped: corpus files count them, too
        if record.get("answerable") is False:
            return UNANSWERABLE
        if all(record.get(name) in (None, "", []) for name in ANSWERS):
            return NO_ANSWER  # as the test questions of these sets come
        task = hotpot_task(record, found, default_id, where, aliases.of(record))
        return Asked(task, tuple(passage for passage, _, supports in found if supports))
    answers = _answers(record, where)
    if answers is None:
        task = task_of(record, default_id, where)
        return Asked(replace(task, answers=tuple(dict.fromkeys([*task.answers, *aliases.of(record)]))))
    if not answers:
        return NO_ANSWER
    source = record.get("data_source")
    own = record.get("QuestionId") or record.get("question_id")
    id = as_text(own, f"{where}: field 'question_id'") if own is not None else id_of(record, default_id, where)
    named = f"{source}/{id}" if isinstance(source, str) and source.strip() and id != default_id else id
    prompt = text_of(record, ("question", "Question"), where).strip()
    return Asked(Task(id=named, prompt=prompt, answers=tuple(answers)))


def _answers(record: Mapping[str, Any], where: str) -> list[str] | None:
    """The answers in one of the data sets' own fields, blank ones left out; ``None`` where there is no such field."""
    trivia = _trivia_answer(record)
    if trivia is not None:
        return _trivia_answers(trivia, where)
    if "golden_answers" in record:
        return _texts(_list(record["golden_answers"]), f"{where}: field 'golden_answers'")
    if "reward_model" in record:
        return _texts(_list(_target(record["reward_model"])), f"{where}: field 'reward_model'")
    if "possible_answers" in record:
        return _texts(_listed(record["possible_answers"], where), f"{where}: field 'possible_answers'")
    return None


def _trivia_answer(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    answer = record.get("Answer", record.get("answer"))
    if isinstance(answer, Mapping):
        return answer
    # The test questions of TriviaQA have no answer at all.
    return {} if "QuestionId" in record and answer is None else None


def _trivia_answers(answer: Mapping[str, Any], where: str) -> list[str]:
    fields = {str(name).replace("_", "").lower(): value for name, value in answer.items()}
    value = fields.get("value")
    lists = [_list(fields.get(name)) for name in ("aliases", "normalizedaliases", "humananswers")]
    return _texts([*_list(value), *(text for texts in lists for text in texts)], f"{where}: its answer")


def _target(reward_model: Any) -> Any:
    """``ground_truth.target`` of Search-R1's records."""
    truth = reward_model.get("ground_truth") if isinstance(reward_model, Mapping) else None
    return truth.get("target") if isinstance(truth, Mapping) else truth


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _listed(value: Any, where: str) -> list[Any]:
    """A list, or the JSON of one, as tables have it."""
    if not isinstance(value, str):
        return _list(value)
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: field 'possible_answers' must be a JSON list; got {short(value)}") from error
    return _list(found)


def _texts(values: Iterable[Any], where: str) -> list[str]:
    """Texts without the blank ones, each once."""
    kept = [value for value in values if not (isinstance(value, str) and not value.strip())]
    return list(dict.fromkeys(as_text(value, where) for value in kept))
