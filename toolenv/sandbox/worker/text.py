"""Head and tail of what is too long to be shown, as text."""

from __future__ import annotations


def join(kept: bytes, head_bytes: int, total: int) -> str:
    """The text of a stream, with a mark where something was left out.

    Args:
        kept: Its head and, after that, its tail.
        head_bytes: Length of the head, where something was left out.
        total: Length of the whole.
    """
    if total == len(kept):
        return kept.decode("utf-8", "replace")
    head, tail = _without_cut_end(kept[:head_bytes]), _without_cut_start(kept[head_bytes:])
    mark = f"\n... [{total - len(head) - len(tail)} bytes left out] ...\n"
    return head.decode("utf-8", "replace") + mark + tail.decode("utf-8", "replace")


def clip(text: str, limit: int) -> str:
    """Head and tail of a text whose UTF-8 is longer than ``limit`` bytes."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data.decode()
    head = limit // 2
    return join(data[:head] + data[len(data) - limit + head :], head, len(data))


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
