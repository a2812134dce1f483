"""The host's side of the worker: start it, ask it, and replace it where it is hurt."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolenv.errors import SandboxError
from toolenv.sandbox.answer import result_of
from toolenv.sandbox.base import MAX_OUTPUT_BYTES, ExecJob, ExecResult, Limits
from toolenv.sandbox.transport import Owner, Transport
from toolenv.sandbox.worker.messages import header
from toolenv.sandbox.worker.streams import FLOOD_BYTES

logger = logging.getLogger("toolenv.sandbox")

WORKER = Path(__file__).with_name("worker")
START_S = 60.0
GRACE_S = 6.0
# What a program does not read waits here, until it is ended.
SEND_GRACE_S = 30.0
# A program that writes more than a flood is ended, so the worker need not have room for more.
MOST_OUTPUT_BYTES = 2 * FLOOD_BYTES

PACKAGES = ("numpy", "sympy", "mpmath")

# Run once in the worker, so that no call pays for an import or for SymPy's first use of a module.
WARM = (
    "import bisect, cmath, collections, decimal, fractions, functools, heapq, itertools, math, re, statistics, string",
    "import numpy, numpy.fft, numpy.linalg, numpy.random; numpy.linalg.inv(numpy.eye(2))",
    "import sympy; from sympy.abc import x, y; sympy.solve([x + y - 3, x - y - 1], [x, y]); sympy.solve(x**2 - 2, x)",
    "import sympy; from sympy.abc import x; sympy.integrate(x * sympy.exp(x), (x, 0, 1)); sympy.diff(sympy.sin(x), x)",
    "import sympy; from sympy.abc import x; sympy.simplify(sympy.expand((x + 1)**2) / (x + 1)); sympy.factor(x**2 - 1)",
    "import sympy; sympy.factorint(360); sympy.Matrix([[1, 2], [3, 4]]).det(); sympy.latex(sympy.sympify('sqrt(2)/2'))",
)

# The whole environment of a worker: nothing of the parent's gets in.
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/tmp",
    "USER": "sandbox",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def worker_settings(
    *,
    path: Sequence[str],
    limits: Limits,
    tmp: str,
    uid: int | None,
    max_processes: int | None,
    max_files: int | None = None,
    warm: Sequence[str] = WARM,
) -> str:
    """The JSON argument of the worker; see ``worker/messages.py``."""
    settings = {
        "path": list(path),
        "warm": list(warm),
        "memory_bytes": limits.memory_bytes,
        "max_processes": max_processes,
        "max_file_bytes": limits.max_file_bytes,
        "max_files": max_files,
        "uid": uid,
        "tmp": tmp,
    }
    return json.dumps(settings)


def worker_command(python: Sequence[str], settings: str) -> list[str]:
    """Program and arguments of a worker, with all of its sources: it need not find a file of this package.

    Each source is an argument of its own, since the kernel limits one to 128 KiB.

    Args:
        python: The interpreter and its options.
        settings: See ``worker_settings``.
    """
    sources = {file.stem: file.read_text(encoding="utf-8") for file in sorted(WORKER.glob("*.py"))}
    del sources["__init__"]
    files = [part for name, text in sources.items() if name != "boot" for part in (name, text)]
    return [*python, "-c", sources["boot"], settings, *files]


def package_folders(packages: Sequence[str]) -> list[Path]:
    """Folders of those packages that are installed, and of the libraries that their wheels carry."""
    folders = []
    for name in packages:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            folder = Path(next(iter(spec.submodule_search_locations)))
            folders += [f for f in (folder, folder.with_name(f"{name}.libs")) if f.is_dir()]
    return folders


class WorkerSandbox:
    """A sandbox whose programs run in children of one warm worker.

    The worker starts with the first call. A call that finds it lost, or that it does not answer in time, raises
    ``SandboxError``; the next call starts a new one. Calls wait for one another.

    Args:
        start: Starts a worker.
        name: What the sandbox is called in errors.
    """

    def __init__(self, start: Callable[[], Transport], name: str) -> None:
        self.name = name
        self._start = start
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._owner = Owner(self, WorkerSandbox._leave_to_parent)
        self._count = 0
        self._has_sessions = False
        self._in_session = False
        self._closed = False

    def exec(
        self, code: str, *, timeout_s: float, max_output_bytes: int = MAX_OUTPUT_BYTES, stdin: str = ""
    ) -> ExecResult:
        """Run a program in a fresh state.

        Args:
            code: Python source: any text at all.
            timeout_s: Wall-clock limit, in seconds.
            max_output_bytes: Most that is kept of each stream.
            stdin: What the program reads from its standard input.

        Raises:
            ConfigError: Arguments that make no sense, see ``ExecJob``.
            SandboxError: The worker could not be started, or was lost.
        """
        job = ExecJob(code, timeout_s, max_output_bytes, stdin)
        with self._lock:
            if self._in_session:
                raise SandboxError(f"{self.name}: a session is open; use exec_keeping, or call end_session() first")
            return self._call(job, keep=False)

    def exec_keeping(
        self, code: str, *, timeout_s: float, max_output_bytes: int = MAX_OUTPUT_BYTES, stdin: str = ""
    ) -> ExecResult:
        """Run a program in a session: it finds what the last one left, until ``end_session``.

        Names, imports, the working directory and files stay; processes and threads do not. An error keeps what was done
        before it. After a timeout, or where the program was killed, all but the files is as it was before the program,
        and ``error`` says so.

        Args:
            code: Python source: any text at all.
            timeout_s: Wall-clock limit, in seconds.
            max_output_bytes: Most that is kept of each stream.
            stdin: What the program reads from its standard input.

        Raises:
            ConfigError: Arguments that make no sense, see ``ExecJob``.
            SandboxError: The worker could not be started, or was lost, and the session with it.
        """
        job = ExecJob(code, timeout_s, max_output_bytes, stdin)
        with self._lock:
            self._started()
            if not self._has_sessions:
                raise SandboxError(f"{self.name}: sessions need a worker on Linux; use a fresh state, or Docker")
            result = self._call(job, keep=True)
            self._in_session = self._transport is not None
            if self._in_session:
                return result
            return replace(result, status="killed", error=f"{result.error or 'killed'}; the session is lost")

    def end_session(self) -> None:
        """End the session: all of it is killed, its files are removed. Without one, nothing happens."""
        with self._lock:
            if self._in_session:
                self._in_session = False
                with contextlib.suppress(SandboxError):  # then it has ended with its worker
                    self._ask({"end": True}, b"", timeout_s=0.0)

    @property
    def ready(self) -> bool:
        """Whether the next call finds a worker that is started."""
        return self._transport is not None

    def start(self) -> None:
        """Start the worker now, so that the first call need not wait for it.

        Raises:
            SandboxError: It could not be started.
        """
        with self._lock:
            self._started()

    def interrupt(self) -> None:
        """End the worker from another thread: the call that runs in it raises ``SandboxError``."""
        transport = self._transport
        if transport is not None:
            transport.hang_up()

    def close(self) -> None:
        """End the worker and all that runs in it."""
        with self._lock:
            self._closed = True
            self._stop()

    def __deepcopy__(self, memo: dict[int, Any]) -> WorkerSandbox:
        return self

    def _call(self, job: ExecJob, *, keep: bool) -> ExecResult:
        parts = [text.encode("utf-8", "surrogatepass") for text in (job.code, job.stdin)]
        most = min(job.max_output_bytes, MOST_OUTPUT_BYTES)
        request: dict[str, Any] = {"timeout_s": job.timeout_s, "max_output_bytes": most, "keep": keep}
        request |= {"code_bytes": len(parts[0]), "stdin_bytes": len(parts[1])}
        return result_of(*self._ask(request, b"".join(parts), job.timeout_s))

    def _ask(self, request: Mapping[str, Any], payload: bytes, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        """Send a request to the worker, and wait for its answer, at most so long and some more."""
        transport = self._started()
        self._count += 1
        try:
            transport.send(header({"id": self._count, **request}) + payload, timeout_s + SEND_GRACE_S)
            answer, data = self._receive(transport, timeout_s + GRACE_S)
            if answer.get("id") != self._count:
                raise SandboxError("the worker answered another request than the one it got")
        except (SandboxError, OSError) as error:
            self._stop()
            raise SandboxError(f"{self.name}: {error}") from error
        except BaseException:  # interrupted: the answer is still to come, and must not be the next one's
            self._stop()
            raise
        if not answer["clean"]:  # something of the call is left, so the next one gets a new worker
            self._stop()
        return answer, data

    def _started(self) -> Transport:
        if self._closed:
            raise SandboxError(f"{self.name}: the sandbox is closed")
        if self._transport is None:
            try:
                transport = self._transport = self._start()
                self._owner.holds(transport)
                answer, _ = self._receive(transport, START_S)
                if not answer.get("ready"):
                    raise SandboxError(f"the worker's first program failed: {answer.get('problem')}")
                self._has_sessions = answer["sessions"]
                if answer["unfiltered"]:
                    logger.warning("%s: system calls are not filtered: %s", self.name, answer["unfiltered"])
                for problem in answer["cold"]:
                    logger.warning("%s: not warmed up: %s", self.name, problem)
            except (SandboxError, OSError) as error:
                self._stop()
                raise SandboxError(f"{self.name}: the worker did not start: {error}") from error
            except BaseException:
                self._stop()
                raise
        return self._transport

    def _receive(self, transport: Transport, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        """A line of JSON, and the bytes that it says follow it."""
        deadline = time.monotonic() + timeout_s
        buffer = b""
        answer: dict[str, Any] | None = None
        needed = 0
        while answer is None or len(buffer) < needed:
            data = transport.receive(deadline - time.monotonic())
            if data is None:
                raise SandboxError(f"no answer within {timeout_s:g} s")
            if not data:
                transport.kill()
                raise SandboxError(f"the worker is gone; it said: {transport.diagnosis() or 'nothing'}")
            buffer += data
            if answer is None and b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                try:
                    answer = json.loads(line)
                except ValueError as error:
                    raise SandboxError(f"the worker's answer is none: {line[:200]!r}") from error
                if not isinstance(answer, dict):
                    raise SandboxError(f"the worker's answer is none: {line[:200]!r}")
                needed = sum(kept for kept, *_ in answer.get("streams", ()))
        return answer, buffer

    def _stop(self) -> None:
        transport, self._transport = self._transport, None
        self._in_session = False
        if transport is not None:
            self._owner.holds(None)
            transport.kill()

    def _leave_to_parent(self) -> None:
        """Begin anew in a fork, whose parent has the worker; one of the parent's threads may have held the lock."""
        self._lock = threading.Lock()
        transport, self._transport = self._transport, None
        self._in_session = False
        if transport is not None:
            self._owner.holds(None)
            transport.disconnect()
