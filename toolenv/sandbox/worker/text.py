"""Head and tail of what is too long to be shown, as text.

Half a number reads like another number. So a cut moves to the end of a line that is near, or else to a space.
"""

from __future__ import annotations

import re

LEFT_OUT = re.compile(rb"\n\.\.\. \[(\d+) bytes left out\] \.\.\.\n")
# Where to look for a place to cut, and how far: nobody misses so much, and it is never more than half of what is kept.
PLACES = ((b"\n", 200), (b" ", 40))


def join(kept: bytes, head_bytes: int, total: int) -> str:
    """The text of a stream, with a mark where something was left out.

    Args:
        kept: Its head and, after that, its tail.
        head_bytes: Length of the head, where something was left out.
        total: Length of the whole.
    """
    if total == len(kept):
        return kept.decode("utf-8", "replace")
    head, tail = whole_head(kept[:head_bytes]), whole_tail(kept[head_bytes:])
    return head.decode("utf-8", "replace") + mark(total - len(head) - len(tail)) + tail.decode("utf-8", "replace")


def clip(text: str, limit: int, *, last_line: bool = False) -> str:
    """Head and tail of a text whose UTF-8 is longer than ``limit`` bytes.

    Args:
        text: The text.
        limit: Most bytes that are kept of it.
        last_line: Whether its last line, which says what an error is, goes before all others.
    """
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data.decode()
    start, head_end, tail_start = cut(data, limit, last_line=last_line)
    head, tail = data[start:head_end], data[tail_start:]
    return head.decode() + mark(len(data) - len(head) - len(tail)) + tail.decode()


def mark(count: int) -> str:
    """What stands where something was left out."""
    return f"\n... [{count} bytes left out] ...\n"


def cut(data: bytes, limit: int, *, last_line: bool = False) -> tuple[int, int, int]:
    """Where to cut a text that is longer than ``limit``: where its head starts and ends, and where its tail starts.

    Args:
        data: The text.
        limit: Most bytes that are kept of it.
        last_line: Whether its last line goes before all others. Where that is too long, it alone has a head.
    """
    start, head, tail = 0, (limit + 1) // 2, limit // 2
    if last_line:
        size = len(data) - _last_line(data)
        if size > limit:
            start = len(data) - size
        elif size > tail:
            head, tail = limit - size, size
    head_end, tail_start = start + head, len(data) - tail
    if data[head_end : head_end + 1] != b"\n":
        head_end = start + len(whole_head(data[start:head_end]))
    if data[tail_start - 1 : tail_start] != b"\n":
        tail_start = len(data) - len(whole_tail(data[tail_start:]))
    return start, head_end, tail_start


def whole_head(head: bytes) -> bytes:
    """A head without what was cut in two at its end."""
    head = _without_cut_end(head)
    for place, near in PLACES:
        at = head.rfind(place, len(head) - min(near, len(head) // 2))
        if at >= 0:
            return head[:at]
    return head


def whole_tail(tail: bytes) -> bytes:
    """A tail without what was cut in two at its start."""
    tail = _without_cut_start(tail)
    for place, near in PLACES:
        at = tail.find(place, 0, min(near, len(tail) // 2))
        if at >= 0:
            return tail[at + 1 :]
    return tail


def _last_line(data: bytes) -> int:
    """Where the last line starts; something may have been left out of it before."""
    start = data.rfind(b"\n") + 1
    left_out = [found.span() for found in LEFT_OUT.finditer(data)]
    while left_out and left_out[-1][1] == start:
        start = data.rfind(b"\n", 0, left_out.pop()[0]) + 1
    return start


def _without_cut_end(data: bytes) -> bytes:
    """Drop the first bytes of a character whose last ones are missing."""
    for length in range(1, min(4, len(data) + 1)):
        byte = data[-length]
        if byte >= 0xC0:  # it starts a character of 2, 3 or 4 bytes
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[:-length] if length < needed else data
        if byte < 0x80:
            break
    return data


def _without_cut_start(data: bytes) -> bytes:
    """Drop the last bytes of a character whose first ones are missing."""
    for length in range(min(4, len(data))):
        if data[length] & 0xC0 != 0x80:
            return data[length:]
    return b"" if len(data) < 4 else data  # four bytes that start nothing are no text
