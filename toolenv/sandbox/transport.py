"""The connection to a worker, and whose it is: what nobody holds is ended, and a fork leaves it to its parent."""

from __future__ import annotations

import atexit
import os
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol


class Transport(Protocol):
    """A started worker, seen as two streams of bytes."""

    def send(self, data: bytes, timeout_s: float) -> None:
        """Write all of ``data``; ``OSError`` where the worker is gone, or does not take it in time."""
        ...

    def receive(self, timeout_s: float) -> bytes | None:
        """Some bytes; empty where the worker is gone, ``None`` where none came in time."""
        ...

    def hang_up(self) -> None:
        """Close the requests, so that the worker ends itself and all that runs; a thread that receives sees the end.

        It waits for nothing, and takes no lock but the transport's own: garbage collection may call it anywhere.
        """
        ...

    def kill(self) -> None:
        """End the worker and all that it started; may be called twice."""
        ...

    def disconnect(self) -> None:
        """Close this process's ends alone: in a fork, whose parent goes on with the worker."""
        ...

    def diagnosis(self) -> str:
        """What a worker that is gone said last."""
        ...


_owners: weakref.WeakSet[Owner] = weakref.WeakSet()
_dropped: deque[Transport] = deque()


class Owner:
    """Sees to a worker that its holder does not end itself.

    Args:
        holder: What a worker is started for.
        leave: Called with the holder in a fork: it lets go of the parent's worker.
    """

    def __init__(self, holder: Any, leave: Callable[[Any], None]) -> None:
        self._holder = weakref.ref(holder)
        self._leave = leave
        self._finalizer: weakref.finalize[..., Any] | None = None
        self.transport: Transport | None = None
        _owners.add(self)

    def holds(self, transport: Transport | None) -> None:
        """Note which worker the holder has now."""
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None
        self.transport = transport
        holder = self._holder()
        if transport is not None and holder is not None:
            end_dropped()
            self._finalizer = weakref.finalize(holder, _drop, transport)
            self._finalizer.atexit = False

    def leave(self) -> None:
        """Let the holder begin anew."""
        holder = self._holder()
        if holder is not None:
            self._leave(holder)


def _drop(transport: Transport) -> None:
    """Have a worker end by itself: its holder was collected, maybe within a lock that a real end would wait for."""
    transport.hang_up()
    _dropped.append(transport)


def end_dropped() -> None:
    """Clear away what is left of workers whose holders were collected."""
    while _dropped:
        try:
            transport = _dropped.popleft()
        except IndexError:  # another thread was faster
            return
        transport.kill()


@atexit.register
def _end_all() -> None:
    end_dropped()
    for owner in list(_owners):
        if owner.transport is not None:
            owner.transport.kill()


def _leave_all() -> None:
    for transport in _dropped:
        transport.disconnect()
    _dropped.clear()
    for owner in list(_owners):
        owner.leave()


os.register_at_fork(after_in_child=_leave_all)
