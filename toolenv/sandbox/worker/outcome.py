"""What is said of a call that ended."""

from __future__ import annotations

import os
import signal

from .capture import Capture
from .messages import Answer
from .streams import FLOOD_BYTES


def outcome(end: str, status: int, report: Capture, timeout_s: float) -> Answer:
    """Status, exit code, value and error of a call.

    Args:
        end: ``"exit"``, ``"timeout"`` or ``"flood"``.
        status: Wait status of the main process, where it ended by itself.
        report: What the main process said of its end; the program can have written it, so it is only shown.
        timeout_s: The limit that is told, in seconds.
    """
    if end == "timeout":
        return ended("timeout", None, f"timed out after {timeout_s:g} s")
    if end == "flood":
        return ended("killed", None, f"killed: wrote more than {FLOOD_BYTES >> 20} MB of output")
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return ended("timeout", code, "timed out: used too much CPU time")
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return ended("killed", code, f"killed by {name}{hint}")
    text = report.text()
    error = text[1:] if text.startswith("e") else None
    value = text[1:] if text.startswith("v") else None
    if code and error is None:
        error = f"exited with code {code}"
    return ended("error" if code else "ok", code, error, value)


def ended(status: str, code: int | None, error: str | None, value: str | None = None) -> Answer:
    """The fields of an answer that say how a call ended."""
    return {"status": status, "exit_code": code, "value": value, "error": error}
