"""Who is to blame for a lost worker, the machine or the program, and when a program is tried again."""

from __future__ import annotations

from collections.abc import Callable

from toolenv.errors import SandboxError, SandboxUnavailable
from toolenv.sandbox.base import ExecResult, Sandbox

ATTEMPTS = 3
TRIAL_S = 10.0
AT_FAULT = "killed: the program brought down the sandbox that it ran in, twice"


def make_fit(worker: Sandbox, *, try_out: bool) -> None:
    """Start a worker that is not up.

    Args:
        worker: One that has the property ``ready`` also has a method ``start``.
        try_out: Whether to let it run an empty program.

    Raises:
        SandboxUnavailable: It does not start, or the empty program does not run well.
    """
    try:
        if not getattr(worker, "ready", True):
            worker.start()  # type: ignore[attr-defined]
        if try_out:
            result = worker.exec("", timeout_s=TRIAL_S)
            if result.status != "ok":
                raise SandboxError(f"an empty program ended with status {result.status!r}")
    except SandboxError as error:
        raise SandboxUnavailable(str(error)) from error


def patiently(attempt: Callable[[bool], ExecResult]) -> ExecResult | SandboxError:
    """Run a program, on another worker where one was lost.

    A program that loses two workers, of which the second ran an empty program well just before, is itself to blame. It
    has then been killed, as the model is told; else it could end any episode that it does not like.

    Args:
        attempt: Runs the program on a worker. Its argument says whether to try the worker out first, see ``make_fit``.

    Returns:
        The result; an error where the machine is to blame.

    Example:
        >>> def attempt(try_out):
        ...     raise SandboxError("the worker is gone")
        >>> patiently(attempt).status
        'killed'
    """
    losses = 0
    error = SandboxError("no attempt was made")
    for _ in range(ATTEMPTS):
        try:
            return attempt(losses > 0)
        except SandboxUnavailable as problem:
            error = problem
        except SandboxError as problem:
            error, losses = problem, losses + 1
            if losses == 2:
                return ExecResult("", "", "killed", None, 0.0, error=AT_FAULT)
    return error
