"""How the calls of a pool end: by its closing, by Ctrl-C, and where nothing can be begun."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.sandbox_fakes import LONG_S, Fakes, FakeSandbox, told, until
from tests.sandboxes import ctrl_c
from toolenv.errors import SandboxError
from toolenv.sandbox import ExecJob, SandboxPool
from toolenv.sandbox.process import ProcessSandbox

pytestmark = pytest.mark.core


def test_closing_waits_for_what_runs_and_refuses_what_waits() -> None:
    running, let_end = threading.Event(), threading.Event()

    def act(sandbox: FakeSandbox, code: str) -> None:
        running.set()
        assert let_end.wait(LONG_S)

    fakes = Fakes(lambda: FakeSandbox(act))
    pool = SandboxPool(fakes, workers=1)
    with ThreadPoolExecutor(2) as threads:
        results = threads.submit(pool.run, [ExecJob("a"), ExecJob("b")])
        assert running.wait(LONG_S)
        closing = threads.submit(pool.close)
        until(lambda: pool.closed)
        let_end.set()
        closing.result(LONG_S)
        assert told(results.result(LONG_S)) == ["a", "the sandbox pool is closed"]
    assert [fake.closed for fake in fakes.made] == [True]
    pool.close()


def test_an_interrupted_call_costs_its_worker_alone() -> None:
    """The worker's answer is still to come, and must not be taken for that of the next call."""

    def act(sandbox: FakeSandbox, code: str) -> None:
        if code == "long":
            raise KeyboardInterrupt

    fakes = Fakes(lambda: FakeSandbox(act))
    pool = SandboxPool(fakes, workers=1)
    with pytest.raises(KeyboardInterrupt):
        pool.run([ExecJob("long")])
    assert pool.exec("next", timeout_s=1).stdout == "next"
    pool.close()
    assert ([fake.codes for fake in fakes.made], fakes.made[0].closed) == ([["long"], ["next"]], True)


def test_after_ctrl_c_nothing_more_is_begun() -> None:
    running: list[FakeSandbox] = []
    let_end = threading.Event()

    def act(sandbox: FakeSandbox, code: str) -> None:
        if code == "long":
            running.append(sandbox)
            assert let_end.wait(LONG_S)

    fakes = Fakes(lambda: FakeSandbox(act))
    pool = SandboxPool(fakes, workers=2)
    with ctrl_c(lambda: len(running) == 2):
        pool.run([ExecJob("long"), ExecJob("long"), ExecJob("never"), ExecJob("never")])
    let_end.set()
    assert pool.exec("next", timeout_s=1).stdout == "next"
    pool.close()
    assert sorted(code for fake in fakes.made for code in fake.codes) == ["long", "long", "next"]


def test_ctrl_c_and_closing_now_end_real_programs() -> None:
    """The limits of the programs are far off, and nobody waits for them."""
    pool = SandboxPool(lambda: ProcessSandbox(packages=(), warm=()), workers=2)
    pool.start()
    endless = ExecJob("while True: pass", timeout_s=600)

    with ctrl_c(lambda: len(pool._crew._lent) == 2):
        pool.run([endless] * 3)
    assert pool.exec("6 * 7", timeout_s=LONG_S).value == "42"
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(pool.run, [endless])
        until(lambda: pool._crew._lent)
        pool.close(now=True)
        [result] = running.result(LONG_S)
        assert isinstance(result, SandboxError)


class Interruptible(FakeSandbox):
    """Its programs end when they are interrupted, and as if they had not been."""

    def __init__(self) -> None:
        super().__init__(lambda sandbox, code: sandbox.hurt.wait(LONG_S) and None if code == "long" else None)  # type: ignore[attr-defined]
        self.hurt = threading.Event()

    def interrupt(self) -> None:
        self.hurt.set()


def test_a_worker_that_was_interrupted_as_its_call_ended_gets_no_other_call() -> None:
    fakes = Fakes(Interruptible)
    pool = SandboxPool(fakes, workers=2)
    with ctrl_c(lambda: len(pool._crew._lent) == 2):
        pool.run([ExecJob("long"), ExecJob("long")])
    assert told(pool.run([ExecJob("next")] * 4)) == ["next"] * 4
    pool.close()
    assert all(fake.codes == ["long"] for fake in fakes.made if fake.hurt.is_set())  # type: ignore[attr-defined]


def test_closing_now_begins_nothing_that_has_its_turn() -> None:
    making, let_make = threading.Event(), threading.Event()

    def make() -> FakeSandbox:
        making.set()
        assert let_make.wait(LONG_S)
        return FakeSandbox()

    fakes = Fakes(make)
    pool = SandboxPool(fakes, workers=1)
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(pool.run, [ExecJob("a")])
        assert making.wait(LONG_S)
        closing = threads.submit(pool.close, now=True)
        until(lambda: pool.closed)
        let_make.set()
        assert told(running.result(LONG_S)) == ["the sandbox pool is closed"]
        closing.result(LONG_S)
    assert [(fake.codes, fake.closed) for fake in fakes.made] == [([], True)]


def test_a_list_that_meets_a_closing_pool_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look whether it is open and the first program."""
    pool = SandboxPool(FakeSandbox, workers=1)
    looked = pool._crew.check_open

    def close_after() -> None:
        looked()
        monkeypatch.undo()
        pool.close()

    monkeypatch.setattr(pool._crew, "check_open", close_after)
    with pytest.raises(SandboxError, match="the sandbox pool is closed"):
        pool.run([ExecJob("a"), ExecJob("b")])


def test_a_pool_starts_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    fakes = Fakes()
    pool = SandboxPool(fakes, workers=2)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool.start()
    assert pool.exec("a", timeout_s=1).stdout == "a"
    monkeypatch.undo()
    pool.close()
    assert len(fakes.made) == 2
