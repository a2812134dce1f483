"""The worker as a plain process with resource limits: no wall, but clean state, limits and an end to every call."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from toolenv.errors import SandboxError
from toolenv.sandbox.base import Limits, limits_of
from toolenv.sandbox.client import (
    ENVIRONMENT,
    PACKAGES,
    WARM,
    WorkerSandbox,
    package_folders,
    worker_command,
    worker_settings,
)

PYTHON_OPTIONS = ("-s", "-S", "-P", "-B")
STOP_S = 2.0
SPARE_PROCESSES = 256


class LocalSandbox(WorkerSandbox, ABC):
    """A worker that runs this very Python, on this machine.

    Args:
        limits: What a call may use.
        packages: Installed packages that programs may import, beside the standard library.
        warm: Statements that the worker runs once, at its start.
    """

    kind: ClassVar[str]

    def __init__(
        self, limits: Limits | None = None, packages: Sequence[str] = PACKAGES, warm: Sequence[str] = WARM
    ) -> None:
        self.limits = limits_of(limits)
        self.packages = tuple(packages)
        self.warm = tuple(warm)
        super().__init__(self._launch, f"{self.kind} sandbox")

    @abstractmethod
    def _launch(self) -> PipeTransport:
        """Start a worker."""


class ProcessSandbox(LocalSandbox):
    r"""Programs in children of a plain process.

    It gives each call a fresh state, its own folder, a cleared environment and limits on time, memory, processes and
    output, and ends all that the call started. It does not hide files. A filter of system calls keeps programs from the
    network and from starting others (Linux on x86_64 and aarch64; elsewhere the log says that there is none). Where the
    parent is root, a call runs as a user of its own, without the rights of root. Its arguments are those of
    ``LocalSandbox``.

    Example:
        >>> sandbox = ProcessSandbox()
        >>> sandbox.exec("print(6 * 7)", timeout_s=5).stdout
        '42\n'
        >>> sandbox.close()
    """

    kind = "process"

    def _launch(self) -> PipeTransport:
        tmp = tempfile.mkdtemp(prefix="toolenv-")
        os.chmod(tmp, 0o711)
        uid = fresh_uid()
        settings = worker_settings(
            path=sorted({str(folder.parent) for folder in package_folders(self.packages)}),
            limits=self.limits,
            tmp=tmp,
            uid=uid,
            max_processes=self.limits.max_processes if uid is not None else _room_for_processes(),
            warm=self.warm,
        )
        command = worker_command([sys.executable, *PYTHON_OPTIONS], settings)
        return PipeTransport(command, ENVIRONMENT, folder=Path(tmp))


class PipeTransport:
    """A worker as a child process, with its standard streams as pipes.

    Args:
        command: Program and arguments.
        environment: The whole environment of the process.
        folder: A folder to remove in the end.

    Raises:
        SandboxError: The program could not be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None) -> None:
        self._folder = folder
        try:
            self._process = spawn(command, environment)
        except OSError as error:
            self._remove_folder()
            raise SandboxError(f"cannot start {command[0]}: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._said = ""
        self._hanging_up = threading.Lock()
        os.set_blocking(self._stdin.fileno(), False)
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)

    def send(self, data: bytes, timeout_s: float) -> None:
        """Write all of ``data``; ``OSError`` where the worker is gone, or does not take it in time."""
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._stdin, select.POLLOUT)
        view = memoryview(data)
        while view:
            written = self._stdin.write(view)
            if written is None:  # the pipe is full
                if not poll.poll(max(deadline - time.monotonic(), 0.0) * 1000):
                    raise TimeoutError(f"the worker did not take its request within {timeout_s:g} s")
                continue
            view = view[written:]

    def receive(self, timeout_s: float) -> bytes | None:
        """Some bytes; empty where the worker is gone, ``None`` where none came in time."""
        if not self._poll.poll(max(timeout_s, 0.0) * 1000):
            return None
        return os.read(self._stdout.fileno(), 1 << 16)

    def hang_up(self) -> None:
        """Close the requests, so that the worker ends itself and all that runs."""
        with self._hanging_up, contextlib.suppress(OSError):
            if not self._stdin.closed:
                # Its number stays taken: another thread may be about to write, and must not meet another file there.
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stdin.fileno(), inheritable=False)
                os.close(null)

    def kill(self) -> None:
        """End the worker: first by closing its requests, so that it ends what it started, then by force."""
        if not self._stdout.closed:
            self._close_requests()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            assert self._process.stderr is not None
            os.set_blocking(self._process.stderr.fileno(), False)
            self._said = (self._process.stderr.read() or b"").decode("utf-8", "replace").strip()[-2000:]
            self._process.stderr.close()
            self._stdout.close()
            if self._process.returncode and self._folder is not None:
                _kill_within(self._folder)
            self._remove_folder()

    def disconnect(self) -> None:
        """Close this process's ends alone: in a fork, whose parent goes on with the worker."""
        self._hanging_up = threading.Lock()  # a thread of the parent may have held it
        self._close_requests()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._stdout.close()
        self._process.returncode = 0  # a child of the parent, which alone can wait for it

    def _close_requests(self) -> None:
        with self._hanging_up, contextlib.suppress(OSError):
            self._stdin.close()

    def diagnosis(self) -> str:
        """The end of what the worker wrote to its standard error; empty until it is ended."""
        return self._said

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _kill_within(folder: Path) -> None:
    """Kill what works in a folder: a session stands still where its worker was killed before it could end it."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(folder):
                os.kill(int(process.name), signal.SIGKILL)


_spawner: ThreadPoolExecutor | None = None
_spawner_lock = threading.Lock()


def _forget_spawner_in_fork() -> None:
    global _spawner, _spawner_lock
    _spawner, _spawner_lock = None, threading.Lock()  # the thread is the parent's, as who may have held the lock


os.register_at_fork(after_in_child=_forget_spawner_in_fork)


def spawn(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process from a thread that lives as long as this process.

    A worker asks the kernel to end it with its parent, and to the kernel the parent is a thread: a worker that a
    short-lived thread started would die with that thread.

    Raises:
        OSError: The program cannot be started.
    """
    global _spawner
    with _spawner_lock:
        spawner = _spawner = _spawner or ThreadPoolExecutor(1, thread_name_prefix="toolenv-spawn")

    def start() -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, env=dict(environment), cwd="/",
            start_new_session=True,
        )  # fmt: skip

    return spawner.submit(start).result()


_uid_count = itertools.count()


def fresh_uid() -> int | None:
    """A user id that nobody has, for a worker that root starts; ``None`` where the parent is not root.

    The kernel counts processes by user over all sandboxes, so each worker gets an id of its own.
    """
    if os.geteuid() != 0:
        return None
    uid = 1_000_000 + os.getpid() % 10_000 * 100 + next(_uid_count) % 100
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/uid_map").read_text().splitlines():
            first, _, length = (int(part) for part in line.split())
            if first <= uid < first + length:
                return uid
    return 65534


def _room_for_processes() -> int | None:
    """A process limit for calls that share the parent's user: what runs already, and some."""
    if sys.platform != "linux":
        return None
    running = 0
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and folder.stat().st_uid == os.getuid():
                running += sum(1 for _ in (folder / "task").iterdir())
    return running + SPARE_PROCESSES
