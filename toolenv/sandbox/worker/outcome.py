"""What is said of a call that ended."""

from __future__ import annotations

import os
import signal

from .memory import OutOfMemory
from .messages import Answer
from .streams import FLOOD_BYTES


class Judge:
    """Says how calls ended."""

    def __init__(self) -> None:
        self._out_of_memory = OutOfMemory()

    def outcome(self, end: str, status: int, timeout_s: float) -> Answer:
        """Status and exit code of a call, and why it was ended.

        Args:
            end: ``"exit"``, ``"timeout"``, ``"flood"`` or ``"lost"``.
            status: Wait status of the main process, where it ended by itself.
            timeout_s: The limit that is told, in seconds.
        """
        if end == "timeout":
            return ended("timeout", None, f"timed out after {timeout_s:g} s")
        if end == "flood":
            return ended("killed", None, f"killed: wrote more than {FLOOD_BYTES >> 20} MB of output")
        if end == "lost":
            return ended("killed", None, "killed: out of memory" if self._out_of_memory.again() else "killed")
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGXCPU:
            return ended("timeout", code, f"timed out after {timeout_s:g} s: used too much CPU time")
        if code < 0:
            return ended("killed", code, self._signal(-code))
        return ended("error" if code else "ok", code, None)

    def _signal(self, number: int) -> str:
        name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
        if number == signal.SIGKILL:
            return "killed: out of memory" if self._out_of_memory.again() else f"killed by {name}"
        return f"killed by {name}"


def ended(status: str, code: int | None, said: str | None) -> Answer:
    """The fields of an answer that say how a call ended."""
    return {"status": status, "exit_code": code, "said": said, "note": None}
