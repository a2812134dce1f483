"""The best one-to-one assignment of rows to columns."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf


def best_assignment(weights: Sequence[Sequence[float]]) -> float:
    """Highest sum of weights that pairs each row with at most one column, and each column with at most one row.

    Args:
        weights: Weight of each pair, ``(rows, columns)``, none below 0.

    Source:
        The Hungarian algorithm with potentials, O(rows^2 columns).

    Example:
        >>> best_assignment([[3.0, 2.0], [3.0, 0.0]])
        5.0
    """
    if not weights or not weights[0]:
        return 0.0
    if len(weights) > len(weights[0]):
        weights = list(zip(*weights, strict=True))
    rows, columns = len(weights), len(weights[0])
    row_price, column_price = [0.0] * (rows + 1), [0.0] * (columns + 1)
    row_of = [0] * (columns + 1)  # rows and columns count from 1; 0 is no row, and the column where a search starts
    for row in range(1, rows + 1):
        row_of[0] = row
        column = 0
        slack, came_from, visited = [inf] * (columns + 1), [0] * (columns + 1), [False] * (columns + 1)
        while row_of[column]:
            visited[column] = True
            at = row_of[column]
            step, nearest = inf, 0
            for j in range(1, columns + 1):
                if visited[j]:
                    continue
                cost = -weights[at - 1][j - 1] - row_price[at] - column_price[j]
                if cost < slack[j]:
                    slack[j], came_from[j] = cost, column
                if slack[j] < step:
                    step, nearest = slack[j], j
            for j in range(columns + 1):
                if visited[j]:
                    row_price[row_of[j]] += step
                    column_price[j] -= step
                else:
                    slack[j] -= step
            column = nearest
        while column:
            row_of[column] = row_of[came_from[column]]
            column = came_from[column]
    return sum(weights[row_of[j] - 1][j - 1] for j in range(1, columns + 1) if row_of[j])
