"""Texts that are too long: their head and their tail."""

from __future__ import annotations

import re

# As the worker marks what it leaves out, too.
LEFT_OUT = re.compile(rb"\n\.\.\. \[(\d+) bytes left out\] \.\.\.\n")


def shorten(text: str, limit: int) -> str:
    r"""The head and the tail of a text that has more than ``limit`` bytes of UTF-8; what was left out before, counted.

    Example:
        >>> shorten("abcdefgh", 4)
        'ab\n... [4 bytes left out] ...\ngh'
    """
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= limit:
        return text
    start, end = (limit + 1) // 2, len(data) - limit // 2
    while start and _splits(data, start):
        start -= 1
    while end < len(data) and _splits(data, end):
        end += 1
    head, middle, tail = data[:start], data[start:end], data[end:]
    marks = list(LEFT_OUT.finditer(middle))
    count = len(middle) + sum(int(mark[1]) - len(mark[0]) for mark in marks)
    decoded = [part.decode("utf-8", "surrogatepass") for part in (head, tail)]
    return f"{decoded[0]}\n... [{count} bytes left out] ...\n{decoded[1]}"


def _splits(data: bytes, position: int) -> bool:
    """Whether a cut there would go through a character."""
    return data[position] & 0xC0 == 0x80
