"""Tasks from the catalogue: sentences with drawn values, and the calls they ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolenv.data.functions.catalogue import Function, Sentence, chains, functions
from toolenv.data.functions.results import make_result
from toolenv.data.functions.slots import Drawn, draw
from toolenv.episode import Task
from toolenv.grading.calls import nest
from toolenv.messages import ToolCall

CATEGORIES = {"single": 0.34, "parallel": 0.18, "multiple": 0.18, "sequential": 0.16, "irrelevance": 0.14}
MIN_OFFERED, MAX_OFFERED = 3, 8

_ALONE = (
    "Please {0}.",
    "Can you {0}?",
    "{0!c}.",
    "I need you to {0}.",
    "Would you {0}, please?",
    "Hello! {0!c}, please.",
)
_TWO = (
    "Please {0} and {1}.",
    "Two things: {0}, and {1}.",
    "{0!c}. Also, {1}.",
    "Can you {0}? And {1}, please.",
    "I would like you to {0} and to {1}.",
)
_THREE = (
    "Please {0}, {1}, and {2}.",
    "Three things: {0}; {1}; {2}.",
    "{0!c}. Then {1}. And {2}.",
    "Can you {0}, {1} and also {2}?",
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call, the words that ask for it, and what else would be right."""

    words: str
    call: ToolCall
    accepted: Mapping[str, list[Any]]
    function: Function


def make_task(task_id: str, category: str, split: str, random: np.random.Generator) -> Task:
    """Draw a task of a category.

    Args:
        task_id: Its id.
        category: A key of ``CATEGORIES``.
        split: Whose values to draw: ``"train"``, ``"validation"`` or ``"test"``.
        random: Random stream.
    """
    if category == "sequential":
        prompt, asked = _chain(split, random)
    elif category in ("single", "irrelevance"):
        function = _choose(list(functions().values()), random)
        sentence = _choose((*function.imperatives, *function.questions), random)
        asked = [_fill(function, sentence, split, random)]
        prompt = asked[0].words if sentence in function.questions else _phrase(_ALONE, asked, random)
    else:
        asked = _several(category == "parallel", split, random)
        prompt = _phrase(_TWO if len(asked) == 2 else _THREE, asked, random)
    offered = _offer([a.function for a in asked], category == "irrelevance", random)
    if category == "irrelevance":
        asked = []
    metadata: dict[str, Any] = {
        "category": category,
        "accepted": [a.accepted for a in asked],
        "results": [
            {
                "call": {"name": a.call.name, "arguments": dict(a.call.arguments)},
                "content": json.dumps(make_result(a.function.result, a.call)),
            }
            for a in asked
        ],
    }
    if category == "sequential":
        metadata["steps"] = [[index] for index in range(len(asked))]
    gold = tuple(a.call for a in asked)
    return Task(task_id, _articles(prompt), gold_calls=gold, functions=offered, metadata=metadata)


def _several(same: bool, split: str, random: np.random.Generator) -> list[_Asked]:
    """Two or three calls for one turn, of one function or of as many functions."""
    count = 2 if random.random() < 0.6 else 3
    names = list(functions())
    picked = [names[i] for i in random.choice(len(names), size=count, replace=False)]
    asked: list[_Asked] = []
    while len(asked) < count:
        function = functions()[picked[0 if same else len(asked)]]
        new = _fill(function, _choose(function.imperatives, random), split, random)
        if all(new.call != other.call for other in asked):
            asked.append(new)
    return asked


def _chain(split: str, random: np.random.Generator) -> tuple[str, list[_Asked]]:
    """Two calls of which the second needs the first one's result."""
    chain = _choose(chains(), random)
    prompt = _choose(chain.prompts, random)
    first_function, second_function = (functions()[name] for name in chain.calls)
    first_drawn = _draw_named(prompt, "0.", first_function, split, random)
    first = _asked("", first_function, first_drawn, {})
    result = make_result(first_function.result, first.call)
    linked = {name: result[field] for name, field in chain.link.items()}
    repeated = {name: first_drawn[source] for name, source in chain.same.items()}
    second_drawn = {**_draw_named(prompt, "1.", second_function, split, random), **repeated}
    second = _asked("", second_function, second_drawn, linked)
    said = {f"0.{k}": d.say for k, d in first_drawn.items()} | {f"1.{k}": d.say for k, d in second_drawn.items()}
    return _substitute(prompt, said), [first, second]


def _draw_named(
    text: str, prefix: str, function: Function, split: str, random: np.random.Generator
) -> dict[str, Drawn]:
    names = re.findall(r"\{" + re.escape(prefix) + r"(\w+)\}", text)
    return {name: draw(function.slots[name], split, random) for name in names}


def _fill(function: Function, sentence: Sentence, split: str, random: np.random.Generator) -> _Asked:
    drawn = _draw_named(sentence.text, "", function, split, random)
    words = _substitute(sentence.text, {name: d.say for name, d in drawn.items()})
    return _asked(words, function, drawn, sentence.implied)


def _asked(words: str, function: Function, drawn: Mapping[str, Drawn], fixed: Mapping[str, Any]) -> _Asked:
    """The call with drawn and fixed arguments, in the order of the schema, and all that is accepted for it."""
    arguments: dict[str, Any] = {}
    accepted: dict[str, list[Any]] = {}
    for name, spec in function.schema["parameters"]["properties"].items():
        if name in drawn or name in fixed:
            arguments[name] = drawn[name].value if name in drawn else fixed[name]
            options = drawn[name].accepted if name in drawn else (fixed[name],)
            accepted[name] = [nest(option) for option in options]
            if "default" in spec and arguments[name] == spec["default"]:
                accepted[name].append("")
        elif "default" in spec:
            accepted[name] = [spec["default"], ""]
    return _Asked(words, ToolCall(function.name, arguments), accepted, function)


def _offer(used: Sequence[Function], without: bool, random: np.random.Generator) -> tuple[Mapping[str, Any], ...]:
    """Schemas that a task offers: those it needs and others, or, ``without``, only others of other domains."""
    needed = {} if without else {f.name: f for f in used}
    domains = {f.domain for f in used}
    near = frozenset().union(*(f.near for f in used))
    barred = {f.name for f in used} | near
    others = [f for f in functions().values() if f.name not in barred]
    alike = [f for f in others if f.domain in domains]
    foreign = [f for f in others if f.domain not in domains]
    total = max(int(random.integers(MIN_OFFERED, MAX_OFFERED + 1)), len(needed))
    from_home = 0 if without else min(len(alike), (total - len(needed) + 1) // 2)
    chosen = [*needed.values(), *_sample(alike, from_home, random)]
    chosen += _sample(foreign, total - len(chosen), random)
    return tuple(chosen[i].schema for i in random.permutation(len(chosen)))


def _sample(items: Sequence[Function], count: int, random: np.random.Generator) -> list[Function]:
    return [items[i] for i in random.choice(len(items), size=count, replace=False)]


def _choose(options: Sequence[Any], random: np.random.Generator) -> Any:
    return options[int(random.integers(len(options)))]


def _phrase(frames: Sequence[str], asked: Sequence[_Asked], random: np.random.Generator) -> str:
    """Clauses in a frame; ``{0!c}`` begins a sentence."""
    said = {str(i): a.words for i, a in enumerate(asked)}
    said |= {f"{i}!c": a.words[0].upper() + a.words[1:] for i, a in enumerate(asked)}
    return _substitute(_choose(frames, random), said)


def _substitute(template: str, said: Mapping[str, str]) -> str:
    return re.sub(r"\{([^{}]+)\}", lambda slot: said[slot.group(1)], template)


def _articles(text: str) -> str:
    """``an`` where a drawn word begins with a vowel."""
    return re.sub(r"\b([Aa]) (?=[aeiou])(?!uni|eu|one)", r"\1n ", text)
