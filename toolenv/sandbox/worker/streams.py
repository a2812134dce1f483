"""The pipes of a call: what the program reads, prints and reports."""

from __future__ import annotations

import os
from typing import NamedTuple

from .capture import Capture
from .messages import Request

FLOOD_BYTES = 8 << 20
CHUNK_BYTES = 1 << 16


class Ends(NamedTuple):
    """The program's ends of the pipes."""

    stdin: int
    stdout: int
    stderr: int
    report: int


class Streams:
    """The worker's side of the pipes of one call.

    Attributes:
        ends: The program's side.
        captures: What came out of each descriptor.
        feeds: What is still to be written to each descriptor.
    """

    def __init__(self, request: Request) -> None:
        limit = request["max_output_bytes"]
        self._open: set[int] = set()
        self.feeds: dict[int, bytes] = {}
        stdin = self.source(request["stdin"].encode("utf-8", "surrogatepass"))
        out, err, report = os.pipe(), os.pipe(), os.pipe()
        self.ends = Ends(stdin, out[1], err[1], report[1])
        self.stdout, self.stderr, self.report = Capture(limit), Capture(limit), Capture(limit + 1)
        self.captures = {out[0]: self.stdout, err[0]: self.stderr, report[0]: self.report}
        for fd in self.captures:
            self._own(fd)

    def source(self, data: bytes) -> int:
        """A descriptor that a program reads ``data`` from."""
        if not data:
            return os.open(os.devnull, os.O_RDONLY)
        read, write = os.pipe()
        self._own(write)
        self.feeds[write] = data
        self.feed(write)  # most of the time it all fits
        return read

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
                data = os.read(fd, CHUNK_BYTES)
            except BlockingIOError:
                return False
            if not data:
                return True
            capture.feed(data)
        return False

    def feed(self, fd: int) -> bool:
        """Write what fits; whether all is written, or nobody reads any more."""
        left = self.feeds[fd]
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:
            left = b""
        self.feeds[fd] = left
        if not left:
            self._close(fd)
            del self.feeds[fd]
        return not left

    def finish(self) -> None:
        """Read what is left, and close."""
        for fd in self.captures:
            self.drain(fd)
        for fd in list(self._open):
            self._close(fd)

    def _own(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._open.add(fd)

    def _close(self, fd: int) -> None:
        os.close(fd)
        self._open.discard(fd)
