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
    value = report[1:] if status == "ok" and report.startswith("v") else None
    error = answer["said"]
    if status == "error":
        error = report[1:] if report.startswith("e") else f"exited with code {exit_code}"
    if answer["note"]:
        error = f"{error or 'killed'}; {answer['note']}"
    return ExecResult(stdout, stderr, status, exit_code, answer["wall_s"], value, error)
