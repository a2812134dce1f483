"""The pool: who gets a worker, who is to blame for a lost one, and what a session keeps."""

from __future__ import annotations

import copy
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.sandbox_fakes import LONG_S, Fakes, FakeSandbox, in_a_fork, losing, told
from toolenv.errors import ConfigError, SandboxError
from toolenv.sandbox import (
    ExecJob,
    ExecResult,
    Limits,
    Sandbox,
    SandboxPool,
    check_sandbox,
    make_sandbox,
    shared_sandbox,
)
from toolenv.sandbox.patience import AT_FAULT
from toolenv.sandbox.pool import run_jobs
from toolenv.sandbox.process import ProcessSandbox

pytestmark = pytest.mark.core

# Who is to blame -----------------------------------------------------------------------------------------------------


def test_a_program_that_loses_two_workers_is_killed_and_the_others_go_on() -> None:
    fakes = Fakes(losing("bad"))
    pool = SandboxPool(fakes, workers=2)
    results = pool.run([ExecJob(code) for code in ("a", "bad", "b", "c")])
    assert told(results) == ["a", AT_FAULT, "b", "c"]
    assert isinstance(results[1], ExecResult)
    assert (results[1].status, results[1].exit_code) == ("killed", None)
    codes = [code for fake in fakes.made for code in fake.codes]
    assert (codes.count("bad"), codes.count("")) == (2, 1), "the second worker was tried out first"
    assert pool.run([]) == []
    pool.close()
    assert all(fake.closed for fake in fakes.made)
    assert sum("bad" in fake.codes for fake in fakes.made) == 2
    with pytest.raises(SandboxError, match="closed"):
        pool.run([ExecJob("a")])


def test_a_worker_that_also_loses_an_empty_program_is_no_fault_of_the_program() -> None:
    fakes = Fakes(losing("bad", ""))
    pool = SandboxPool(fakes, workers=1)
    with pytest.raises(SandboxError, match="lost by ''"):
        pool.exec("bad", timeout_s=1)
    assert [code for fake in fakes.made for code in fake.codes] == ["bad", "", ""]
    pool.close()


def test_a_worker_lost_once_is_never_seen() -> None:
    lost: list[str] = []

    def act(sandbox: FakeSandbox, code: str) -> None:
        if code and code not in lost:
            lost.append(code)
            raise SandboxError("the machine is gone")

    pool = SandboxPool(Fakes(lambda: FakeSandbox(act)), workers=2)
    assert told(pool.run([ExecJob(c) for c in "abcde"])) == list("abcde")
    pool.close()


def test_workers_that_do_not_start_are_no_fault_of_the_program() -> None:
    class Cold(FakeSandbox):
        def __init__(self) -> None:
            super().__init__()
            self.ready = False

        def start(self) -> None:
            raise SandboxError("no room")

    fakes = Fakes(Cold)
    pool = SandboxPool(fakes, workers=1)
    with pytest.raises(SandboxError, match="no room"):
        pool.exec("a", timeout_s=1)
    with pytest.raises(SandboxError, match="no room"):
        pool.start()
    pool.close()
    assert not any(fake.codes for fake in fakes.made)
    assert all(fake.closed for fake in fakes.made)


def test_a_real_worker_that_is_killed_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    pool = SandboxPool(lambda: ProcessSandbox(packages=(), warm=()), workers=1)
    assert pool.exec("1", timeout_s=LONG_S).value == "1"
    [worker] = pool._crew._made.values()
    os.kill(worker._transport._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING, "toolenv.sandbox"):
        assert pool.exec("2", timeout_s=LONG_S).value == "2"
    assert not caplog.records
    pool.close()


# Workers -------------------------------------------------------------------------------------------------------------


def test_a_replacement_starts_behind_the_next_calls() -> None:
    let_start = threading.Event()
    started = threading.Event()

    class Slow(FakeSandbox):
        def start(self) -> None:
            started.set()
            assert let_start.wait(LONG_S)
            self.ready = True

    def act(sandbox: FakeSandbox, code: str) -> None:
        sandbox.ready = code != "dirty"

    fakes = Fakes(lambda: Slow(act))
    pool = SandboxPool(fakes, workers=2)
    pool.start()
    assert pool.exec("dirty", timeout_s=1).stdout == "dirty"
    assert started.wait(LONG_S), "nobody has asked for it, and yet it is started"
    assert told([pool.exec("a", timeout_s=1) for _ in range(3)]) == ["a"] * 3
    let_start.set()
    pool.close()
    assert len(fakes.made) == 2, "what was dirty is used again once it is started again"


def test_all_workers_start_side_by_side() -> None:
    barrier = threading.Barrier(3)

    class Cold(FakeSandbox):
        def __init__(self) -> None:
            super().__init__()
            self.ready = False

        def start(self) -> None:
            barrier.wait(LONG_S)
            self.ready = True

    fakes = Fakes(Cold)
    pool = SandboxPool(fakes, workers=3)
    assert fakes.made == []
    pool.start()
    assert [fake.ready for fake in fakes.made] == [True] * 3
    pool.start()
    assert told(pool.run([ExecJob("a")] * 9)) == ["a"] * 9
    assert (len(fakes.made), len(pool), repr(pool)) == (3, 3, "SandboxPool('sandbox', workers=3)")
    pool.close()
    assert repr(pool) == "SandboxPool('sandbox', workers=3, closed)"


def test_as_many_programs_at_once_as_there_are_workers() -> None:
    barrier = threading.Barrier(2)
    fakes = Fakes(lambda: FakeSandbox(lambda sandbox, code: barrier.wait(LONG_S) and None))
    pool = SandboxPool(fakes, workers=2)
    assert told(pool.run([ExecJob(c) for c in "abcd"])) == list("abcd")
    assert len(fakes.made) == 2
    pool.close()


def test_threads_share_a_pool() -> None:
    fakes = Fakes()
    pool = SandboxPool(fakes, workers=3)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda i: told(pool.run([ExecJob(f"{i}"), ExecJob("x")])), range(100)))
    assert answers == [[str(i), "x"] for i in range(100)]
    assert len(fakes.made) <= 3
    pool.close()


def test_a_wait_for_a_worker_is_no_part_of_the_time_limit() -> None:
    pool = SandboxPool(lambda: ProcessSandbox(packages=(), warm=()), workers=1)
    results = pool.run([ExecJob("import time; time.sleep(0.5)", timeout_s=1.9)] * 5)
    assert [r.status for r in results if isinstance(r, ExecResult)] == ["ok"] * 5
    pool.close()


def test_standard_input_goes_along_where_there_is_some() -> None:
    pool = SandboxPool(FakeSandbox, workers=1)
    assert pool.exec("a", timeout_s=1, stdin="b").stdout == "ab"
    pool.close()


def test_copies_of_a_pool_are_the_pool() -> None:
    pool = SandboxPool(FakeSandbox, workers=1)
    assert copy.deepcopy({"pool": pool})["pool"] is pool
    assert isinstance(pool, Sandbox)


def test_a_fork_gets_workers_of_its_own_even_in_the_midst_of_a_call() -> None:
    pool = SandboxPool(lambda: ProcessSandbox(packages=(), warm=()), workers=1)
    assert pool.exec("1", timeout_s=LONG_S).value == "1"
    with pool._crew._changed:  # as another thread might, which the fork does not have
        assert in_a_fork(lambda: pool.exec("2", timeout_s=LONG_S).value == "2")
    assert pool.exec("3", timeout_s=LONG_S).value == "3"
    pool.close()


def test_run_jobs_takes_whatever_sandbox() -> None:
    jobs = [ExecJob(code) for code in ("a", "bad", "b")]
    assert told(run_jobs(losing("bad")(), jobs)) == ["a", "lost by 'bad'", "b"]
    pool = SandboxPool(losing("bad"), workers=1)
    assert told(run_jobs(pool, jobs)) == ["a", AT_FAULT, "b"]
    pool.close()


# Sessions ------------------------------------------------------------------------------------------------------------


class FakeKeeper(FakeSandbox):
    """Runs the programs of a session in a dictionary; the program ``lose`` brings it down."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, object] = {}
        self.ended = 0

    def exec_keeping(self, code: str, *, timeout_s: float, max_output_bytes: int = 0) -> ExecResult:
        assert not self.closed
        self.codes.append(code)
        if code == "lose":
            raise SandboxError("lost")
        exec(code, self.names)
        return ExecResult("", "", "ok", 0, 0.0, value=str(self.names.get("x")))

    def end_session(self) -> None:
        self.names = {}
        self.ended += 1


@pytest.fixture
def keepers() -> Iterator[tuple[SandboxPool, Fakes]]:
    fakes = Fakes(FakeKeeper)
    pool = SandboxPool(fakes, workers=2)
    yield pool, fakes
    pool.close()
    assert all(fake.closed for fake in fakes.made)


def test_sessions_keep_their_state_apart(keepers: tuple[SandboxPool, Fakes]) -> None:
    pool, fakes = keepers
    sessions = [pool.session() for _ in range(5)]
    assert len(fakes.made) <= 1, "a session has no worker before its first program"
    values = [session.exec(f"x = {i}", timeout_s=1).value for i, session in enumerate(sessions)]
    assert values == [session.exec("pass", timeout_s=1).value for session in sessions] == list("01234")
    assert len(fakes.made) == 5
    assert pool.exec("beside them", timeout_s=1).stdout == "beside them"
    for session in sessions:
        session.close()
        with pytest.raises(SandboxError, match="is closed"):
            session.exec("x", timeout_s=1)
    with pool.session() as another:
        assert another.exec("pass", timeout_s=1).value == "None", "workers come back clean"
    assert len(fakes.made) == 6, "workers are used again"


def test_a_lost_session_says_so_and_its_worker_is_replaced(keepers: tuple[SandboxPool, Fakes]) -> None:
    pool, fakes = keepers
    session = pool.session()
    session.exec("x = 1", timeout_s=1)
    with pytest.raises(SandboxError, match=r"^lost$"):
        session.exec("lose", timeout_s=1)
    with pytest.raises(SandboxError, match="lost its worker"):
        session.exec("x", timeout_s=1)
    session.close()
    with pool.session() as another:
        assert another.exec("x = 2", timeout_s=1).value == "2"
    assert [fake.closed for fake in fakes.made] == [True, False]


def test_a_session_that_nobody_closed_gives_its_worker_back(keepers: tuple[SandboxPool, Fakes]) -> None:
    pool, fakes = keepers
    session = pool.session()
    session.exec("x = 1", timeout_s=1)
    del session
    gc.collect()
    with pool.session() as another:
        assert another.exec("pass", timeout_s=1).value == "None"
    assert len(fakes.made) == 1


def test_a_fork_has_no_part_in_a_session(keepers: tuple[SandboxPool, Fakes]) -> None:
    pool, fakes = keepers
    session = pool.session()
    session.exec("x = 1", timeout_s=1)

    def check() -> bool:
        with pytest.raises(SandboxError, match="a fork of"):
            session.exec("x = 2", timeout_s=1)
        session.close()
        return fakes.made[0].ended == 0

    assert in_a_fork(check)
    assert session.exec("pass", timeout_s=1).value == "1"
    session.close()


def test_a_pool_of_sandboxes_that_keep_nothing_has_no_sessions() -> None:
    pool = SandboxPool(FakeSandbox, workers=1)
    with pytest.raises(ConfigError, match="no method exec_keeping"):
        pool.session()
    pool.close()
    with pytest.raises(SandboxError, match="closed"):
        pool.session()


def test_a_pool_keeps_the_promises_of_a_sandbox() -> None:
    check_sandbox(make_sandbox("process", workers=2), isolation={"environment"}, margin_s=20.0)


# By name -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["as it is", "missing"])
def test_make_sandbox_by_name(package: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'dokcer'.*auto, docker, bwrap, process"):
        make_sandbox("dokcer")
    with pytest.raises(ConfigError, match="workers"):
        make_sandbox("process", workers=0)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    monkeypatch.setenv("PATH", "/nowhere")
    if package == "missing":  # as in the core job
        monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(SandboxError, match=r"Docker engine|'docker' is not installed"):
        make_sandbox("docker")
    with caplog.at_level(logging.WARNING, "toolenv.sandbox"):
        pool = make_sandbox("auto", workers=1)
    assert len(caplog.records) == 1
    line = caplog.records[0].getMessage()
    assert line.startswith("sandbox: process; ")
    assert "Not bwrap: " in line
    assert pool.exec("6 * 7", timeout_s=LONG_S).value == "42"
    assert repr(pool) == "SandboxPool('process', workers=1)"
    pool.close()


def test_limits_go_to_the_workers() -> None:
    pool = make_sandbox("process", workers=1, limits=Limits(max_file_bytes=1000))
    result = pool.exec("with open('f', 'wb') as f:\n    f.write(b'x' * 2000)", timeout_s=LONG_S)
    assert (result.status, "OSError" in (result.error or "")) == ("error", True)
    pool.close()


def test_the_shared_sandbox_is_shared() -> None:
    pool = shared_sandbox("process", workers=1)
    assert shared_sandbox("process", workers=1, limits=Limits()) is pool
    other = shared_sandbox("process", workers=1, limits=Limits(max_processes=9))
    assert other is not pool
    other.close()
    assert shared_sandbox("process", workers=1, limits=Limits(max_processes=9)) is not other
