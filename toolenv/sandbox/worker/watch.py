"""See a call to its end."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable

from .streams import Streams

LONG_S = 3600.0  # the kernel counts milliseconds in 32 bits
GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL

End = tuple[str, int]


def watch(streams: Streams, deadline: float, host: int, news: Iterable[int], ended: Callable[[], End | None]) -> End:
    """Feed and read a program until it ends.

    Args:
        streams: Its pipes.
        deadline: When it is ended, by ``time.monotonic``.
        host: Where requests come from: the host's end is the worker's.
        news: Descriptors that can be read when there may be an end.
        ended: Looks whether it has ended; asked after each event.

    Returns:
        Why it ended, and its wait status.

    Raises:
        EOFError: The host is gone.
    """
    poll = select.poll()
    for fd in (*streams.captures, *news):
        poll.register(fd, select.POLLIN)
    poll.register(host, 0)
    feed = streams.feed
    feed.step()
    waits_for = None
    while True:
        if feed.waits_for != waits_for:
            if waits_for is not None:
                _unwatch(poll, waits_for[0], host)
            waits_for = feed.waits_for
            if waits_for is not None:
                poll.register(*waits_for)
        left = deadline - time.monotonic()
        if left <= 0:
            return "timeout", 0
        for fd, event in poll.poll(min(left, LONG_S) * 1000 + 1):
            if fd == host and event & GONE:
                raise EOFError
            if waits_for is not None and fd == waits_for[0]:
                feed.step()
            elif fd in streams.captures and streams.drain(fd):
                poll.unregister(fd)
        if streams.flooded:
            return "flood", 0
        end = ended()
        if end is not None:
            return end


def _unwatch(poll: select.poll, fd: int, host: int) -> None:
    if fd == host:
        poll.register(host, 0)  # its end is still news
    else:
        poll.unregister(fd)


def drain(fd: int) -> None:
    """Read what nobody wants."""
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass
