"""Where argument values come from: drawn by a seed, and never the same values in two splits.

A slot is the name of a pool, a built-in kind (``date``, ``date_early``, ``date_late``, ``time``) or an object:
``{"enum": [...]}``, ``{"int": [low, high, step]}``, ``{"number": [low, high, decimals]}``, ``{"id": "EV"}``,
``{"phone": 1}``, ``{"point": [low, high]}``, ``{"row": [low, high]}``, ``{"list": slot, "n": [least, most]}`` or
``{"objects": {key: slot}, "say": template, "n": [least, most]}``. A list may be given in any order unless it says
``"ordered"``.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np

from toolenv.data.functions.catalogue import pools
from toolenv.seeding import rng

SPLITS = ("train", "validation", "test")
_DATES = {"date": (0, 363), "date_early": (0, 150), "date_late": (160, 300)}
_FIRST_DAY = datetime.date(2027, 1, 1)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A value.

    Attributes:
        value: As the call has it.
        say: As the sentence has it.
        accepted: All values that are right; ``value`` first.
    """

    value: Any
    say: str
    accepted: tuple[Any, ...]


def draw(slot: Any, split: str, random: np.random.Generator) -> Drawn:
    """Draw a value of a slot that belongs to a split. Enumerations are the same in every split."""
    if isinstance(slot, str):
        return _draw_named(slot, split, random)
    if "enum" in slot:
        value = _choose(slot["enum"], random)
        return Drawn(value, str(value).replace("_", " "), (value,))
    if "list" in slot or "objects" in slot:
        return _draw_list(slot, split, random)
    if "int" in slot:
        low, high, step = (*slot["int"], 1)[:3]
        return _plain(_number(low, high, step, split, random))
    if "number" in slot:
        low, high, decimals = slot["number"]
        scale = 10**decimals
        value = _number(low * scale, high * scale, 1, split, random) / scale
        return _plain(int(value) if value == int(value) else value)
    if "id" in slot:
        return _plain(f"{slot['id']}-{_number(10000, 99999, 1, split, random)}")
    if "phone" in slot:
        number = _number(1000000, 9999999, 1, split, random)
        return _plain(f"+44 20 {number // 10000:03d} {number % 10000:04d}")
    low, high = slot.get("point") or slot["row"]
    pair = [_number(low, high, 1, split, random) for _ in range(2)]
    return Drawn(pair, f"({pair[0]}, {pair[1]})" if "point" in slot else f"[{pair[0]}, {pair[1]}]", (pair,))


def _draw_named(name: str, split: str, random: np.random.Generator) -> Drawn:
    if name in _DATES:
        low, high = _DATES[name]
        day = _FIRST_DAY + datetime.timedelta(days=_number(low, high, 1, split, random))
        return Drawn(day.isoformat(), f"{day.day} {day:%B} {day.year}", (day.isoformat(),))
    if name == "time":
        minutes = _number(7 * 60, 22 * 60, 5, split, random)
        clock = f"{minutes // 60:02d}:{minutes % 60:02d}"
        half = f"{(minutes // 60 - 1) % 12 + 1}:{minutes % 60:02d} {'am' if minutes < 720 else 'pm'}"
        return Drawn(clock, clock if random.random() < 0.5 else half, (clock,))
    entry = _choose(_pool(name, split), random)
    if isinstance(entry, Mapping):
        value = entry["value"]
        return Drawn(value, entry.get("say", str(value)), (value, *entry.get("also", ())))
    return _plain(entry)


def _draw_list(slot: Mapping[str, Any], split: str, random: np.random.Generator) -> Drawn:
    low, high = slot["n"]
    wanted = int(random.integers(low, high + 1))
    items: list[Drawn] = []
    for _ in range(20 * wanted):
        if "list" in slot:
            item = draw(slot["list"], split, random)
            repeated = any(item.value == other.value for other in items)
        else:
            parts = {key: draw(inner, split, random) for key, inner in slot["objects"].items()}
            value = {key: part.value for key, part in parts.items()}
            said = slot["say"].format(**{key: part.say for key, part in parts.items()})
            item = Drawn(value, said, (value,))
            first = next(iter(parts))
            repeated = any(value[first] == other.value[first] for other in items)
        if not repeated and len(items) < wanted:
            items.append(item)
    values = [item.value for item in items]
    orders = [values] if slot.get("ordered") else [list(order) for order in permutations(values)]
    return Drawn(values, _join([item.say for item in items]), tuple(orders))


@cache
def _pool(name: str, split: str) -> Sequence[Any]:
    """The entries of a pool that belong to a split: 60, 20 and 20 percent, whatever the seed of the tasks."""
    entries = pools()[name]
    order = rng(0, "pool", name).permutation(len(entries))
    bounds = [0, len(entries) * 3 // 5, len(entries) * 4 // 5, len(entries)]
    place = SPLITS.index(split)
    return [entries[i] for i in order[bounds[place] : bounds[place + 1]]]


def _number(low: int, high: int, step: int, split: str, random: np.random.Generator) -> int:
    """An integer of a split: of five neighbours three are for training, one each for validation and test.

    Short ranges are the same in every split, as enumerations are.
    """
    count = (high - low) // step + 1
    if count < 15:
        return low + int(random.integers(count)) * step
    places = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}[split]
    index = 5 * int(random.integers(count // 5)) + places[int(random.integers(len(places)))]
    return low + index * step


def _choose(options: Sequence[Any], random: np.random.Generator) -> Any:
    return options[int(random.integers(len(options)))]


def _plain(value: Any) -> Drawn:
    return Drawn(value, str(value), (value,))


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
