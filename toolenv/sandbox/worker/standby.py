"""The next program's process, forked ahead of it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

from .child import run_child
from .handing import hand_over
from .kill import send
from .limits import cpu_seconds
from .messages import Request, Settings
from .pages import Ranges
from .streams import Ends


class Standby:
    """A child that has set itself up, and waits for its program.

    It is forked when nothing is left of the program before, neither process nor file nor memory, and takes its time
    while nobody waits for it.

    Args:
        settings: Those of the worker.
        hot: Where programs are likely to write.
        fork: Makes a child of this process.
    """

    def __init__(self, settings: Settings, hot: Ranges, fork: Callable[[], int]) -> None:
        self.settings, self.hot, self.fork = settings, hot, fork
        self._pid = 0
        self._channel: socket.socket | None = None

    def prepare(self) -> socket.socket:
        """Fork it, where there is none; where its program is handed to it."""
        if self._channel is None:
            mine, theirs = socket.socketpair()
            self._pid = self.fork()
            if self._pid == 0:
                run_child(theirs.fileno(), self.settings, self.hot)
            theirs.close()
            self._channel = mine
        return self._channel

    def start(self, request: Request, ends: Ends) -> int:
        """Start a program; the id of its process.

        Raises:
            OSError: It ends before it gets its program, whenever it is forked.
        """
        cpu_s = cpu_seconds(request["timeout_s"])
        try:
            hand_over(self.prepare(), request, ends, cpu_s)
        except OSError:  # somebody has ended it meanwhile
            self.dismiss()
            hand_over(self.prepare(), request, ends, cpu_s)
        self._forget()
        return self._pid

    def dismiss(self) -> None:
        """End it, where there is one."""
        if self._channel is not None:
            self._forget()
            send(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def _forget(self) -> None:
        assert self._channel is not None
        self._channel.close()
        self._channel = None
