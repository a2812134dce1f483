"""Sandboxes that run nothing, for the tests of who uses them; and how to wait, and to fork."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from toolenv.errors import SandboxError
from toolenv.sandbox import ExecResult

LONG_S = 30.0  # what is waited for comes sooner, or the test fails


class FakeSandbox:
    """Says its code; what its code does to it is the test's matter."""

    def __init__(self, act: Callable[[FakeSandbox, str], None] = lambda sandbox, code: None) -> None:
        self.act = act
        self.ready, self.closed = True, False
        self.codes: list[str] = []

    def exec(self, code: str, *, timeout_s: float, max_output_bytes: int = 0, **stdin: str) -> ExecResult:
        assert not self.closed
        self.codes.append(code)
        self.act(self, code)
        return ExecResult(code + stdin.get("stdin", ""), "", "ok", 0, 0.0)

    def start(self) -> None:
        self.ready = True

    def close(self) -> None:
        self.closed = True


class Fakes:
    """A factory that keeps what it made."""

    def __init__(self, make: Callable[[], FakeSandbox] = FakeSandbox) -> None:
        self.make = make
        self.made: list[FakeSandbox] = []

    def __call__(self) -> FakeSandbox:
        self.made.append(self.make())
        return self.made[-1]


def losing(*bad: str) -> Callable[[], FakeSandbox]:
    """Makes sandboxes that some programs bring down."""

    def act(sandbox: FakeSandbox, code: str) -> None:
        if code in bad:
            raise SandboxError(f"lost by {code!r}")

    return lambda: FakeSandbox(act)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.005)


def told(results: list[ExecResult | SandboxError]) -> list[str]:
    return [str(r) if isinstance(r, SandboxError) else r.error or r.stdout for r in results]


def in_a_fork(check: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        right = False
        try:
            right = check()
        finally:
            os._exit(0 if right else 1)
    return os.waitpid(pid, 0)[1] == 0
