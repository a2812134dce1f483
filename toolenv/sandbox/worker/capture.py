"""Head and tail of a stream of bytes that is too long to keep."""

from __future__ import annotations


class Capture:
    """Keeps the head and the tail of a stream.

    Args:
        memory: Where they are kept: the first half holds the head, the other one the tail, as a ring.
    """

    def __init__(self, memory: memoryview) -> None:
        self.total = 0
        self.head_bytes = len(memory) // 2
        self._memory, self._head, self._ring = memory, memory[: self.head_bytes], memory[self.head_bytes :]

    def feed(self, data: memoryview) -> None:
        """Take more bytes."""
        at = min(self.total, len(self._head))
        room = min(len(self._head) - at, len(data))
        self._head[at : at + room] = data[:room]
        self.total += len(data)
        rest = data[room:][-len(self._ring) :]
        # The last byte of the stream goes before this place, so the first one of ``rest`` to:
        start = (self.total - len(self._head) - len(rest)) % len(self._ring)
        first = min(len(rest), len(self._ring) - start)
        self._ring[start : start + first] = rest[:first]
        self._ring[: len(rest) - first] = rest[first:]

    def parts(self) -> list[memoryview]:
        """What was kept, in order."""
        if self.total <= len(self._memory):
            return [self._memory[: self.total]]
        start = (self.total - len(self._head)) % len(self._ring)
        return [self._head, self._ring[start:], self._ring[:start]]

    def close(self) -> None:
        """Let the memory go."""
        for view in (self._head, self._ring, self._memory):
            view.release()
