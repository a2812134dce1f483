"""Texts that are too long: their head and their tail."""

from __future__ import annotations

from toolenv.sandbox.worker.text import LEFT_OUT, cut, mark


def shorten(text: str, limit: int, *, last_line: bool = False) -> str:
    r"""The head and the tail of a text that has more than ``limit`` bytes of UTF-8; what was left out before, counted.

    Cuts are at ends of lines, or else at spaces, where there are some near.

    Args:
        text: The text.
        limit: Most bytes that are kept of it.
        last_line: Whether its last line, which says what an error is, goes before all others.

    Example:
        >>> shorten("abcdefgh", 4)
        'ab\n... [4 bytes left out] ...\ngh'
    """
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= limit:
        return text
    start, head_end, tail_start = cut(data, limit, last_line=last_line)
    dropped = (data[:start], data[head_end:tail_start])
    marks = [found for part in dropped for found in LEFT_OUT.finditer(part)]
    count = sum(map(len, dropped)) + sum(int(found[1]) - len(found[0]) for found in marks)
    head, tail = (part.decode("utf-8", "surrogatepass") for part in (data[start:head_end], data[tail_start:]))
    return head + mark(count) + tail
