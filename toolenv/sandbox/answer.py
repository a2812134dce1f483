"""What the worker's answer says, as a result."""

from __future__ import annotations

from typing import Any

from toolenv.sandbox.base import ExecResult
from toolenv.sandbox.worker.text import join


def result_of(answer: dict[str, Any], data: bytes) -> ExecResult:
    """Put a result together.

    Args:
        answer: The line of the answer; see ``worker/messages.py``.
        data: The bytes that follow it.
    """
    texts = []
    for kept, head_bytes, total in answer["streams"]:
        texts.append(join(data[:kept], head_bytes, total))
        data = data[kept:]
    stdout, stderr, report = texts
    status, exit_code = answer["status"], answer["exit_code"]
    kind, told, late = report[:1], report[1:], ""
    if status == "error" and kind != "e":
        told, _, late = told.partition("\0e")
    error = answer["said"]
    if status == "timeout" and kind:
        error = f"{error} while waiting for its threads or exit handlers"
    if status == "error":
        error = told if kind == "e" else late or f"exited with code {exit_code}"
    elif status != "ok" and kind == "e":
        error = f"{told}\n{error}"
    if answer["note"]:
        error = f"{error or 'killed'}; {answer['note']}"
    return ExecResult(stdout, stderr, status, exit_code, answer["wall_s"], told if kind == "v" else None, error)
