"""Results in the words of SandboxFusion's interface, ``POST /run_code``, and back.

An answer has a ``status``: ``Success``, ``Failed`` (the program) or ``SandboxError`` (the server); a ``message`` with
the latter; and a ``run_result`` whose ``status`` is ``Finished``, ``TimeLimitExceeded`` or ``Error``, with
``return_code``, ``stdout``, ``stderr`` and ``execution_time`` in seconds.

Source:
    bytedance/SandboxFusion, ``sandbox/server/sandbox_api.py`` and ``sandbox/runners/types.py`` (Apache-2.0).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Any

from toolenv.errors import SandboxError
from toolenv.sandbox.base import ExecResult, Status
from toolenv.sandbox.shortening import shorten

# A shell reports a signal as a number above 128. Programs that end by these did not choose to.
DEADLY = tuple(
    int(number)
    for number in (signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV)
)
TRACEBACK = re.compile(r"^(Traceback \(most recent call last\):$|  File \")", re.MULTILINE)
SCRIPT = re.compile(r'File "([^"\n]+)", line')


def request_of(code: str, stdin: str, timeout_s: float, memory_bytes: int | None) -> dict[str, Any]:
    """The body of a request that runs a Python program."""
    return {
        "code": code,
        "language": "python",
        "stdin": stdin or None,
        "run_timeout": timeout_s,
        "memory_limit_MB": -1 if memory_bytes is None else max(memory_bytes >> 20, 1),
        "files": {},
        "fetch_files": [],
    }


def answer_of(result: ExecResult) -> dict[str, Any]:
    """The answer that tells a result. A script shows no value, so there is none."""
    code = result.exit_code
    if result.status == "killed" and code is None:
        code = -int(signal.SIGKILL)
    run = {
        "status": "TimeLimitExceeded" if result.status == "timeout" else "Finished",
        "execution_time": result.wall_s,
        "return_code": None if result.status == "timeout" else code,
        "stdout": result.stdout,
        "stderr": result.stderr + _last_words(result),
    }
    return _answer("Success" if result.status == "ok" else "Failed", run=run)


def failure_of(message: str) -> dict[str, Any]:
    """The answer that tells of a failure of the server's own."""
    return _answer("SandboxError", message=message)


def result_of(answer: Any, timeout_s: float, max_output_bytes: int) -> ExecResult:
    """The result that an answer tells.

    Args:
        answer: The answer's JSON.
        timeout_s: What the program's limit was.
        max_output_bytes: Most that is kept of each stream.

    Raises:
        SandboxError: It tells of a failure of the server's own, or it is no such answer.

    Example:
        >>> result_of(answer_of(ExecResult("hi", "", "ok", 0, 0.1)), 5.0, 1000).stdout
        'hi'
    """
    run = answer.get("run_result") if isinstance(answer, Mapping) else None
    if not isinstance(run, Mapping) or answer.get("status") not in ("Success", "Failed"):
        said = answer.get("message") if isinstance(answer, Mapping) else answer
        raise SandboxError(f"the sandbox server failed; it says: {str(said)[:500]!r}")
    stdout, stderr = (str(run.get(stream) or "") for stream in ("stdout", "stderr"))
    wall_s = run.get("execution_time") or 0.0
    if not isinstance(wall_s, int | float):
        raise SandboxError(f"the sandbox server's execution_time is no number of seconds: {str(wall_s)[:500]!r}")
    code = run.get("return_code")
    shown = shorten(stdout, max_output_bytes)
    if run.get("status") == "TimeLimitExceeded":
        return ExecResult(
            shown, shorten(stderr, max_output_bytes), "timeout", None, wall_s, error=f"timed out after {timeout_s:g} s"
        )
    if run.get("status") != "Finished" or not isinstance(code, int):
        raise SandboxError(f"the sandbox server could not run the program; it says: {stderr[:500]!r}")
    error = None
    if code - 128 in DEADLY:
        code = 128 - code
    if code < 0:
        error = f"killed by {_signal_name(-code)}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
    elif code > 0:
        stderr, error = _split_error(stderr, code)
        error = shorten(error, max_output_bytes)
    status: Status = "ok" if code == 0 else "error" if code > 0 else "killed"
    return ExecResult(shown, shorten(stderr, max_output_bytes), status, code, wall_s, error=error)


def _answer(status: str, run: dict[str, Any] | None = None, message: str = "") -> dict[str, Any]:
    return {
        "status": status,
        "message": message,
        "compile_result": None,
        "run_result": run,
        "executor_pod_name": None,
        "files": {},
    }


def _last_words(result: ExecResult) -> str:
    """What an interpreter writes to standard error as a script ends badly."""
    if result.error is None or result.status == "timeout":
        return ""
    said = result.error.removeprefix("SystemExit: ") if result.status == "error" else result.error
    return "" if said == str(result.exit_code) else f"{said}\n"


def _split_error(stderr: str, code: int) -> tuple[str, str]:
    """Standard error without the traceback, and the traceback, in which the script has the name it has elsewhere."""
    start = TRACEBACK.search(stderr)
    if start is None:
        return "", stderr.strip() or f"exited with code {code}"
    error = stderr[start.start() :].strip("\n")
    script = SCRIPT.search(error)
    return stderr[: start.start()], error if script is None else error.replace(script[1], "<code>")


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
