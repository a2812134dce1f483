"""The pipes of a call: what the program reads, prints and reports."""

from __future__ import annotations

import mmap
import os
from itertools import pairwise
from typing import NamedTuple

from .capture import Capture
from .feed import CHUNK_BYTES, Feed
from .messages import Request

FLOOD_BYTES = 8 << 20
REPORT_BYTES = 100  # what a report has beyond a value or an error: its letter, and a mark where something is left out


class Ends(NamedTuple):
    """The program's ends of the pipes."""

    stdin: int
    stdout: int
    stderr: int
    report: int


class Streams:
    """The worker's side of the pipes of one call.

    Args:
        request: The call.
        source: Where its program and its standard input come from.

    Attributes:
        ends: The program's side.
        feed: What the program reads.
        captures: What came out of each descriptor: standard output, standard error, the report.
    """

    def __init__(self, request: Request, source: int) -> None:
        self.feed = Feed(source, request["code_bytes"] + request["stdin_bytes"])
        out, err, report = os.pipe(), os.pipe(), os.pipe()
        self.ends = Ends(self.feed.program_end, out[1], err[1], report[1])
        limit = request["max_output_bytes"]
        # Memory that no program has seen, and that goes back to the kernel with all that was in it.
        size = CHUNK_BYTES + 3 * limit + REPORT_BYTES
        self._memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._memory)
        self._chunk = self._view[:CHUNK_BYTES]
        places = [CHUNK_BYTES + i * limit for i in range(3)] + [size]
        self.captures: dict[int, Capture] = {}
        for (fd, _), (start, end) in zip((out, err, report), pairwise(places), strict=True):
            os.set_blocking(fd, False)
            self.captures[fd] = Capture(self._view[start:end])

    def close_ends(self) -> None:
        """Close the program's side, which it has by now."""
        for fd in self.ends:
            os.close(fd)

    @property
    def flooded(self) -> bool:
        """Whether the program wrote more than anybody will read."""
        return sum(capture.total for capture in self.captures.values()) > FLOOD_BYTES

    def drain(self, fd: int) -> bool:
        """Read what is there, up to a flood; whether the stream is at its end."""
        capture = self.captures[fd]
        while capture.total <= FLOOD_BYTES:
            try:
                count = os.readv(fd, [self._chunk])
            except BlockingIOError:
                return False
            if not count:
                return True
            with self._chunk[:count] as data:
                capture.feed(data)
        return False

    def finish(self) -> None:
        """Read what is left, and close all but the captures.

        Raises:
            EOFError: The host is gone.
        """
        self.feed.finish()
        for fd in self.captures:
            self.drain(fd)
            os.close(fd)

    def forget(self) -> None:
        """Let go of what was captured."""
        for capture in self.captures.values():
            capture.close()
        self._chunk.release()
        self._view.release()
        self._memory.close()
