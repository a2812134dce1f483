"""``check_sandbox`` passes the sandboxes that keep the promises, and catches one that breaks any of them."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import toolenv.checker
from toolenv.errors import ConfigError, SandboxError
from toolenv.sandbox import ExecResult, Sandbox, SandboxPool, check_sandbox
from toolenv.sandbox.bwrap import BwrapSandbox
from toolenv.sandbox.check_isolation import ISOLATION, check_isolation
from toolenv.sandbox.docker import DEFAULT_IMAGE, DockerSandbox, docker_problem
from toolenv.sandbox.process import ProcessSandbox

pytestmark = pytest.mark.core

MARGIN_S = 20.0  # a loaded machine is not a broken sandbox
NAMESPACE = ("unshare", "--fork", "--pid", "--kill-child", "sh", "-c", '"$@"; exit $?', "sh")  # sh is process 1
NO_DOCKER = docker_problem(DEFAULT_IMAGE)


def bare() -> ProcessSandbox:
    """A sandbox that starts at once: without packages."""
    return ProcessSandbox(packages=(), warm=())


def started_or_skip(sandbox: BwrapSandbox | DockerSandbox) -> BwrapSandbox | DockerSandbox:
    try:
        sandbox.start()
    except SandboxError as error:
        pytest.skip(str(error))
    sandbox.close()
    return type(sandbox)(warm=())


class Cold:
    """A user's own sandbox: a new interpreter for each call, in a folder of its own. It shows no values."""

    def __init__(self) -> None:
        self.closed = False

    def exec(self, code: str, *, timeout_s: float, max_output_bytes: int = 64_000, stdin: str = "") -> ExecResult:
        if self.closed:
            raise SandboxError("closed")
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, name) for name in ("main.py", "in", "out", "err")]
            for path, text in zip(paths, (code, stdin, "", ""), strict=True):
                path.write_bytes(text.encode("utf-8", "surrogatepass"))
            Path(folder, "work").mkdir()
            status, exit_code, wall_s = self.run(folder, paths, timeout_s)
            stdout, stderr = (self.cut(path.read_bytes(), max_output_bytes) for path in paths[2:])
        error = {"ok": None, "timeout": f"timed out after {timeout_s:g} s"}.get(status, stderr or status)
        return ExecResult(stdout, stderr, status, exit_code, wall_s, error=error)

    def run(self, folder: str, paths: list[Path], timeout_s: float):
        code, *streams = paths
        started = time.monotonic()
        with streams[0].open("rb") as stdin, streams[1].open("wb") as stdout, streams[2].open("wb") as stderr:
            process = subprocess.Popen(
                [*NAMESPACE, sys.executable, "-I", "-S", "-X", "utf8", code],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=f"{folder}/work",
            )
            try:
                exit_code = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return "timeout", None, time.monotonic() - started
        if exit_code in (-9, 137):
            return "killed", -9, time.monotonic() - started
        return "error" if exit_code else "ok", exit_code, time.monotonic() - started

    def cut(self, data: bytes, limit: int) -> str:
        if len(data) > limit:
            data = data[: limit // 2] + b" ... " + data[-limit // 2 :]
        return data.decode("utf-8", "replace")

    def close(self) -> None:
        self.closed = True


def test_a_plain_process_keeps_the_promises() -> None:
    filtered = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
    walls = {"environment", "network"} if filtered else {"environment"}
    check_sandbox(bare(), isolation=walls, margin_s=MARGIN_S)


def test_a_pool_keeps_the_promises() -> None:
    check_sandbox(SandboxPool(bare, workers=2), margin_s=MARGIN_S)


def test_bubblewrap_keeps_the_promises() -> None:
    check_sandbox(started_or_skip(BwrapSandbox(warm=())), isolation=ISOLATION, margin_s=MARGIN_S)


@pytest.mark.skipif(bool(NO_DOCKER), reason=str(NO_DOCKER))
def test_docker_keeps_the_promises() -> None:
    check_sandbox(started_or_skip(DockerSandbox(warm=())), isolation=ISOLATION, margin_s=MARGIN_S)


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="its pid namespace needs root")
def test_a_sandbox_of_ones_own_keeps_the_promises() -> None:
    check_sandbox(Cold(), value=False, margin_s=MARGIN_S)


def test_it_is_found_in_both_places() -> None:
    assert toolenv.checker.check_sandbox is check_sandbox


# What breaks a promise ----------------------------------------------------------------------------------------------


class Broken:
    """A good sandbox with something done to it."""

    def __init__(self) -> None:
        self.inner = bare()

    def exec(self, code: str, *, timeout_s: float, max_output_bytes: int = 64_000, stdin: str = "") -> ExecResult:
        more = {"stdin": stdin} if stdin else {}
        result = self.inner.exec(code, timeout_s=timeout_s, max_output_bytes=max_output_bytes, **more)
        return self.change(result, code)

    def change(self, result: ExecResult, code: str) -> ExecResult:
        return result

    def close(self) -> None:
        self.inner.close()


def changed(name: str, change: Callable[[ExecResult, str], object]) -> type[Broken]:
    """A sandbox whose results have one field changed."""

    def method(self: Broken, result: ExecResult, code: str) -> ExecResult:
        return dataclasses.replace(result, **{name: change(result, code)})

    return type(name, (Broken,), {"change": method})


class ReturnsText(Broken):
    def change(self, result: ExecResult, code: str) -> ExecResult:
        return result.stdout  # type: ignore[return-value]


class WarningsReplaceOutput(Broken):
    def change(self, result: ExecResult, code: str) -> ExecResult:
        return dataclasses.replace(result, stdout="") if result.stderr else result


class ProgramAsArgument(Broken):
    def exec(self, code: str, **arguments):
        if len(code) > 128 << 10:
            raise OSError("Argument list too long")
        return super().exec(code, **arguments)


class BlamesTheMachine(Broken):
    def change(self, result: ExecResult, code: str) -> ExecResult:
        if result.status == "killed":
            raise SandboxError("lost")
        return result


class KeepsNames(Broken):
    """One that runs all that it ever got before what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.before = ""

    def exec(self, code: str, **arguments):
        if "left = 1" in code:
            self.before = code.replace("print('spoilt')", "")
        return super().exec(self.before + "\n" + code, **arguments)


class KeepsAFile(KeepsNames):
    def exec(self, code: str, **arguments):
        prefix = "open('left', 'w').close()\n" if "'left' in globals()" in code else ""
        return Broken.exec(self, prefix + code, **arguments)


class Late(Broken):
    def change(self, result: ExecResult, code: str) -> ExecResult:
        if result.status == "timeout":
            time.sleep(1.0)
        return result


class Early(Broken):
    def exec(self, code: str, *, timeout_s: float, **arguments):
        return super().exec(code, timeout_s=timeout_s / 4 if timeout_s < 10 else timeout_s, **arguments)


class NoOutputLimit(Broken):
    def exec(self, code: str, *, max_output_bytes: int = 0, **arguments):
        limit = 1 << 20 if "stream.write" in code else max_output_bytes
        return super().exec(code, max_output_bytes=limit, **arguments)


class NoValueLimit(Broken):
    def exec(self, code: str, *, max_output_bytes: int = 0, **arguments):
        return super().exec(code, max_output_bytes=1 << 20, **arguments)


class HeadAlone(Broken):
    def change(self, result: ExecResult, code: str) -> ExecResult:
        return dataclasses.replace(result, stdout=result.stdout.partition(" bytes left out")[0])


class NoNull(Broken):
    def exec(self, code: str, **arguments):
        if "\0" in code:
            raise ValueError("source code string cannot contain null bytes")
        return super().exec(code, **arguments)


class NoSurrogates(Broken):
    def exec(self, code: str, **arguments):
        return super().exec(code.encode("utf-8").decode("utf-8"), **arguments)


class IgnoresInput(Broken):
    def exec(self, code: str, *, stdin: str = "", **arguments):
        return super().exec(code, **arguments)


class LeavesDaemons(Broken):
    """Its daemons belong to nobody; they end by themselves."""

    def exec(self, code: str, **arguments):
        if "os.setsid()" in code:
            mark = code.partition("prctl(15, b'")[2].partition("'")[0]
            daemon = f"import time\nopen('/proc/self/comm', 'w').write('{mark}')\ntime.sleep(5)"
            self.daemon = subprocess.Popen([sys.executable, "-I", "-S", "-c", daemon])
            time.sleep(0.5)
        return super().exec(code, **arguments)

    def close(self) -> None:
        super().close()
        self.daemon.kill()
        self.daemon.wait()


class MixesThreads(Broken):
    """It answers the thread that came first with what it made for the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.barrier = threading.Barrier(2)

    def exec(self, code: str, **arguments):
        if code in {f"print({number})" for number in range(12)}:
            self.latest = code
            self.barrier.wait(10)
            return super().exec(self.latest, **arguments)
        return super().exec(code, **arguments)


class ClosesOnce(Broken):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise ValueError("closed already")
        self.closed = True
        super().close()


class LivesOn(Broken):
    def close(self) -> None:
        pass


BROKEN = {
    "returns text": (ReturnsText, "output: exec returned 'out"),
    "wall time is text": (changed("wall_s", lambda r, _: str(r.wall_s)), "wall_s of the result"),
    "unknown status": (changed("status", lambda r, _: "success"), "the status is 'success'"),
    "error without failure": (changed("error", lambda r, _: r.error or ""), "has an error where"),
    "warnings replace output": (WarningsReplaceOutput, "output: standard output: expected 'out"),
    "streams are one": (changed("stdout", lambda r, _: r.stdout + r.stderr), "output: standard output"),
    "program as argument": (ProgramAsArgument, "output: exec raised OSError"),
    "exit code lost": (
        changed("exit_code", lambda r, _: r.exit_code and 1),
        r"exit code of .*sys.exit\(3\)",
    ),
    "crash is an error": (
        changed("status", lambda r, _: "error" if r.status == "killed" else r.status),
        "status: the status of 'import os; os.kill",
    ),
    "crash is the machine's": (BlamesTheMachine, "status: exec raised SandboxError"),
    "errors say nothing": (changed("error", lambda r, _: r.error and "failed"), "'ZeroDivisionError' in the error"),
    "no value": (changed("value", lambda r, _: None), "value: the value of"),
    "values are printed": (changed("value", lambda r, _: r.value and r.value.strip("'")), "the value of \"'a'\""),
    "keeps names": (KeepsNames, "fresh state: a name of an earlier call"),
    "keeps a file": (KeepsAFile, "fresh state: a file in the working directory"),
    "late": (Late, "timeout: a call with a limit of 1 s took"),
    "early": (Early, "timeout: .* was ended after"),
    "output of a timeout is lost": (
        changed("stdout", lambda r, _: "" if r.status == "timeout" else r.stdout),
        "timeout: the output before the limit",
    ),
    "the limit is not said": (
        changed("error", lambda r, _: "timed out" if r.status == "timeout" else r.error),
        "timeout: '1' in the error",
    ),
    "no output limit": (NoOutputLimit, "output limit: stdout holds"),
    "no limit of values": (NoValueLimit, "value: a value of 5002"),
    "head alone": (HeadAlone, "output limit: stdout ends with its tail"),
    "ASCII": (
        changed("stdout", lambda r, _: r.stdout.encode("ascii", "replace").decode()),
        "(stdin: 300 kB of input|text: odd characters)",
    ),
    "no NUL": (NoNull, "text: exec raised ValueError"),
    "no surrogates": (NoSurrogates, "text: exec raised UnicodeEncodeError"),
    "ignores input": (IgnoresInput, "stdin: 300 kB of input"),
    "leaves daemons": (LeavesDaemons, "descendants: "),
    "mixes threads": (MixesThreads, "threads: the answer to one of four threads"),
    "closes once": (ClosesOnce, r"close: the second close\(\) raised"),
    "lives on": (LivesOn, r"close: a call after close\(\) gave"),
}


@pytest.fixture
def broken(request: pytest.FixtureRequest) -> Iterator[Broken]:
    made = request.param()
    yield made
    made.inner.close()


@pytest.mark.parametrize(("broken", "message"), BROKEN.values(), ids=list(BROKEN), indirect=["broken"])
def test_a_broken_promise_is_found(broken: Broken, message: str) -> None:
    margin_s = 0.7 if isinstance(broken, Late) else MARGIN_S
    with pytest.raises(AssertionError, match=f"check_sandbox: .*{message}"):
        check_sandbox(broken, margin_s=margin_s)


def test_optional_promises_are_not_asked_for() -> None:
    class Lesser(IgnoresInput, LivesOn):
        def change(self, result: ExecResult, code: str) -> ExecResult:
            return dataclasses.replace(result, value=None)

    sandbox = Lesser()
    check_sandbox(sandbox, value=False, stdin=False, close=False, margin_s=MARGIN_S)
    sandbox.inner.close()


def test_what_is_no_sandbox_is_said_at_once() -> None:
    with pytest.raises(AssertionError, match="methods exec and close"):
        check_sandbox("docker")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"'disk'; choose from environment, files, network, processes"):
        check_sandbox(bare(), isolation={"disk"})


# Isolation ----------------------------------------------------------------------------------------------------------


class Nowhere:
    """No isolation at all: the program runs in this very process. For the checks alone, which are harmless."""

    def exec(self, code: str, *, timeout_s: float = 0, max_output_bytes: int = 0) -> ExecResult:
        printed: list[str] = []
        try:
            exec(code, {"print": lambda text: printed.append(f"{text}\n")})
        except Exception as error:
            return ExecResult("", "", "error", 1, 0.0, error=str(error))
        return ExecResult("".join(printed), "", "ok", 0, 0.0)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("environment", "TOOLENV_CHECK_SECRET"),
        ("files", "a file of this machine"),
        ("network", "connected to"),
        ("processes", "which is this one"),
    ],
)
def test_a_missing_wall_is_found(kind: str, message: str) -> None:
    if kind == "processes" and sys.platform != "linux":
        pytest.skip("other systems have no /proc")
    sandbox: Sandbox = Nowhere()
    with pytest.raises(AssertionError, match=f"check_sandbox: {kind}: .*{message}"):
        check_isolation(lambda code: sandbox.exec(code, timeout_s=1), {kind})
    assert "TOOLENV_CHECK_SECRET" not in os.environ


def test_a_secret_of_this_process_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "s3cret")

    def leak(code: str) -> ExecResult:
        return ExecResult('{"MY_API_KEY": "s3cret", "PATH": "/bin"}\n', "", "ok", 0, 0.0)

    with pytest.raises(AssertionError, match="sees MY_API_KEY of this process"):
        check_isolation(leak, {"environment"})


def test_isolation_holds_where_nothing_is_found() -> None:
    def walled(code: str) -> ExecResult:
        return ExecResult("{}" if "json" in code else "False\n", "", "ok", 0, 0.0)

    check_isolation(walled, ISOLATION)
    with pytest.raises(AssertionError, match="the program that looks for it failed"):
        check_isolation(lambda _: ExecResult("", "", "killed", -9, 0.0, error="killed"), {"files"})
