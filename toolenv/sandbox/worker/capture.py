"""Head and tail of a stream of bytes that is too long to keep."""

from __future__ import annotations


class Capture:
    """Head and tail of a stream, at most ``limit`` bytes together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.total = limit, 0
        self.head, self.tail = bytearray(), bytearray()

    def feed(self, data: bytes) -> None:
        """Take more bytes."""
        self.total += len(data)
        room = self.limit // 2 - len(self.head)
        self.head += data[: max(room, 0)]
        self.tail += data[max(room, 0) :]
        excess = len(self.tail) - (self.limit - self.limit // 2)
        if excess > 0:
            del self.tail[:excess]

    def text(self) -> str:
        """What was kept, in whole characters, with a mark where something was left out."""
        if self.total == len(self.head) + len(self.tail):
            return bytes(self.head + self.tail).decode("utf-8", "replace")
        head, tail = _without_cut_end(bytes(self.head)), _without_cut_start(bytes(self.tail))
        mark = f"\n... [{self.total - len(head) - len(tail)} bytes left out] ...\n"
        return head.decode("utf-8", "replace") + mark + tail.decode("utf-8", "replace")


def clip(text: str, limit: int) -> str:
    """Head and tail of a text whose UTF-8 is longer than ``limit`` bytes."""
    capture = Capture(limit)
    capture.feed(text.encode("utf-8", "backslashreplace"))
    return capture.text()


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
