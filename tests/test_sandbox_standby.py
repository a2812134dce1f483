"""The process that waits for the next program, and the memory that it gets ready."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandboxes import KINDS, run, started
from toolenv.sandbox.client import WorkerSandbox
from toolenv.sandbox.process import PipeTransport, ProcessSandbox
from toolenv.sandbox.worker.kill import descendants
from toolenv.sandbox.worker.pages import PAGE_BYTES, gather, touch, written_by

pytestmark = pytest.mark.core

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of pages and processes")


@pytest.fixture(scope="module", params=KINDS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[WorkerSandbox]:
    with started(request.param) as sandbox:
        yield sandbox


def waiting_child(sandbox: WorkerSandbox) -> int:
    transport = sandbox._transport
    assert isinstance(transport, PipeTransport)
    deadline = time.monotonic() + 10
    while not (below := descendants(transport._process.pid)):
        assert time.monotonic() < deadline, "no standby was forked"
        time.sleep(0.01)
    (pid,) = below
    return pid


@linux
def test_a_standby_that_was_killed_is_replaced() -> None:
    sandbox = ProcessSandbox(packages=(), warm=())
    assert run(sandbox, "print(1)").stdout == "1\n"
    for turn in range(3):
        pid = waiting_child(sandbox)
        os.kill(pid, signal.SIGKILL)
        while "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
            time.sleep(0.01)
        result = run(sandbox, f"print({turn})")
        assert (result.status, result.stdout) == ("ok", f"{turn}\n")
    sandbox.close()


@linux
def test_the_end_of_a_session_that_was_lost_leaves_the_worker_whole(sandbox: WorkerSandbox) -> None:
    """With the session gone, a process waits for the next program when the session is ended."""
    result = sandbox.exec_keeping("import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(5)", timeout_s=2)
    assert "are lost" in str(result.error)
    worker = sandbox._transport
    sandbox.end_session()
    assert run(sandbox, "print(1)").stdout == "1\n"
    assert sandbox._transport is worker, "the worker was lost"


@linux
def test_it_dies_with_the_worker() -> None:
    sandbox = ProcessSandbox(packages=(), warm=())
    sandbox.start()
    pid = waiting_child(sandbox)
    sandbox.close()
    assert not Path(f"/proc/{pid}").exists()


def test_each_program_has_the_whole_of_its_time_and_a_process_of_its_own(sandbox: WorkerSandbox) -> None:
    look = "import os, time\nprint(os.getpid(), time.process_time() < 1.0)"
    seen = []
    for _ in range(3):
        time.sleep(0.05)  # so that the standby has done what it does meanwhile
        pid, fresh = run(sandbox, look).stdout.split()
        assert fresh == "True"
        seen.append(pid)
    assert len(set(seen)) == 3
    busy = "import time\nwhile time.process_time() < 0.6: pass\nprint('done')"
    assert run(sandbox, busy, timeout_s=10).stdout == "done\n"


def test_the_limit_of_processor_time_is_that_of_the_call(sandbox: WorkerSandbox) -> None:
    look = "import resource\nprint(resource.getrlimit(resource.RLIMIT_CPU))"
    assert run(sandbox, look, timeout_s=3).stdout == "(4, 4)\n"
    assert run(sandbox, look, timeout_s=7.5).stdout == "(9, 9)\n"


def test_a_program_has_no_descriptor_but_its_own(sandbox: WorkerSandbox) -> None:
    look = "import os\nprint([fd for fd in range(64) if os.path.exists(f'/proc/self/fd/{fd}')])"
    assert run(sandbox, look).stdout in ("[0, 1, 2, 3]\n", "[]\n")


@linux
def test_pages_that_are_written_to_are_found() -> None:
    with mmap.mmap(-1, 64 * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = b"x" * len(memory)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))

        def write() -> None:
            memory[10 * PAGE_BYTES] = memory[40 * PAGE_BYTES + 7] = 1

        ranges = written_by(write)
        assert memory[10 * PAGE_BYTES] == ord("x"), "it was done in this process"
    pairs = list(zip(ranges[::2], ranges[1::2], strict=True))
    found = {
        (address - start) // PAGE_BYTES
        for first, size in pairs
        for address in range(first, first + size, PAGE_BYTES)
        if start <= address < start + 64 * PAGE_BYTES
    }
    assert found == {10, 40}


def test_where_the_fork_is_ended_nothing_is_told() -> None:
    assert not written_by(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert not written_by(lambda: 1 // 0)


@linux
def test_pages_are_made_ones_own_until_there_is_something_to_read() -> None:
    with mmap.mmap(-1, 8 * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        ranges = array("Q", [start, 2 * PAGE_BYTES, start + 5 * PAGE_BYTES, PAGE_BYTES])
        read, write = os.pipe()
        os.write(write, b"x")
        touch(ranges, read)
        assert resident(start, 8) == set()
        os.read(read, 1)
        touch(ranges, read)
        assert resident(start, 8) == {0, 1, 5}
        assert not any(memory[:])
        os.close(read)
        os.close(write)


@linux
def test_memory_is_as_it_was_after_it_is_gathered() -> None:
    data = bytearray(os.urandom(1 << 20)) * 8
    before = bytes(data)
    gather()
    assert data == before


def resident(start: int, pages: int) -> set[int]:
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(start // PAGE_BYTES * 8)
        entries = array("Q", file.read(pages * 8))
    return {index for index, entry in enumerate(entries) if entry >> 63}
