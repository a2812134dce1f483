"""The host's end of a worker: whose it is, what an interruption leaves, and what its limits are."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time

import numpy as np
import pytest

from tests.sandbox_fakes import LONG_S, in_a_fork, until
from tests.sandboxes import ctrl_c
from toolenv.errors import ConfigError, SandboxError
from toolenv.sandbox import client
from toolenv.sandbox.client import WorkerSandbox
from toolenv.sandbox.process import PipeTransport, ProcessSandbox

pytestmark = pytest.mark.core

READY = '{"ready": true, "cold": [], "unfiltered": null, "sessions": true}\n'


def plain() -> ProcessSandbox:
    return ProcessSandbox(packages=(), warm=())


class FakeTransport:
    """Is there, and says what it is given to say."""

    def __init__(self, said: str = READY) -> None:
        self.said = said.encode()
        self.calls: list[str] = []

    def send(self, data: bytes, timeout_s: float) -> None:
        self.calls.append("send")

    def receive(self, timeout_s: float) -> bytes | None:
        said, self.said = self.said, b""
        return said

    def hang_up(self) -> None:
        self.calls.append("hang_up")

    def kill(self) -> None:
        self.calls.append("kill")

    def disconnect(self) -> None:
        self.calls.append("disconnect")

    def diagnosis(self) -> str:
        return ""


# Whose a worker is ---------------------------------------------------------------------------------------------------


def test_a_fork_starts_a_worker_of_its_own() -> None:
    """On the parent's pipe the two would read each other's answers, which have the same numbers."""
    sandbox = plain()
    assert sandbox.exec("0", timeout_s=LONG_S).value == "0"
    worker = sandbox._transport._process.pid  # type: ignore[union-attr]

    def ask(who: str) -> bool:
        return all(
            sandbox.exec(f"import time; time.sleep(0.05); '{who}', {i}", timeout_s=LONG_S).value == f"('{who}', {i})"
            for i in range(5)
        )

    answers: list[bool] = []
    with sandbox._lock:  # as another thread might, which the fork does not have
        pid = os.fork()
    if pid == 0:
        right = False
        try:
            right = not sandbox.ready and ask("child")
            sandbox.close()
        finally:
            os._exit(0 if right else 1)
    answers = [ask("parent"), os.waitpid(pid, 0)[1] == 0]
    assert answers == [True, True]
    assert sandbox._transport._process.pid == worker, "the fork has ended its parent's worker"  # type: ignore[union-attr]
    sandbox.close()


def test_a_fork_lets_its_parents_worker_end() -> None:
    """A worker ends when nobody holds its requests open."""
    sandbox = plain()
    sandbox.start()
    transport = sandbox._transport
    assert isinstance(transport, PipeTransport)
    assert in_a_fork(lambda: transport._stdin.closed and transport._stdout.closed and sandbox._transport is None)
    sandbox.close()


def test_a_fork_can_start_workers_whatever_another_thread_did() -> None:
    from toolenv.sandbox import process

    with process._spawner_lock:
        assert in_a_fork(lambda: plain().exec("1", timeout_s=LONG_S).value == "1")


def test_garbage_collection_only_hangs_up() -> None:
    """It may run within a lock that a real end would wait for, such as one of the engine's client."""
    transport = FakeTransport()
    sandbox = WorkerSandbox(lambda: transport, "fake sandbox")
    sandbox.start()
    del sandbox
    gc.collect()
    assert transport.calls == ["hang_up"]
    other = WorkerSandbox(FakeTransport, "fake sandbox")
    other.start()
    assert transport.calls == ["hang_up", "kill"], "what is left is cleared away by the next start"
    other.close()


def test_a_worker_that_nobody_holds_ends() -> None:
    sandbox = plain()
    sandbox.start()
    process = sandbox._transport._process  # type: ignore[union-attr]
    del sandbox
    gc.collect()
    until(lambda: process.poll() is not None)


# Interruptions -------------------------------------------------------------------------------------------------------


def test_the_answer_of_an_interrupted_call_is_nobodys() -> None:
    sandbox = plain()
    sandbox.start()
    with ctrl_c():
        sandbox.exec("import time; time.sleep(60); 'old'", timeout_s=60)
    assert sandbox.exec("'new'", timeout_s=LONG_S).value == "'new'"
    sandbox.close()


def test_a_start_that_is_interrupted_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(FakeTransport):
        def receive(self, timeout_s: float) -> bytes | None:
            raise KeyboardInterrupt

    started = [Interrupted(), FakeTransport()]
    sandbox = WorkerSandbox(lambda: started[0 if not started[0].calls else 1], "fake sandbox")
    with pytest.raises(KeyboardInterrupt):
        sandbox.start()
    assert (started[0].calls, sandbox.ready) == (["kill"], False)
    sandbox.start()
    assert sandbox.ready
    sandbox.close()


def test_a_worker_that_was_interrupted_between_calls_is_lost() -> None:
    sandbox = plain()
    sandbox.start()
    sandbox.interrupt()
    with pytest.raises(SandboxError, match="the worker is gone"):
        sandbox.exec("1", timeout_s=LONG_S)
    assert sandbox.exec("2", timeout_s=LONG_S).value == "2"
    sandbox.close()


# What is the machine's fault, and what the caller's ------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["hello\n", "[1]\n", '{"id": 7}\n', "{}\n"])
def test_what_is_no_answer_loses_the_worker(answer: str) -> None:
    transport = FakeTransport()
    sandbox = WorkerSandbox(lambda: transport, "fake sandbox")
    sandbox.start()
    transport.said = answer.encode()
    with pytest.raises(SandboxError, match=r"^fake sandbox: the worker"):
        sandbox.exec("1", timeout_s=1)
    assert (transport.calls, sandbox.ready) == (["send", "kill"], False)


def test_a_worker_that_does_not_read_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SEND_GRACE_S", 0.2)
    script = f"import time\nprint({READY.strip()!r}, flush=True)\ntime.sleep(60)"
    sandbox = WorkerSandbox(lambda: PipeTransport([sys.executable, "-S", "-c", script], {}), "fake sandbox")
    started = time.monotonic()
    with pytest.raises(SandboxError, match=r"did not take its request within 0\.3 s"):
        sandbox.exec("x" * 1_000_000, timeout_s=0.1)
    assert time.monotonic() - started < LONG_S
    sandbox.close()


def test_a_disk_that_is_full_is_a_sandbox_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(SandboxError, match=r"did not start: .*No space left"):
        plain().start()


@pytest.mark.parametrize("most", [sys.maxsize, 10**400, np.int64(64_000)])
def test_any_limit_of_output_will_do(most: int) -> None:
    sandbox = plain()
    result = sandbox.exec("print('x' * 1_000)\n1", timeout_s=np.float32(LONG_S), max_output_bytes=most)
    assert (len(result.stdout), result.value) == (1_001, "1")
    sandbox.close()


def test_a_time_limit_has_a_limit() -> None:
    sandbox = plain()
    with pytest.raises(ConfigError, match=r"from 0 to 1e\+06, not 3000000"):
        sandbox.exec("1", timeout_s=3e6)
    assert sandbox.exec("1", timeout_s=1e6).value == "1"
    sandbox.close()
