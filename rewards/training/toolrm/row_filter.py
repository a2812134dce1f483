"""Keep the rows of a function-calling training file that a ToolRM scores best."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewards.scoring import Conversation
from rewards.training.bench.baselines import OutcomeScorer
from rewards.training.bench.kept_scores import conversation_key, keep_scores
from rewards.training.pairs.gold_tasks import load_gold_tasks
from rewards.training.pairs.records import output_conversation
from toolenv.data.text_files import replace_file
from toolenv.errors import ConfigError, DataError
from toolenv.messages import Message

NO_CALL = "No function here can do that."
"""What is scored where a row calls nothing."""


@dataclass(frozen=True, slots=True)
class FilterReport:
    """What was kept.

    Attributes:
        rows: Rows of the file.
        kept: Rows that were kept.
        unscored: Rows that were too long for the scorer; they are kept last.
        mean_kept: Mean score of the kept rows.
        mean_left: Mean score of the others; ``None`` where there are none.
        lowest_kept: Lowest score of a kept row.
    """

    rows: int
    kept: int
    unscored: int
    mean_kept: float | None
    mean_left: float | None
    lowest_kept: float | None

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        means = (f"{value:.3f}" if value is not None else "-" for value in (self.mean_kept, self.mean_left))
        unscored = f"; {self.unscored} rows were too long to be scored" if self.unscored else ""
        return f"kept {self.kept} of {self.rows} rows; mean score {next(means)}, of the others {next(means)}{unscored}"


def filter_rows(
    source: str | Path,
    output: str | Path,
    load: Callable[[], OutcomeScorer],
    top: float,
    *,
    name: str = "scorer",
    settings: Mapping[str, Any] | None = None,
) -> FilterReport:
    """Keep the best rows, in the order and with the bytes of the file; the same call goes on after a kill.

    A row's score is that of its gold calls as the answer to its prompt.

    Args:
        source: A JSONL file that ``rewards.training.pairs.gold_tasks.load_gold_tasks`` reads, one row a line.
        output: Folder for ``kept.jsonl``, and ``scores.jsonl`` with ``line``, ``id``, ``score``, ``kept`` of each.
        load: Loads the scorer.
        top: Below 1: share of the rows that is kept; else how many. Of equal scores the earlier row is kept.
        name: What the scorer is called.
        settings: All that decides its scores, as JSON values.

    Raises:
        ConfigError: ``top`` is not above 0, or more than there are rows.
        DataError: The file cannot be read, or not all of its rows are function-calling tasks that can be scored.
    """
    source, output = Path(source), Path(output)
    rows = list(_rows(source))
    count = round(top * len(rows)) if top < 1 else int(top)
    if not 1 <= count <= len(rows):
        raise ConfigError(f"--top {top!r} of {len(rows)} rows keeps {count}; keep from 1 to all of them")
    keys = [conversation_key(messages) for _, _, messages in rows]
    read = {key: messages for key, (_, _, messages) in zip(keys, rows, strict=True)}
    by_key = keep_scores(read, load(), output / "scores", name=name, settings=settings or {"scorer": name})
    scores = [by_key[key] for key in keys]
    known = np.array([-np.inf if score is None else score for score in scores])
    kept = set(np.argsort(-known, kind="stable")[:count].tolist())
    output.mkdir(parents=True, exist_ok=True)
    replace_file(output / "kept.jsonl", b"".join(line for number, (line, _, _) in enumerate(rows) if number in kept))
    facts = [
        {"line": number + 1, "id": row[1], "score": score, "kept": number in kept}
        for number, (row, score) in enumerate(zip(rows, scores, strict=True))
    ]
    replace_file(output / "scores.jsonl", b"".join(json.dumps(fact).encode() + b"\n" for fact in facts))
    inside, outside = (
        [s for n, s in enumerate(scores) if s is not None and (n in kept) == side] for side in (True, False)
    )
    return FilterReport(
        rows=len(rows),
        kept=count,
        unscored=scores.count(None),
        mean_kept=float(np.mean(inside)) if inside else None,
        mean_left=float(np.mean(outside)) if outside else None,
        lowest_kept=min(inside, default=None),
    )


def _rows(source: Path) -> Iterator[tuple[bytes, str, Conversation]]:
    """Each line, its task's id, and what is scored of it."""
    tasks = load_gold_tasks(str(source))
    lines = [line for line in source.read_bytes().splitlines(keepends=True) if line.strip()]
    if len(lines) != len(tasks):
        raise DataError(
            f"{source}: has {len(lines)} lines, and {len(tasks)} function-calling tasks that can be scored; give a "
            "plain JSONL file of such rows alone"
        )
    for line, task in zip(lines, tasks, strict=True):
        prompt = (*task.history, Message("user", task.prompt))
        answer = task.gold_calls or NO_CALL
        yield (
            line if line.endswith(b"\n") else line + b"\n",
            task.id,
            output_conversation(task.functions, prompt, answer),
        )
