"""See a call to its end."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable

from .streams import Streams

LONG_S = 3600.0  # the kernel counts milliseconds in 32 bits

End = tuple[str, int]


def watch(
    streams: Streams, deadline: float, requests: int, news: Iterable[int], ended: Callable[[], End | None]
) -> End:
    """Feed and read a program until it ends.

    Args:
        streams: Its pipes.
        deadline: When it is ended, by ``time.monotonic``.
        requests: Where requests come from: its end, too, is the end.
        news: Descriptors that can be read when there may be an end.
        ended: Looks whether it has ended; asked after each event.

    Returns:
        Why it ended, and its wait status.
    """
    poll = select.poll()
    for fd in (*streams.captures, *news):
        poll.register(fd, select.POLLIN)
    for fd in streams.feeds:
        poll.register(fd, select.POLLOUT)
    poll.register(requests, 0)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return "timeout", 0
        for fd, _ in poll.poll(min(left, LONG_S) * 1000 + 1):
            if fd == requests:
                return "orphaned", 0
            if fd in streams.feeds:
                if streams.feed(fd):
                    poll.unregister(fd)
            elif fd in streams.captures and streams.drain(fd):
                poll.unregister(fd)
        if streams.flooded:
            return "flood", 0
        end = ended()
        if end is not None:
            return end


def drain(fd: int) -> None:
    """Read what nobody wants."""
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass
