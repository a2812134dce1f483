"""A container lives as long as the process that made it, however that process ends; and never ends another's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_engines import container_id, exists, needs_docker, plain, wait_until_gone

from toolenv.sandbox import reaper
from toolenv.sandbox.docker import DEFAULT_IMAGE
from toolenv.sandbox.engine import connect
from toolenv.sandbox.reaper import HOST, PID, START, owner_labels, owner_of, remove_leftovers

pytestmark = pytest.mark.core

START_ONE = """
import os, signal, sys, threading, time
from docker_engines import container_id, plain
sandbox = plain()
container = container_id(sandbox)
"""
SAY_IT = "print(container, flush=True)\n"
CALL = """
threading.Thread(target=sandbox.exec, args=({code!r},), kwargs={{"timeout_s": 60}}, daemon=True).start()
time.sleep(0.5)
"""
BUSY = CALL.format(code="import signal\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\nwhile True: pass")
SLEEPING = CALL.format(code="import time; time.sleep(60)")
FORK = "if os.fork() == 0:\n    os.close(1)\n    os.close(2)\n    time.sleep(30)\n    os._exit(0)\n"
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
WAITS = "time.sleep(60)"


def parent(*parts: str) -> tuple[subprocess.Popen[str], str]:
    """A process that has started a container: itself, and the container's id."""
    process = subprocess.Popen(
        [sys.executable, "-c", START_ONE + "".join(parts)],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    container = process.stdout.readline().strip()
    assert container, process.stderr.read()
    return process, container


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@needs_docker
@pytest.mark.parametrize(
    "parts",
    [
        pytest.param((SAY_IT, KILLED), id="killed while idle"),
        pytest.param((BUSY, SAY_IT, KILLED), id="killed in a busy call"),
        pytest.param((SLEEPING, SAY_IT, KILLED), id="killed in a sleeping call"),
        pytest.param((FORK, SAY_IT, KILLED), id="killed, while a fork of it lives on"),
        pytest.param((SAY_IT, "sys.exit()"), id="ended without closing"),
    ],
)
def test_a_container_ends_with_its_process(parts: tuple[str, ...]) -> None:
    process, container = parent(*parts)
    try:
        wait_until_gone(container)
    finally:
        end(process)


@pytest.fixture(scope="module")
def living() -> Iterator[tuple[str, str]]:
    """Containers of two living processes: of this one, and of another."""
    sandbox = plain()
    process, container = parent(SAY_IT, WAITS)
    yield container_id(sandbox), container
    end(process)
    sandbox.close()
    wait_until_gone(container)


def stop(container: str, how: str) -> None:
    """Stop process 1 of a container, so that it cannot see its owner die."""
    if how == "pause":
        connect().api.pause(container)
        return
    pid = connect().api.inspect_container(container)["State"]["Pid"]
    try:
        os.kill(pid, signal.SIGSTOP)
    except (ProcessLookupError, PermissionError) as error:
        pytest.skip(f"the container's processes are not to be signalled from here: {error}")


@needs_docker
@pytest.mark.parametrize("how", ["pause", "SIGSTOP"])
def test_what_is_stopped_when_its_process_dies_is_removed_by_the_next(how: str, living: tuple[str, str]) -> None:
    process, container = parent(SAY_IT, WAITS)
    stop(container, how)
    end(process)
    remove_leftovers(connect())  # or another test's process did it just before
    wait_until_gone(container)
    assert all(exists(other) for other in living)


@needs_docker
def test_the_first_container_of_a_process_removes_what_is_left(living: tuple[str, str]) -> None:
    """Also what was never started, so that it cannot end by itself; and nothing else."""
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    labels = {
        "dead": owner_labels() | {PID: str(int(dead.stdout))},
        "of an earlier process of this id": owner_labels() | {START: "1"},
        "of another machine": owner_labels() | {HOST: "elsewhere", PID: str(int(dead.stdout))},
        "of this process": owner_labels(),
    }
    api = connect().api
    made = {kind: api.create_container(DEFAULT_IMAGE, ["-c", "1"], labels=each)["Id"] for kind, each in labels.items()}
    try:
        process, _ = parent(SAY_IT, KILLED)
        end(process)
        left = {kind for kind, container in made.items() if exists(container)}
        assert left == {"of another machine", "of this process"}
        assert all(exists(other) for other in living)
    finally:
        for container in made.values():
            reaper.remove(connect(), container)


# Whose a container is, without an engine -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "alive"),
        ({PID: "1"}, "dead"),  # process 1 lives, but started at another time
        ({START: "12345"}, "dead"),
        ({HOST: "another machine"}, "unknown"),
        ({HOST: ""}, "unknown"),
        ({PID: "x"}, "unknown"),
        ({PID: str(2**22 + 1)}, "dead"),  # above all that Linux gives out
    ],
)
def test_owners_are_told_apart(change: dict[str, str], expected: str) -> None:
    assert owner_of(owner_labels() | change) == expected


def test_labels_of_others_say_nothing() -> None:
    assert owner_of({}) == "unknown"
    assert owner_of({"toolenv": "sandbox"}) == "unknown"


def test_a_zombie_is_dead() -> None:
    labels = {}
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        labels = owner_labels() | {PID: str(pid), START: start}
        assert owner_of(labels) == "dead"
    finally:
        os.waitpid(pid, 0)
    assert owner_of(labels) == "dead"


class Refusing:
    """An engine whose removals fail."""

    def __init__(self, error: Exception) -> None:
        self.api = self
        self.error = error

    def remove_container(self, container_id: str, force: bool) -> None:
        raise self.error


@pytest.mark.parametrize(("status", "warnings"), [(404, 0), (409, 0), (500, 1)])
def test_what_others_remove_at_the_same_time_is_no_error(
    status: int, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    docker: Any = pytest.importorskip("docker")
    requests: Any = pytest.importorskip("requests")
    response = requests.Response()
    response.status_code = status
    assert not reaper.remove(Refusing(docker.errors.APIError("no", response=response)), "abc")
    assert len(caplog.records) == warnings
