"""The worker: its parts, the filter of system calls, and the host's side of it."""

from __future__ import annotations

import errno
import logging
import os
import platform
import re
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sandboxes import KINDS, run, started
from toolenv.errors import ConfigError, SandboxError
from toolenv.sandbox import client
from toolenv.sandbox.client import WorkerSandbox, worker_command
from toolenv.sandbox.process import PipeTransport, ProcessSandbox
from toolenv.sandbox.worker import child, seccomp
from toolenv.sandbox.worker.capture import Capture
from toolenv.sandbox.worker.feed import Feed
from toolenv.sandbox.worker.kill import Process, descendants
from toolenv.sandbox.worker.seccomp import ARCHITECTURES, build_filter
from toolenv.sandbox.worker.syscalls import JUDGED, REFUSED
from toolenv.sandbox.worker.text import clip
from toolenv.sandbox.worker.wipe import Scratch

pytestmark = pytest.mark.core

READY = '{"ready": true, "cold": [], "unfiltered": null, "sessions": true}'


@pytest.fixture(scope="module", params=KINDS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[WorkerSandbox]:
    with started(request.param) as made:
        yield made


# System calls --------------------------------------------------------------------------------------------------------

ALLOWED, KILLED, REFUSED_ANSWER, UNKNOWN = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS


def judged(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the kernel's machine makes of a call: an interpreter of the few instructions in use."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *padded)
    program = [struct.unpack("HBBI", code) for code in build_filter(machine)]
    at, value = 0, 0
    while True:
        operation, if_true, if_false, constant = program[at]
        at += 1
        match operation:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, constant)
            case 0x54:
                value &= constant
            case 0x06:
                return int(constant)
            case _:
                true = {0x15: value == constant, 0x25: value > constant, 0x35: value >= constant}
                true[0x45] = bool(value & constant)
                at += if_true if true[operation] else if_false


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_refuses_what_is_listed_and_nothing_else(machine: str) -> None:
    refused = set(REFUSED[machine].values())
    assert len(REFUSED[machine]) == len(refused)
    assert not REFUSED[machine].keys() & JUDGED[machine].keys()
    for number in range(463):
        if number not in JUDGED[machine].values():
            assert judged(machine, number) == (REFUSED_ANSWER if number in refused else ALLOWED), number
    assert {judged(machine, number) for number in (463, 469, 5000)} == {UNKNOWN}
    for name in (
        "execve",
        "socket",
        "ptrace",
        "mount",
        "unshare",
        "io_uring_setup",
        "memfd_create",
        "keyctl",
        "chroot",
    ):
        assert judged(machine, REFUSED[machine][name]) == REFUSED_ANSWER


def test_the_filter_kills_what_comes_by_another_gate() -> None:
    assert judged("x86_64", 20, architecture=0x40000003) == KILLED  # i386
    assert judged("x86_64", 0x40000000 | 59) == KILLED  # x32
    assert judged("x86_64", 0xFFFFFFFF) == KILLED
    assert judged("aarch64", 20, architecture=0x40000028) == KILLED


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("clone", [(0x1200011,), (0x3D0F00,)], [(0x10000000 | 17,), (0x20000,), (0x40000000,), (0x02000000,)]),
        ("prlimit64", [(0, 7, 0)], [(1, 7), (2**31,)]),
        ("setpriority", [(0, 0, 19)], [(0, 1), (1, 0), (2, 0)]),
        ("sched_setaffinity", [(0,)], [(1,)]),
        ("personality", [(0xFFFFFFFF,)], [(0,), (0x40000,)]),
        ("socketpair", [(1, 1), (1, 5), (1, 1 | 0o2000000)], [(1, 2), (1, 3), (2, 1), (1, 2 | 0o4000)]),
        ("sendto", [(3, 9, 9, 0, 0)], [(3, 9, 9, 0, 1), (3, 9, 9, 0, 1 << 32)]),
        ("mknodat", [(3, 9, 0o010644)], [(3, 9, 0o020644), (3, 9, 0o060644), (3, 9, 0o140644)]),
        ("fcntl", [(0, 1), (0, 8)], [(0, 10)]),
        ("ioctl", [(0, 0x5401)], [(0, 0x5412), (0, 0x541C), (0, 0x40086602), (0, 0x401C5820)]),
    ],
)
def test_the_filter_judges_by_arguments(
    machine: str, name: str, allowed: list[tuple[int, ...]], refused: list[tuple[int, ...]]
) -> None:
    number = JUDGED[machine][name]
    assert [judged(machine, number, *arguments) for arguments in allowed] == [ALLOWED] * len(allowed)
    assert [judged(machine, number, *arguments) for arguments in refused] == [REFUSED_ANSWER] * len(refused)


def test_the_kernel_refuses_them_too(sandbox: WorkerSandbox) -> None:
    numbers = REFUSED[platform.machine()]
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\ndef call(number):\n"
        "    ctypes.set_errno(0)\n    return libc.syscall(number, *[0] * 6), ctypes.get_errno()\n"
        f"print({{call(number) for number in {sorted(numbers.values())}}}, call(5000))"
    )
    assert run(sandbox, code).stdout == f"{{(-1, {errno.EPERM})}} (-1, {errno.ENOSYS})\n"


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("import multiprocessing\nwith multiprocessing.Pool(2) as p: print(p.map(abs, [-1, -2]))", "[1, 2]"),
        ("from concurrent.futures import ThreadPoolExecutor as P\nprint(P(2).submit(abs, -3).result())", "3"),
        ("import asyncio\nprint(asyncio.run(asyncio.to_thread(abs, -4)))", "4"),
        ("import tempfile, shutil\nd = tempfile.mkdtemp()\nshutil.copytree(d, d + '2')\nprint(5)", "5"),
        ("import subprocess\nsubprocess.run(['ls'])", "PermissionError: [Errno 1] Operation not permitted: 'ls'"),
        ("import socket\nsocket.socket()", "PermissionError: [Errno 1] Operation not permitted"),
        ("import toolenv_worker", "ModuleNotFoundError: No module named 'toolenv_worker'"),
    ],
)
def test_what_programs_do_works_or_says_why_not(sandbox: WorkerSandbox, code: str, shown: str) -> None:
    assert run(sandbox, code).output.splitlines()[-1] == shown


def test_a_missing_filter_is_said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "riscv64" in str(seccomp.refuse_calls())
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert "Darwin" in str(seccomp.refuse_calls())
    ready = READY.replace("null", '"no seccomp"').replace('"sessions": true', '"sessions": false')
    script = f"print({ready!r}, flush=True); input()"
    sandbox = WorkerSandbox(lambda: PipeTransport([sys.executable, "-S", "-c", script], {}), "fake sandbox")
    with caplog.at_level(logging.WARNING, "toolenv.sandbox"):
        sandbox.start()
    assert "fake sandbox: system calls are not filtered: no seccomp" in caplog.text
    with pytest.raises(SandboxError, match="fake sandbox: sessions need a worker on Linux"):
        sandbox.exec_keeping("1", timeout_s=1)
    sandbox.close()


# Reports that a program forges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written", ["b'{' * 9", "b'v' + b'[' * 100_000", "b'e' * 5_000_000", "bytes(range(256))", 'b\'{"a": NaN, "a": 1}\'']
)
def test_a_report_is_only_text(sandbox: WorkerSandbox, written: str) -> None:
    result = run(sandbox, f"import os\nos.write(3, {written})\nos._exit(0)", max_output_bytes=1000)
    assert (result.status, result.error) == ("ok", None)
    assert len(result.value or "") < 1200
    assert run(sandbox, "1 + 1").value == "2"


@pytest.mark.parametrize("module", ["json", "os", "builtins", "traceback", "threading", "io", "sys"])
def test_a_broken_python_is_a_broken_program(sandbox: WorkerSandbox, module: str) -> None:
    code = f"import {module} as m\nfor n in list(vars(m)):\n    if n[:2] != '__': vars(m)[n] = None\nraise KeyError"
    result = run(sandbox, code)
    assert result.status == "error"
    assert run(sandbox, "1 + 1").value == "2"


# The host's side -----------------------------------------------------------------------------------------------------


def test_a_worker_lives_on_after_the_thread_that_started_it() -> None:
    sandbox = ProcessSandbox(packages=(), warm=())
    thread = threading.Thread(target=sandbox.start)
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert run(sandbox, "1 + 1").value == "2"
    sandbox.close()


def test_a_worker_dies_with_its_parent() -> None:
    code = (
        "import os, threading, time\nfrom toolenv.sandbox.process import ProcessSandbox\n"
        "s = ProcessSandbox(packages=(), warm=())\ns.start()\n"
        "print(s._transport._process.pid, s._transport._folder, flush=True)\n"
        "threading.Thread(target=s.exec, args=('while True: pass',), kwargs={'timeout_s': 60}, daemon=True).start()\n"
        "time.sleep(0.3)\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    pid, folder = done.stdout.split()
    worker = Path(f"/proc/{pid}")
    deadline = time.monotonic() + 10
    while worker.exists() and "Z" not in (worker / "stat").read_text().split(")")[1][:3]:
        assert time.monotonic() < deadline, "the worker outlives its parent"
        time.sleep(0.05)
    assert not Path(folder).exists()


def test_a_worker_that_is_told_to_leave_while_it_leaves_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "of the worker"
    home = folder / "home"
    home.mkdir(parents=True)
    scratch = Scratch([str(home)], own=str(home))
    home.rmdir()  # so far the first leaving has come
    scratch.remove()
    assert not folder.exists()


def fake_worker(answers: str) -> WorkerSandbox:
    script = f"import sys, time\nprint({READY!r}, flush=True)\n{answers}"
    return WorkerSandbox(lambda: PipeTransport([sys.executable, "-S", "-c", script], {}), "fake sandbox")


def test_a_worker_that_does_not_answer_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "GRACE_S", 0.2)
    sandbox = fake_worker("time.sleep(60)")
    with pytest.raises(SandboxError, match=r"fake sandbox: no answer within 0\.3 s"):
        sandbox.exec("1", timeout_s=0.1)
    sandbox.close()


def test_a_lost_worker_says_why_and_the_next_call_starts_another() -> None:
    sandbox = fake_worker("sys.stdin.readline(); sys.exit('out of luck')")
    for _ in range(2):
        with pytest.raises(SandboxError, match="out of luck"):
            sandbox.exec("1", timeout_s=1)
    sandbox.close()
    with pytest.raises(SandboxError, match="closed"):
        sandbox.exec("1", timeout_s=1)


def test_a_program_that_cannot_be_started_is_named() -> None:
    sandbox = WorkerSandbox(lambda: PipeTransport(["/no/such/program"], {}), "x")
    with pytest.raises(SandboxError, match="/no/such/program"):
        sandbox.exec("1", timeout_s=1)


def test_limits_that_are_none_are_refused() -> None:
    sandbox = WorkerSandbox(lambda: PipeTransport(["/no/such/program"], {}), "x")
    for timeout_s in (-1, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="timeout_s must be"):
            sandbox.exec("1", timeout_s=timeout_s)
    with pytest.raises(ConfigError, match=r"max_output_bytes must be .* at least 2"):
        sandbox.exec("1", timeout_s=1, max_output_bytes=0)


def test_a_command_fits_the_kernel() -> None:
    command = worker_command(["python"], "{}")
    assert max(len(part.encode()) for part in command) < 128 << 10
    assert sum(len(part.encode()) for part in command) < 512 << 10


# Parts of the worker -------------------------------------------------------------------------------------------------


@given(chunks=st.lists(st.binary(max_size=50), max_size=20), limit=st.integers(2, 100))
def test_capture_keeps_head_and_tail(chunks: list[bytes], limit: int) -> None:
    capture = Capture(memoryview(bytearray(limit)))
    for chunk in chunks:
        capture.feed(memoryview(chunk))
    whole, kept = b"".join(chunks), b"".join(capture.parts())
    assert capture.total == len(whole)
    assert len(kept) == min(limit, len(whole))
    if len(whole) <= limit:
        assert kept == whole
    else:
        assert kept == whole[: capture.head_bytes] + whole[capture.head_bytes - limit :]
    capture.close()


@pytest.mark.parametrize("read_first", [0, 70_000, 300_000])
@pytest.mark.parametrize("way", ["splice", "read and write"])
def test_a_feed_passes_on_what_is_wanted_and_takes_the_rest_away(
    way: str, read_first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "splice":
        monkeypatch.delattr(os, "splice")
    source, host = os.pipe()
    data = os.urandom(300_000)
    sender = threading.Thread(target=lambda: os.write(host, data + b"next"))
    sender.start()
    feed = Feed(source, len(data))
    seen = b""
    while len(seen) < read_first:
        if feed.waits_for is not None:
            feed.step()
        if select.select([feed.program_end], [], [], 0.01)[0]:
            seen += os.read(feed.program_end, 50_000)
    assert seen == data[: len(seen)]
    os.close(feed.program_end)
    feed.finish()
    assert os.read(source, 10) == b"next"
    sender.join()
    os.close(host)
    gone = Feed(source, 1)
    with pytest.raises(EOFError):
        gone.step()
    gone.close()
    for fd in (source, gone.program_end):
        os.close(fd)


def test_a_long_program_is_not_copied_with_each_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied, these parts are 128 GB: a minute and more, where 10 ms will do."""
    monkeypatch.setattr(child, "read", lambda fd, count: b"x" * min(count, 1 << 10))
    start = time.monotonic()
    assert len(child.read_code(16 << 20)) == 16 << 20
    assert time.monotonic() - start < 5


@given(text=st.text(max_size=100), limit=st.integers(2, 50))
def test_clip_keeps_whole_characters_of_head_and_tail(text: str, limit: int) -> None:
    clipped, data = clip(text, limit), text.encode()
    if len(data) <= limit:
        assert clipped == text
    else:
        parts = re.fullmatch(r"(.*)\n\.\.\. \[(\d+) bytes left out\] \.\.\.\n(.*)", clipped, re.DOTALL)
        assert parts is not None
        head, left_out, tail = parts.groups()
        assert text.startswith(head)
        assert text.endswith(tail)
        assert limit // 2 - 6 <= len(head.encode()) + len(tail.encode()) == len(data) - int(left_out) <= limit


def test_wipe_empties_deep_and_locked_folders(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(200):
        deep = deep / "d"
        deep.mkdir()
    (deep / "file").write_text("x")
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "file").touch()
    (tmp_path / "locked").chmod(0)
    assert Scratch([str(tmp_path)]).wipe()
    assert list(tmp_path.iterdir()) == []
    assert Path("/proc").exists()


def test_descendants_are_found() -> None:
    with subprocess.Popen(["sleep", "30"]) as process:
        assert process.pid in descendants(os.getpid())
        process.kill()


def test_a_process_whose_first_thread_ended_is_not_dead() -> None:
    assert [Process(1, "Z", 2).dead, Process(1, "Z", 1).dead, Process(1, "T", 1).dead] == [False, True, False]
