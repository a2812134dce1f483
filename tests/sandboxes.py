"""The three sandboxes, for the tests of what they share."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from toolenv.errors import SandboxError
from toolenv.sandbox import ExecResult, Limits, Sandbox
from toolenv.sandbox.bwrap import BwrapSandbox
from toolenv.sandbox.client import WorkerSandbox
from toolenv.sandbox.docker import DEFAULT_IMAGE, DockerSandbox, docker_problem
from toolenv.sandbox.process import ProcessSandbox

SANDBOXES = {"process": ProcessSandbox, "bwrap": BwrapSandbox, "docker": DockerSandbox}
NO_DOCKER = docker_problem(DEFAULT_IMAGE)
KINDS = [kind for kind in SANDBOXES if kind != "docker" or not NO_DOCKER]


@contextmanager
def started(kind: str) -> Iterator[WorkerSandbox]:
    """A sandbox of this kind; skips the test where it does not work."""
    sandbox: WorkerSandbox = SANDBOXES[kind](Limits(max_processes=24))
    try:
        sandbox.start()
    except SandboxError as error:
        if "bwrap is not installed" in str(error) or "it said: bwrap:" in str(error):
            pytest.skip(f"{kind} does not work here: {error}")
        raise
    yield sandbox
    sandbox.close()


def run(sandbox: Sandbox, code: str, timeout_s: float = 5.0, max_output_bytes: int = 64_000) -> ExecResult:
    return sandbox.exec(code, timeout_s=timeout_s, max_output_bytes=max_output_bytes)


@contextmanager
def ctrl_c(when: Callable[[], object] = lambda: True) -> Iterator[None]:
    """Press Ctrl-C inside, as soon as it is time, and see that it comes through.

    Python misses one that comes just before it begins to wait, until what it waits for; so it is pressed again.
    """
    over = threading.Event()

    def press() -> None:
        while not over.is_set() and not when():
            time.sleep(0.01)
        while not over.wait(0.3):
            os.kill(os.getpid(), signal.SIGINT)
            over.wait(2.0)

    thread = threading.Thread(target=press)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        over.set()
        thread.join()


def is_shared(sandbox: WorkerSandbox) -> bool:
    """Whether programs share users, processes and network with the host."""
    return isinstance(sandbox, ProcessSandbox)
