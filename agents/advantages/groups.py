"""Comparing values within a group: what two values of one group have in common is taken off."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from agents.advantages.base import Floats


def members(groups: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """Rows of each group.

    Example:
        >>> [rows.tolist() for rows in members(np.array([7, 3, 7]))]
        [[1], [0, 2]]
    """
    return [np.flatnonzero(groups == group) for group in np.unique(groups)]


def alone(groups: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which episodes are the only ones of their group, ``(B,)``: their turns must not be compared with one another.

    Example:
        >>> alone(np.array([7, 3, 7])).tolist()
        [False, True, False]
    """
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    only: NDArray[np.bool_] = size[group] == 1
    return only


def per_group(x: Floats, groups: NDArray[np.int64], function: Callable[[Floats], Floats]) -> Floats:
    """Apply a function to the rows of each group."""
    result = np.zeros_like(x)
    for rows in members(groups):
        result[rows] = function(x[rows])
    return result


def standardise(x: Floats, eps: float) -> Floats:
    """``(x - mean) / (unbiased std + eps)`` over what is not NaN; 0 at NaN, for a single value and for equal ones.

    Example:
        >>> standardise(np.array([3.0, 1.0, np.nan]), eps=0.0).round(4).tolist()
        [0.7071, -0.7071, 0.0]
    """
    centred = centre(x)
    return centred / (x[~np.isnan(x)].std(ddof=1) + eps) if centred.any() else centred


def standardise_columns(x: Floats, eps: float) -> Floats:
    """``standardise``, each column by itself."""
    return np.stack([standardise(column, eps) for column in x.T], axis=1)


def centre(x: Floats) -> Floats:
    """``x - mean`` over what is not NaN; exactly 0 at NaN, for a single value and for equal ones."""
    known = ~np.isnan(x)
    values = x[known]
    result = np.zeros_like(x)
    if values.size > 1 and values.max() != values.min():
        result[known] = values - values.mean()
    return result


def centre_columns(x: Floats) -> Floats:
    """``centre``, each column by itself.

    Example:
        >>> centre_columns(np.array([[3.0, 1.0], [1.0, np.nan]])).tolist()
        [[1.0, 0.0], [-1.0, 0.0]]
    """
    return np.stack([centre(column) for column in x.T], axis=1)


def leave_one_out(x: Floats) -> Floats:
    """Each row minus the mean of the others, column by column; 0 for a single row, and for a column of equal values.

    Example:
        >>> leave_one_out(np.array([1.0, 0.0, 0.0])).tolist()
        [1.0, -0.5, -0.5]
    """
    count = len(x)
    if count == 1:
        return np.zeros_like(x)
    spread = x.max(axis=0) != x.min(axis=0)
    return np.where(spread, x - (x.sum(axis=0) - x) / (count - 1), 0.0)
