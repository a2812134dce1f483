"""What the host sends to a program passes the worker unseen: it moves from pipe to pipe within the kernel.

So nothing of it stays in the worker's memory, which each program gets a copy of.
"""

from __future__ import annotations

import os
import select

CHUNK_BYTES = 1 << 16


class Feed:
    """Passes so many bytes on to a program.

    Args:
        source: Where they come from.
        count: How many there are.

    Attributes:
        program_end: Where the program reads them.
        waits_for: The descriptor whose event is to be followed by a ``step``, and the event; ``None``: all is done.
    """

    def __init__(self, source: int, count: int) -> None:
        self.source, self.left = source, count
        self.program_end, self._target = os.pipe()
        self._unwanted = False
        self.waits_for: tuple[int, int] | None = (source, select.POLLIN)

    def step(self) -> None:
        """Pass on what can be.

        Raises:
            EOFError: The host is gone.
        """
        try:
            while self.left:
                self._move(wait=False)
        except BlockingIOError:  # one side is empty, or the other one full: it is the one that was not waited for
            waited = self.waits_for and self.waits_for[0]
            self.waits_for = (self._target, select.POLLOUT) if waited == self.source else (self.source, select.POLLIN)
            return
        self.close()

    def finish(self) -> None:
        """Take what the program did not read out of the way.

        Raises:
            EOFError: The host is gone.
        """
        if self.left and not self._unwanted:
            self._drop()
        while self.left:
            self._move(wait=True)
        self.close()

    def close(self) -> None:
        """Tell the program that there is no more."""
        if self.waits_for is not None:
            os.close(self._target)
        self.waits_for = None

    def _move(self, *, wait: bool) -> None:
        try:
            moved = _splice(self.source, self._target, min(self.left, CHUNK_BYTES), wait)
        except BrokenPipeError:  # nobody reads any more
            self._drop()
            return
        if not moved:
            raise EOFError
        self.left -= moved

    def _drop(self) -> None:
        self._unwanted = True
        os.close(self._target)
        self._target = os.open(os.devnull, os.O_WRONLY)


def _splice(source: int, target: int, count: int, wait: bool) -> int:
    """Move some bytes from one pipe to another one."""
    if hasattr(os, "splice"):
        return os.splice(source, target, count, flags=0 if wait else os.SPLICE_F_NONBLOCK)
    # macOS has none; there, the bytes come by way of this process.
    if not wait and not all(select.select([source], [target], [], 0)[:2]):
        raise BlockingIOError
    return os.write(target, os.read(source, min(count, select.PIPE_BUF)))
