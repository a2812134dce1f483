"""A generated problem."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """A problem with its exact answer.

    Attributes:
        prompt: What is asked.
        answer: The exact answer.
        solution: A short Python program that prints the answer.
    """

    prompt: str
    answer: str
    solution: str
