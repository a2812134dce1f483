"""What the bundled functions return: made-up facts that are always the same, and real arithmetic."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from toolenv.data.functions.slots import draw
from toolenv.messages import ToolCall
from toolenv.seeding import rng

_METRES = {"metre": 1.0, "kilometre": 1000.0, "mile": 1609.344, "foot": 0.3048, "inch": 0.0254}
_GRAMS = {"gram": 1.0, "kilogram": 1000.0, "pound": 453.59237, "ounce": 28.349523125}


def make_result(spec: Mapping[str, Any], call: ToolCall) -> dict[str, Any]:
    """The result of a call, from a function's ``result`` description; the same call, the same result.

    A list in the description is a choice, ``{"compute": name}`` a computation, another object a slot to draw from, and
    anything else stands for itself. ``"at_most"`` names the argument that caps a drawn number.

    Example:
        >>> make_result({"percent": {"compute": "percent_change"}}, ToolCall("f", {"old": 50, "new": 60}))
        {'percent': 20.0}
    """
    random = rng(0, "result", json.dumps([call.name, dict(call.arguments)], sort_keys=True))
    result: dict[str, Any] = {}
    for name, entry in spec.items():
        if isinstance(entry, list):
            result[name] = entry[int(random.integers(len(entry)))]
        elif isinstance(entry, Mapping) and "compute" in entry:
            result[name] = round(COMPUTED[entry["compute"]](call.arguments), 4)
        elif isinstance(entry, Mapping):
            value = draw(entry, "train", random).value
            result[name] = min(value, call.arguments.get(entry["at_most"], value)) if "at_most" in entry else value
        else:
            result[name] = entry
    return result


def _loan_payment(given: Mapping[str, Any]) -> float:
    rate, months = given["annual_rate_percent"] / 1200, given["years"] * 12
    return float(given["principal"] * rate / (1 - (1 + rate) ** -months))


def _temperature(given: Mapping[str, Any]) -> float:
    value = float(given["value"])
    celsius = {"celsius": value, "fahrenheit": (value - 32) * 5 / 9, "kelvin": value - 273.15}[given["from_unit"]]
    return {"celsius": celsius, "fahrenheit": celsius * 9 / 5 + 32, "kelvin": celsius + 273.15}[given["to_unit"]]


def _statistic(given: Mapping[str, Any]) -> float:
    numbers = given["numbers"]
    match given["statistic"]:
        case "mean":
            return float(statistics.fmean(numbers))
        case "median":
            return float(statistics.median(numbers))
        case "range":
            return float(max(numbers) - min(numbers))
        case _:
            return float(statistics.pstdev(numbers))


def _polygon_area(given: Mapping[str, Any]) -> float:
    corners = given["corners"]
    doubled = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, [*corners[1:], corners[0]], strict=True))
    return math.fabs(doubled) / 2


def _determinant(given: Mapping[str, Any]) -> float:
    (a, b), (c, d) = given["matrix"]
    return float(a * d - b * c)


COMPUTED: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "loan_payment": _loan_payment,
    "temperature": _temperature,
    "statistic": _statistic,
    "polygon_area": _polygon_area,
    "determinant": _determinant,
    "length": lambda given: given["value"] * _METRES[given["from_unit"]] / _METRES[given["to_unit"]],
    "weight": lambda given: given["value"] * _GRAMS[given["from_unit"]] / _GRAMS[given["to_unit"]],
    "compound": lambda given: given["deposit"] * (1 + given["rate_percent"] / 100) ** given["years"],
    "percent_change": lambda given: (given["new"] - given["old"]) / given["old"] * 100,
    "bmi": lambda given: given["weight_kg"] / (given["height_cm"] / 100) ** 2,
}
