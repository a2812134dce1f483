"""Questions from a file, whatever its layout, which its content tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolenv.data.hotpot import Paragraphs
from toolenv.data.json_stream import array_name, read_items
from toolenv.data.jsonl import as_object, read_records, task_set
from toolenv.data.qa.parquet import is_parquet, read_rows
from toolenv.data.qa.records import Asked, EntityAliases, layout_of, read_question
from toolenv.data.qa.tables import read_table
from toolenv.data.squad import load_squad
from toolenv.data.text_files import first_letter
from toolenv.episode import Task, TaskSet
from toolenv.retrieval.base import Passage

Records = Iterator[tuple[str, int, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Questions:
    """What a file of questions holds.

    Attributes:
        layout: What the file was recognised as, such as ``"MuSiQue"``.
        tasks: The questions, with all accepted answers. ``gold_passages`` name paragraphs of ``gold``.
        gold: The paragraphs that the file marks as holding answers, by id; see ``tasks_over``.
        skipped: How many records were left out, by reason: ``"unanswerable"``, ``"without an answer"``, ``"repeated"``.
    """

    layout: str
    tasks: TaskSet
    gold: Mapping[str, Passage]
    skipped: Mapping[str, int]


def load_questions(path: str | Path) -> Questions:
    r"""Read a file of questions; its content says which layout it has, not its name.

    - NQ-open, and your own JSONL or JSON array: as ``load_tasks`` reads it.
    - FlashRAG's and Search-R1's: ``golden_answers``, in JSONL or in parquet.
    - TriviaQA (``unfiltered``, ``rc``): ``Data`` with ``Answer.Aliases``; or the model hub's records.
    - PopQA: a table (TSV) with ``possible_answers``. Bamboogle: a table (CSV) of questions and answers.
    - HotpotQA, 2WikiMultihopQA and MuSiQue: with their paragraphs. 2Wiki's aliases of answers are added where their
      file, ``id_aliases.json``, stands beside.
    - SQuAD 1.1 and 2.0, SQuADShifts, XQuAD.

    Each may be gzipped, but for parquet, and is read as a stream. A question keeps the id that the file gives it, or
    ``source/id`` where ``data_source`` says that it comes from one of several sets. Without ids, questions are named
    after the file and their line, and one that repeats an earlier one with the same answers is skipped.

    Args:
        path: The file.

    Raises:
        DataError: A record that is no question; names the file, the line or item, and the reason. Two questions with
            one id. Or no question at all.
        MissingExtraError: A parquet file, and pyarrow is not installed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "bamboogle.csv"
        ...     _ = path.write_text("Question,Answer\nWho was king?,Louis\n")
        ...     found = load_questions(path)
        >>> found.layout, found.tasks[0].id, found.tasks[0].answers
        ('a table of questions', 'bamboogle-1', ('Louis',))
    """
    path = Path(path)
    if not is_parquet(path) and first_letter(path) == "{" and array_name(path, ("data", "Data")) == "data":
        squad = load_squad(path)
        gold = {passage.id: passage for passage in squad.passages}
        return Questions("SQuAD", squad.tasks, gold, {"unanswerable": squad.unanswerable} if squad.unanswerable else {})
    reading = _Reading(path)
    tasks = task_set(path, reading.tasks(), reading.nothing)
    return Questions(reading.layout, tasks, reading.gold, dict(reading.skipped))


class _Reading:
    """One pass over a file, and what is counted and kept on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.layout = ""
        self.gold: dict[str, Passage] = {}
        self.skipped: Counter[str] = Counter()

    def tasks(self) -> Iterator[tuple[str, Task]]:
        stem = self.path.name.split(".")[0]
        paragraphs, aliases = Paragraphs(), EntityAliases(self.path.parent)
        seen: set[int] = set()
        for where, number, record in self._records():
            self.layout = self.layout or layout_of(record)
            default_id = f"{stem}-{number}"
            asked = read_question(record, default_id, where, paragraphs, aliases)
            if isinstance(asked, str):
                self.skipped[asked] += 1
            elif asked.task.id == default_id and _known(asked.task, seen):
                self.skipped["repeated"] += 1
            else:
                yield where, self._kept(asked)

    def nothing(self) -> str:
        """Why there is no task."""
        counts = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        return f"all records were skipped: {counts}" if counts else "the file is empty"

    def _kept(self, asked: Asked) -> Task:
        self.gold.update((passage.id, passage) for passage in asked.gold)
        return asked.task

    def _records(self) -> Records:
        if is_parquet(self.path):
            return read_rows(self.path)
        letter = first_letter(self.path)
        if letter not in ("{", "["):
            self.layout = "a table of questions"
            return read_table(self.path)
        if letter == "{" and array_name(self.path, ("Data",)) is not None:
            return self._items()
        return read_records(self.path)

    def _items(self) -> Records:
        for number, item in enumerate(read_items(self.path, "Data"), start=1):
            where = f"{self.path}, item {number}"
            yield where, number, as_object(item, where)


def _known(task: Task, seen: set[int]) -> bool:
    """Whether the same question with the same answers came before; of what came, hashes are kept."""
    if task.functions or task.gold_calls or task.history:
        return False
    key = hash((task.prompt, task.answers))
    known = key in seen
    seen.add(key)
    return known
