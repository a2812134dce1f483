"""The index of the page: of every episode the few facts that the list shows and filters by, as columns."""

from __future__ import annotations

from typing import Any

from agents.behaviour import failed
from agents.report import OUTCOME, clean
from agents.viewer.runs import Scored, known

PROMPT_CHARS = 300
"""So much of a task's prompt stands in the index: what the list shows, and the filter looks through."""
COLUMNS = ("run", "update", "group", "task", "calls", "turns", "errors", "reason")


class Index:
    """Takes in episodes one by one and keeps a few numbers of each.

    Example:
        >>> from toolenv import Episode, Task, Turn
        >>> index = Index()
        >>> episode = Episode("e", Task("t", "What is 2 + 2?"), "hermes", (), (Turn(0, "4", answer="4"),))
        >>> index.add(0, Scored(episode, 1, 0, {"outcome": [1.0]}, [0.5]))
        >>> facts = index.to_json()
        >>> facts["columns"]["calls"], facts["terms"]["outcome"], facts["tasks"]
        ([0], [1.0], [['t', 'What is 2 + 2?']])
    """

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self.terms: dict[str, list[float | None]] = {}
        self.largest: dict[str, float] = {}
        self._tasks: dict[tuple[str, str], int] = {}
        self._reasons: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.columns["run"])

    def add(self, run: int, scored: Scored) -> None:
        """Take in an episode of the run with this number."""
        episode, count = scored.episode, len(self)
        task = (episode.task.id, episode.task.prompt)
        facts = {
            "run": run,
            "update": scored.update,
            "group": scored.group,
            "task": self._tasks.setdefault(task, len(self._tasks)),
            "calls": episode.num_calls,
            "turns": len(episode.turns),
            "errors": sum(map(failed, episode.turns)),
            "reason": self._reasons.setdefault(ending(scored), len(self._reasons)),
        }
        for name, column in self.columns.items():
            column.append(facts[name])
        for name in scored.rewards:
            self.terms.setdefault(name, [None] * count)
        for name, sums in self.terms.items():
            sums.append(_total(scored, name))
        terms = {f"term:{name}": column for name, column in scored.rewards.items()}
        for name, values in {**terms, "advantage": scored.advantages or ()}.items():
            sizes = [abs(value) for value in values if value is not None]
            if sizes:
                self.largest[name] = max(self.largest.get(name, 0.0), *sizes)

    def to_json(self) -> dict[str, Any]:
        """The columns, the sums of each term, the tasks and reasons that they number, and the scale of the colours."""
        return {
            "columns": self.columns,
            "terms": dict(sorted(self.terms.items(), key=lambda term: (term[0] != OUTCOME, term[0]))),
            "largest": self.largest,
            "tasks": [[clean(name), _short(prompt)] for name, prompt in self._tasks],
            "reasons": list(self._reasons),
        }


def ending(scored: Scored) -> str:
    """Why an episode ended, in words.

    Example:
        >>> from toolenv import Episode, Task
        >>> ending(Scored(Episode("e", Task("t", "?"), "hermes", ()), None, None, {}, None))
        'running'
    """
    episode = scored.episode
    reason = episode.reason or ("" if episode.terminated or episode.truncated else "running")
    return clean(reason.replace("_", " "))


def _total(scored: Scored, name: str) -> float | None:
    values = [value for value in scored.rewards.get(name, ()) if value is not None]
    return known(round(sum(values), 6)) if values else None


def _short(prompt: str) -> str:
    prompt = " ".join(clean(prompt).split())
    return prompt if len(prompt) <= PROMPT_CHARS else prompt[:PROMPT_CHARS] + "…"
