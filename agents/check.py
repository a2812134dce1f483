"""``check_estimator``: golden vectors and laws that an advantage estimator must keep, ours or anybody's.

The vectors are plain JSON, one file an estimator in ``agents/golden/``, so that a trainer in another language can read
them too. Each case says why it is there and how its numbers were found by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from agents.batch import TokenBatch, TurnBatch
from rewards.options import check_choice
from toolenv.errors import ConfigError, ToolEnvError

Of = Literal["turns", "tokens", "placement"]
OwnOf = Literal["turns", "tokens"]
Array = NDArray[Any]

GOLDEN = Path(__file__).parent / "golden"

_INTEGERS = ("groups", "turn_ids")


class EstimatorError(ToolEnvError):
    """An estimator does not give the numbers that it should; names the case, what was expected and what came."""


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """A batch, and what an estimator makes of it.

    Attributes:
        estimator: Name of the estimator.
        of: What it takes: a ``TurnBatch``, a ``TokenBatch``, or for a placement a ``TurnBatch`` and the turn ids.
        laws: Laws that it keeps besides; see ``check_estimator``.
        name: Name of the case.
        why: What goes wrong in an implementation that fails it.
        how: How the numbers were found.
        settings: Keyword arguments of the call.
        arrays: Fields of the batch, by name; NaN where the file says ``null``.
        expected: Advantages, ``(B, T)`` or ``(B, L)``.
    """

    estimator: str
    of: Of
    laws: tuple[str, ...]
    name: str
    why: str
    how: str
    settings: Mapping[str, Any]
    arrays: Mapping[str, Array]
    expected: NDArray[np.float64]

    def batch(self) -> TurnBatch | TokenBatch:
        """The arrays as a batch."""
        fields: dict[str, Any] = dict(self.arrays)
        return TokenBatch(**fields) if self.of == "tokens" else TurnBatch(**fields)


def golden_names() -> list[str]:
    """Estimators that there are golden vectors for.

    Example:
        >>> "turn_loo" in golden_names()
        True
    """
    return sorted(path.stem for path in GOLDEN.glob("*.json"))


def load_golden(name: str) -> list[GoldenCase]:
    """The golden cases of an estimator, as plain arrays.

    Args:
        name: One of ``golden_names()``.

    Raises:
        ConfigError: There are none of that name.

    Example:
        >>> case = load_golden("turn_loo")[1]
        >>> case.name, case.arrays["rewards"].tolist(), case.expected.tolist()
        ('going on is judged against stopping', [[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [-1.0, 0.0]])
    """
    if name not in golden_names():
        raise ConfigError(f"there are no golden vectors of {name!r}; there are some of {', '.join(golden_names())}")
    record = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return [
        GoldenCase(
            estimator=record["estimator"],
            of=record["of"],
            laws=tuple(record["laws"]),
            name=case["name"],
            why=case["why"],
            how=case["how"],
            settings={key: _setting(key, value) for key, value in case["settings"].items()},
            arrays={field: _array(field, value) for field, value in case["batch"].items()},
            expected=np.array(case["expected"], dtype=np.float64),
        )
        for case in record["cases"]
    ]


def check_estimator(
    estimator: Callable[..., Any],
    name: str | None = None,
    *,
    of: OwnOf = "turns",
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> None:
    """Check an estimator against golden vectors and laws.

    It is called as ``estimator(batch, **settings)``, with the settings of each case by name; a function of another
    shape needs a line around it. The laws, on the batch of each case:

    - *shape*: an array as large as the rewards, of finite numbers; the batch is as it was.
    - *padding*: what stands where there is no turn (or token) does not matter, and gets 0.
    - *order*: episodes in another order get the same, in that order.
    - *groups*: a group by itself gets the same. (Not ``rebn``, which compares across groups.)
    - *rows*: of tokens, an episode by itself gets the same.
    - *observations*: of tokens, further observation tokens change nothing.

    Args:
        estimator: From a ``TurnBatch`` (or ``TokenBatch``) to advantages: an array, or what NumPy can make one of.
        name: Whose golden vectors it must meet, one of ``golden_names()``. ``None``: an estimator that is none of
            ours; it is called without settings, and only held to the laws *shape*, *padding*, *order*, and *groups*
            or *observations*. No law tests whether it is biased.
        of: What an estimator without a name takes: ``"turns"``, a ``TurnBatch``, or ``"tokens"``, a ``TokenBatch``.
            With a name, the vectors say so.
        rtol: Largest relative difference.
        atol: Largest absolute difference.

    Raises:
        EstimatorError: A vector is missed or a law broken; the message says which, what was expected and what came.
        ConfigError: There are no golden vectors of that name, or another ``of``.

    Example:
        >>> from agents.advantages import dr_grpo, rloo
        >>> check_estimator(rloo, "rloo")
        >>> check_estimator(dr_grpo, "rloo")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        agents.check.EstimatorError: this is not 'rloo': in the case 'two of four succeed' ...
    """
    check_choice("of", of, get_args(OwnOf))
    cases = load_golden(name) if name is not None else _own_cases(estimator, of)
    golden = [(None, case) for case in cases]
    lawful = [(law, variant) for case in cases for law in case.laws for variant in _LAWS[law](case)]
    for law, case in (*golden, *lawful):
        got = _run(estimator, case)
        if not np.allclose(got, case.expected, rtol=rtol, atol=atol):
            raise EstimatorError(_difference(case, law, name, got))


# Laws: how a case changes, and what is expected then -----------------------------------------------------------------


def _padded(case: GoldenCase) -> Iterator[GoldenCase]:
    """Two more columns, and garbage in them and in the padding that there was."""
    columns = case.expected.shape[1]
    wide = replace(case, arrays={}, expected=np.pad(case.expected, ((0, 0), (0, 2))))
    for garbage in (np.nan, 1e6):
        arrays = {
            field: np.pad(array, ((0, 0), (0, 2)), mode="edge") if array.ndim == 2 else array
            for field, array in case.arrays.items()
        }
        arrays["mask"][:, columns:] = False
        if "values" in arrays:
            arrays["values"][~arrays["mask"]] = garbage
        if case.of == "turns":
            arrays["rewards"][~arrays["mask"]] = garbage
        else:  # of tokens, padding cannot be told from an observation, and a reward there counts
            arrays["rewards"][:, columns:] = np.nan
            if "turn_ids" in arrays:
                arrays["turn_ids"][:, columns:] = -1
        yield replace(wide, arrays=arrays)


def _reordered(case: GoldenCase) -> Iterator[GoldenCase]:
    yield _rows(case, np.arange(len(case.expected))[::-1])


def _groups_alone(case: GoldenCase) -> Iterator[GoldenCase]:
    for group in np.unique(case.arrays["groups"]):
        yield _rows(case, np.flatnonzero(case.arrays["groups"] == group))


def _rows_alone(case: GoldenCase) -> Iterator[GoldenCase]:
    for row in range(len(case.expected)):
        yield _rows(case, np.array([row]))


def _rows(case: GoldenCase, rows: Array) -> GoldenCase:
    arrays = {field: array[rows] for field, array in case.arrays.items()}
    return replace(case, arrays=arrays, expected=case.expected[rows])


def _observed(case: GoldenCase) -> Iterator[GoldenCase]:
    """An observation token, on which a critic says 1e6, after every token."""
    fills = {"turn_ids": -1, "values": 1e6}
    arrays = {
        field: _spread(array, fills.get(field, 0)) if array.ndim == 2 else array for field, array in case.arrays.items()
    }
    yield replace(case, arrays=arrays, expected=_spread(case.expected, 0.0))


def _spread(array: Array, fill: float) -> Array:
    return np.stack([array, np.full_like(array, fill)], axis=2).reshape(len(array), -1)


_LAWS: Mapping[str, Callable[[GoldenCase], Iterator[GoldenCase]]] = {
    "padding": _padded,
    "order": _reordered,
    "groups": _groups_alone,
    "rows": _rows_alone,
    "observations": _observed,
}


_OWN: Mapping[OwnOf, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "turns": (("turn_loo", "gigpo", "turn_gae"), ("padding", "order", "groups")),
    "tokens": (("token_gae", "turn_aware_gae"), ("padding", "order", "observations")),
}
"""Whose batches an estimator that is none of ours gets, and the laws that it is held to."""


def _own_cases(estimator: Callable[..., Any], of: OwnOf) -> list[GoldenCase]:
    """Batches without golden numbers: what is expected is what the estimator says of the whole batch."""
    names, laws = _OWN[of]
    cases = [
        replace(case, estimator="the estimator", laws=laws, settings={}) for name in names for case in load_golden(name)
    ]
    filled = [replace(case, arrays={**_fillers(case), **case.arrays}) for case in cases]
    return [replace(case, expected=_run(estimator, case)) for case in filled]


def _fillers(case: GoldenCase) -> dict[str, Array]:
    """What a batch may hold besides: a critic's values; of turns the index as the key of the state, of tokens turns."""
    rows, columns = case.expected.shape
    indices = np.tile(np.arange(columns), (rows, 1))
    critic = {"values": indices / 4, "bootstrap": np.zeros(rows)}
    if case.of == "tokens":
        return {**critic, "outcome": np.zeros(rows), "turn_ids": np.where(case.arrays["mask"], 0, -1)}
    return {**critic, "anchors": indices.astype(object)}


# Running, reading, telling -------------------------------------------------------------------------------------------


def _run(estimator: Callable[..., Any], case: GoldenCase) -> NDArray[np.float64]:
    batch = case.batch()
    before = {field: array.copy() for field, array in case.arrays.items()}
    try:
        got = np.asarray(estimator(batch, **case.settings), dtype=np.float64)
    except TypeError as error:
        raise EstimatorError(
            f"{case.estimator} cannot be called as estimator(batch, **{dict(case.settings)}): {error}; "
            "put a function around it that takes these settings"
        ) from error
    if got.shape != case.expected.shape:
        raise EstimatorError(f"{_place(case)} an array {case.expected.shape} was expected; it is {got.shape}")
    if not np.isfinite(got).all():
        row, column = np.argwhere(~np.isfinite(got))[0].tolist()
        raise EstimatorError(f"{_place(case)} {got[row, column]} stands at row {row}, column {column}:\n{got}")
    for field, array in before.items():
        if not np.array_equal(array, case.arrays[field], equal_nan=array.dtype == np.float64):
            raise EstimatorError(f"{_place(case)} it changed {field} of the batch; copy what you change")
    return got


def _difference(case: GoldenCase, law: str | None, name: str | None, got: NDArray[np.float64]) -> str:
    row, column = np.unravel_index(np.argmax(np.abs(got - case.expected)), got.shape)
    fault = f"this is not {name!r}:" if law is None else f"the law {law!r} is broken:"
    reason = f" {case.why}" if law is None else ""
    return (
        f"{fault} {_place(case)} {case.expected[row, column]:.6g} was expected at row {row}, column {column}; "
        f"it is {got[row, column]:.6g}.{reason}\nsettings {dict(case.settings)}\n"
        + "".join(f"{field}\n{array}\n" for field, array in case.arrays.items())
        + f"expected\n{case.expected.round(6)}\ngot\n{got.round(6)}"
    )


def _place(case: GoldenCase) -> str:
    return f"in the case {case.name!r}"


def _array(field: str, value: Sequence[Any]) -> Array:
    if field == "anchors":
        return np.array(value, dtype=object)
    if field == "mask":
        return np.array(value, dtype=np.bool_)
    return np.array(value, dtype=np.int64 if field in _INTEGERS else np.float64)


def _setting(name: str, value: Any) -> Any:
    return _array(name, value) if isinstance(value, list) else value
