"""The report page of a training run: one HTML file that needs nothing but a browser.

It holds what training changed (success rates with intervals), how (learning curves), and why: transcripts in which
every turn shows its reward terms and its advantage, so that a reader sees which call got the credit.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.curves import SERIES_COLOURS, Run, draw_panels, draw_wide, series_names, smoothing_window
from toolenv.episode import Episode, Turn
from toolenv.errors import ConfigError
from toolenv.extras import require

__all__ = ["Result", "Run", "Transcript", "write_report"]

TEMPLATES = Path(__file__).parent / "templates"
FOLD_CHARS = 300
"""A tool result that is longer is folded."""
MAX_CHARS = 4000
"""A text that is longer is cut, and the page says so."""
OUTCOME = "outcome"
"""The reward term that says whether an episode succeeded."""


@dataclass(frozen=True, slots=True)
class Result:
    """How often one policy succeeded: a row of the table.

    Attributes:
        name: Which policy.
        successes: How many episodes succeeded.
        n: How many there were, at least 1.
        interval: Lower and upper end of the success rate's confidence interval, in [0, 1].
        calls_per_episode: Mean number of tool calls.

    Raises:
        ConfigError: Counts that are not counts, or an interval that does not hold the rate.

    Example:
        >>> Result("warm start", successes=30, n=100, interval=(0.22, 0.40), calls_per_episode=2.5).rate
        0.3
    """

    name: str
    successes: int
    n: int
    interval: tuple[float, float]
    calls_per_episode: float

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.n < 1 or not 0 <= self.successes <= self.n:
            raise ConfigError(
                f"result {self.name!r} needs n >= 1 and 0 <= successes <= n; got {self.successes} of {self.n}"
            )
        low, high = self.interval
        slack = 1e-9  # the ends of an interval at 0 or 1 carry rounding
        if not (-slack <= low <= self.rate + slack and self.rate - slack <= high <= 1.0 + slack):
            raise ConfigError(f"result {self.name!r}: the interval {self.interval} does not hold the rate {self.rate}")

    @property
    def rate(self) -> float:
        """Share of episodes that succeeded."""
        return self.successes / self.n


@dataclass(frozen=True, slots=True)
class Transcript:
    """An episode with what its turns were worth.

    Attributes:
        title: What tells it from the others of its group, such as the stage of training.
        episode: What happened.
        rewards: Reward terms by name, each one value a turn; ``None`` or NaN where nothing was scored.
        advantages: One a turn; ``None`` where none were estimated.
        group: Transcripts of one task with one group are shown together; ``None``: this one stands alone.

    Raises:
        ConfigError: A column that has not one value a turn.

    Example:
        >>> from toolenv import Episode, Task, Turn
        >>> episode = Episode("x", Task(id="t", prompt="?"), "hermes", (), (Turn(0, "<answer>4</answer>", answer="4"),))
        >>> Transcript("after", episode, {"outcome": [1.0]}, advantages=[0.7]).success
        True
    """

    title: str
    episode: Episode
    rewards: Mapping[str, Sequence[float | None]]
    advantages: Sequence[float] | None = None
    group: int | None = None

    def __post_init__(self) -> None:
        """Check that every column has one value a turn."""
        turns = len(self.episode.turns)
        columns = {**self.rewards, **({} if self.advantages is None else {"advantages": self.advantages})}
        for name, column in columns.items():
            if len(column) != turns:
                raise ConfigError(f"transcript {self.title!r}: {name!r} has {len(column)} values for {turns} turns")

    @property
    def success(self) -> bool | None:
        """Whether the last score of the term ``outcome`` is 1; ``None`` where there is no score."""
        scores = [score for score in map(_known, self.rewards.get(OUTCOME, ())) if score is not None]
        return scores[-1] >= 1.0 if scores else None


def write_report(
    path: str | Path,
    *,
    title: str,
    summary: str,
    results: Sequence[Result] = (),
    runs: Sequence[Run] = (),
    transcripts: Sequence[Transcript] = (),
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write the page. A reader of ``path`` sees the old page or the new one, never half of one.

    Args:
        path: Where to; missing folders are made.
        title: Title of the page.
        summary: What was done and what came of it; blank lines part paragraphs.
        results: Rows of the table, the first of which is what the others are compared with.
        runs: Metrics of training runs.
        transcripts: Episodes to show.
        facts: How the page came about: command, machine, versions and the like.

    Returns:
        The path.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    environment = page_environment(TEMPLATES)
    panels = draw_panels(runs)
    page = environment.get_template("report.html").render(
        title=title,
        paragraphs=[part for part in re.split(r"\n\s*\n", summary.strip()) if part],
        results=_result_rows(results),
        series=[(name, number % SERIES_COLOURS) for number, name in enumerate(series_names(runs))],
        seeds=max((sum(run.name == name for run in runs) for name in series_names(runs)), default=0),
        window=smoothing_window(runs),
        wide=draw_wide(panels[0], runs) if panels else "",
        panels=panels,
        groups=_groups(transcripts),
        counts={kind: sum(_kind(t) == kind for t in transcripts) for kind in ("success", "failure", "unscored")},
        largest=_largest_advantage(transcripts),
        facts=facts or {},
    )
    return _replace(Path(path), page)


def _replace(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


# Results -------------------------------------------------------------------------------------------------------------


def _result_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    return [
        {
            "name": result.name,
            "rate": f"{result.rate:.1%}",
            "low": f"{result.interval[0]:.1%}",
            "high": f"{result.interval[1]:.1%}",
            "left": f"{result.interval[0] * 100:.2f}%",
            "width": f"{(result.interval[1] - result.interval[0]) * 100:.2f}%",
            "at": f"{result.rate * 100:.2f}%",
            "change": f"{_signed((result.rate - results[0].rate) * 100, 1)} points" if number else "",
            "count": f"{result.successes} of {result.n}",
            "calls": f"{result.calls_per_episode:.2f}",
        }
        for number, result in enumerate(results)
    ]


# Transcripts ---------------------------------------------------------------------------------------------------------


def _groups(transcripts: Sequence[Transcript]) -> list[dict[str, Any]]:
    members: dict[Any, list[Transcript]] = {}
    for number, transcript in enumerate(transcripts):
        alone = transcript.group is None
        key = ("alone", number) if alone else (transcript.group, transcript.episode.task.id)
        members.setdefault(key, []).append(transcript)
    largest = _largest_advantage(transcripts)
    return [_group_view(group, largest, first=number == 0) for number, group in enumerate(members.values())]


def _group_view(group: Sequence[Transcript], largest: float, first: bool) -> dict[str, Any]:
    """What the template shows of one task: its question once, then a row an episode."""
    episode = group[0].episode
    # The first group shows one right and one wrong episode unfolded, so that a reader knows what is in the others.
    unfolded = {kind: number for number, kind in reversed(list(enumerate(map(_kind, group))))} if first else {}
    return {
        "question": _cut(episode.task.prompt),
        "env_id": episode.env_id,
        "task_id": episode.task.id,
        "answers": episode.task.answers,
        "prompt": [(message.role, _cut(message.content)) for message in episode.prompt],
        "columns": min(8, max(1, *(len(t.episode.turns) for t in group))),
        "successes": sum(t.success is True for t in group),
        "episodes": [
            {**_episode_view(transcript, largest), "open": number in unfolded.values()}
            for number, transcript in enumerate(group)
        ],
    }


def _episode_view(transcript: Transcript, largest: float) -> dict[str, Any]:
    episode = transcript.episode
    ending = episode.reason or ("running" if not (episode.terminated or episode.truncated) else "")
    return {
        "title": transcript.title,
        "kind": _kind(transcript),
        "reason": ending.replace("_", " "),
        "turns": [_turn_view(transcript, row, largest) for row in range(len(episode.turns))],
    }


def _turn_view(transcript: Transcript, row: int, largest: float) -> dict[str, Any]:
    turn = transcript.episode.turns[row]
    advantage = None if transcript.advantages is None else _known(transcript.advantages[row])
    errors = [result.error.replace("_", " ") for result in turn.results if result.error]
    if turn.error is not None:
        errors.append("not understood")
    terms = [(name, _known(column[row])) for name, column in transcript.rewards.items()]
    return {
        "number": row + 1,
        "act": _act(turn)[0],
        "label": _act(turn)[1],
        "advantage": None if advantage is None else _signed(advantage),
        "sign": "none" if advantage is None else "pos" if advantage > 0 else "neg" if advantage < 0 else "zero",
        "strength": f"{min(1.0, abs(advantage or 0.0) / (largest or 1.0)):.3f}",
        "terms": [
            (name, "none" if v is None else _signed(v), "none" if v is None else "zero" if v == 0 else "paid")
            for name, v in terms
        ],
        "errors": list(dict.fromkeys(errors)),
        "lenient": turn.lenient,
        "action": _highlight(_cut(turn.action)),
        "results": _results(turn),
    }


def _act(turn: Turn) -> tuple[str, str]:
    """What a turn did: the tool that it called, and with what, or its answer."""
    if turn.answer is not None:
        return "answer", _cut(turn.answer, 80)
    if turn.calls:
        first = turn.calls[0]
        others = f" +{len(turn.calls) - 1}" if len(turn.calls) > 1 else ""
        arguments = ", ".join(str(value) for value in first.arguments.values())
        return f"{first.name}{others}", _cut(" ".join(arguments.split()), 80)
    return ("", "not understood") if turn.error is not None else ("reply", _cut(turn.action.strip(), 80))


def _results(turn: Turn) -> list[dict[str, str]]:
    """Tool results; where no call ran, what the environment said instead."""
    shown = [(result.call.name, result.content) for result in turn.results]
    if not shown:
        shown = [(message.name or "environment", message.content) for message in turn.observation]
    return [
        {
            "name": name,
            "text": _cut(content.strip()),
            "head": _cut(content.strip(), FOLD_CHARS) if len(content.strip()) > FOLD_CHARS else "",
        }
        for name, content in shown
    ]


def _kind(transcript: Transcript) -> str:
    return {True: "success", False: "failure", None: "unscored"}[transcript.success]


def _largest_advantage(transcripts: Iterable[Transcript]) -> float:
    """Largest absolute advantage of the page: the full depth of its colours."""
    columns = [t.advantages for t in transcripts if t.advantages is not None]
    known = [_known(value) for column in columns for value in column]
    return max((abs(value) for value in known if value is not None and math.isfinite(value)), default=0.0)


# Text ----------------------------------------------------------------------------------------------------------------

_HIGHLIGHTS = re.compile(
    r"(?P<open><(?P<tag>think|search|tool_call|answer|response)>)(?P<body>.*?)(?P<close></(?P=tag)>|\Z)"
    r"|(?P<fence>```python\n.*?(?:```|\Z))"
    r"|(?P<box>\\boxed\{[^{}]{0,200}\})",
    re.DOTALL,
)
_KINDS = {"think": "think", "answer": "answer", "response": "answer", "search": "call", "tool_call": "call"}

# Controls become visible signs; what would turn the direction of the page's own text, or is no character, a box.
_UNSAFE = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    **dict.fromkeys([*range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFFFE, 0xFFFF], 0xFFFD),
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),
}


def page_environment(folder: Path) -> Any:
    """The Jinja environment of pages: what a template is given is escaped, and cleaned as ``clean`` does.

    Args:
        folder: Where the templates stand.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    jinja2 = require("jinja2", "train")
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )


def clean(text: str) -> str:
    r"""A text with its controls made visible, and without signs that turn the direction of the text around it.

    Example:
        >>> clean("a\x00b")
        'a␀b'
    """
    return text.replace("\r\n", "\n").translate(_UNSAFE)


def _finalize(value: Any) -> Any:
    """Clean every string that the template puts in; what is markup already was made from clean text."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else clean(value)


def _cut(text: str, limit: int = MAX_CHARS) -> str:
    if len(text) <= limit:
        return text
    left = len(text) - limit
    return f"{text[:limit]}…" + (f" ({left:,} more characters)" if limit == MAX_CHARS else "")


def _highlight(action: str) -> Any:
    """The action as markup: tags faint, thoughts, calls and answers each in their own way."""
    markup = require("markupsafe", "train")
    action, pieces, end = clean(action), [], 0
    for match in _HIGHLIGHTS.finditer(action):
        pieces.append(markup.escape(action[end : match.start()]))
        if match["tag"]:
            span = '<span class="tag">{}</span><span class="{}">{}</span><span class="tag">{}</span>'
            parts = (match["open"], _KINDS[match["tag"]], match["body"], match["close"])
            pieces.append(markup.Markup(span).format(*parts))
        else:
            kind = "call" if match["fence"] else "answer"
            pieces.append(markup.Markup('<span class="{}">{}</span>').format(kind, match[0]))
        end = match.end()
    return markup.Markup("").join([*pieces, markup.escape(action[end:])])


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _signed(value: float, digits: int = 2) -> str:
    """A number with its sign, a true minus, and no sign where it rounds to zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")
