"""A line that says how far a long job is, and when it will be done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

LIVE_EVERY_S = 0.2
"""Between two lines on a terminal, where a line replaces the one before."""
LOGGED_EVERY_S = 30.0
"""Between two lines elsewhere."""


class Progress:
    r"""Says on stderr how much of a job is done; on a terminal in one line, elsewhere in a line twice a minute.

    Args:
        label: What is being done.
        total: How much there is, in any unit; 0 where that is not known.
        stream: Where to write; ``None``: stderr.
        clock: Seconds that only grow.

    Example:
        >>> import io
        >>> seconds = iter([0.0, 60.0])
        >>> progress = Progress("cutting", 400, stream=io.StringIO(), clock=lambda: next(seconds))
        >>> progress.show(100, "7 passages")
        >>> progress.stream.getvalue()
        'cutting: 25 %, 7 passages, 3:00 left\n'
    """

    def __init__(
        self,
        label: str,
        total: float,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.total = label, total
        self.stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._live = self.stream.isatty()
        self._started = self._last = clock()
        self._done_at_start = 0.0

    def start_at(self, done: float) -> None:
        """Say that so much was done before, and that the work begins now: it does not count for the speed."""
        self._done_at_start, self._started = done, self._clock()

    def show(self, done: float, note: str = "") -> None:
        """Write the line, unless the last one was just written."""
        now = self._clock()
        if now - self._last < (LIVE_EVERY_S if self._live else LOGGED_EVERY_S):
            return
        self._last = now
        self._write(self._line(done, note, now - self._started), end="" if self._live else "\n")

    def close(self, note: str) -> None:
        """Write the last line."""
        self._write(f"{self.label}: {note}", end="\n")

    def _line(self, done: float, note: str, elapsed_s: float) -> str:
        parts = []
        if self.total:
            parts.append(f"{min(100, int(100 * done / self.total))} %")
        if note:
            parts.append(note)
        gained = done - self._done_at_start
        if self.total and gained > 0:
            parts.append(f"{duration(elapsed_s * max(0.0, self.total - done) / gained)} left")
        return f"{self.label}: {', '.join(parts)}"

    def _write(self, line: str, end: str) -> None:
        before = "\r\x1b[K" if self._live else ""
        print(f"{before}{line}", end=end, file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """A time as hours, minutes and seconds.

    Example:
        >>> duration(59.6), duration(3723)
        ('1:00', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
