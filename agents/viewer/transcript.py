"""An episode as the page shows it: who wrote what, and what each turn was worth.

A turn is a JSON object::

    {"text": what the model wrote, "errors": [...], "lenient": bool, "rewards": {term: score | null},
     "answer": text | null, "advantage": number | null, "said": [{"by": ..., "text": ...}, ...]}

``text`` is the model's and ``said`` the environment's: the mask, as far as a stored episode holds it. Once runs store
tokens, a turn may hold them beside ``text`` as one more field; ``pieces`` in ``transcript.js`` is where a text is cut
into what gets a colour.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agents.report import clean
from agents.viewer.index import ending
from agents.viewer.runs import Scored
from toolenv.episode import Turn
from toolenv.messages import Message

MAX_CHARS = 20_000
"""A text that is longer is cut, and says so."""


def transcript(scored: Scored) -> dict[str, Any]:
    """The episode, as JSON values; every text is cut and cleaned, and still must not be taken for markup.

    Example:
        >>> from toolenv import Episode, Task
        >>> episode = Episode("e", Task("t", "2 + 2?"), "hermes", (), (Turn(0, "4", answer="4"),), True)
        >>> transcript(Scored(episode, 1, 0, {"outcome": [1.0]}, [0.5]))["turns"][0]["rewards"]
        {'outcome': 1.0}
    """
    episode = scored.episode
    facts = {"environment": episode.env_id, "task": episode.task.id, "format": episode.format, "seed": episode.seed}
    return {
        "facts": {name: cut(str(value)) for name, value in facts.items() if value is not None},
        "question": cut(episode.task.prompt),
        "answers": [cut(answer) for answer in episode.task.answers],
        "reason": ending(scored),
        "turns": [_turn(scored, turn, row) for row, turn in enumerate(episode.turns)],
    }


def opening(scored: Scored) -> list[dict[str, Any]]:
    """The messages before the first turn."""
    return [_message(message) for message in scored.episode.prompt]


def cut(text: str) -> str:
    r"""A text without signs that could mislead, and not too long for a page.

    Example:
        >>> cut("a\x00" + "b" * MAX_CHARS)[-24:]
        'bbb… (2 more characters)'
    """
    text = clean(text)
    if len(text) <= MAX_CHARS:
        return text
    return f"{text[:MAX_CHARS]}… ({len(text) - MAX_CHARS:,} more characters)"


def _turn(scored: Scored, turn: Turn, row: int) -> dict[str, Any]:
    errors = [] if turn.error is None else ["not understood"]
    return {
        "text": cut(turn.action),
        "errors": [*errors, *_once(r.error.replace("_", " ") for r in turn.results if r.error)],
        "lenient": turn.lenient,
        "answer": None if turn.answer is None else cut(turn.answer),
        "rewards": {name: column[row] for name, column in scored.rewards.items()},
        "advantage": None if scored.advantages is None else scored.advantages[row],
        "said": _said(turn),
    }


def _said(turn: Turn) -> list[dict[str, Any]]:
    """What the model was told after a turn; after the last one, which it is told nothing of, what its calls came to."""
    if turn.observation:
        return [_message(message) for message in turn.observation]
    return [{"by": cut(result.call.name), "text": cut(result.content)} for result in turn.results]


def _message(message: Message) -> dict[str, Any]:
    return {"by": cut(message.name or message.role), "text": cut(message.content)}


def _once(words: Iterable[str]) -> list[str]:
    return [clean(word) for word in dict.fromkeys(words)]
