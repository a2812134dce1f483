"""Ctrl-C in a training run: at once where that is safe, after the update where it is not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """While it is open, Ctrl-C raises ``KeyboardInterrupt``; but inside ``deferred`` it waits for that block's end.

    A second Ctrl-C inside ``deferred`` does not wait; then ``torn`` is true. Outside of the main thread, which alone
    gets signals, it does nothing.

    Attributes:
        torn: Whether a deferred block was left in its middle.

    Example:
        >>> with Interrupt() as interrupt, interrupt.deferred():
        ...     pass  # what must not be cut in half
        >>> interrupt.torn
        False
    """

    def __init__(self) -> None:
        self.torn = False
        self._deferring = False
        self._asked = False
        self._previous: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Finish this block before Ctrl-C is heard.

        Raises:
            KeyboardInterrupt: At the end, where Ctrl-C was pressed inside.
        """
        self._deferring = True
        try:
            yield
        except BaseException:
            self.torn = True
            raise
        finally:
            self._deferring = False
        if self._asked:
            raise KeyboardInterrupt

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._deferring and not self._asked:
            self._asked = True
            return
        raise KeyboardInterrupt
