"""A pool of sandboxes that works through lists of programs, and the choice of a sandbox by name."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from toolenv.errors import ConfigError, SandboxError
from toolenv.sandbox.base import MAX_OUTPUT_BYTES, ExecJob, ExecResult, Limits, Sandbox
from toolenv.sandbox.bwrap import BwrapSandbox
from toolenv.sandbox.docker import DEFAULT_IMAGE, DockerSandbox, docker_problem
from toolenv.sandbox.process import ProcessSandbox

logger = logging.getLogger("toolenv.sandbox")

KINDS = ("auto", "docker", "bwrap", "process")

# What each kind does not protect against, as ``auto`` says it.
GAPS = {
    "docker": "the kernel is shared with the host, so a kernel bug is a way out",
    "bwrap": "the kernel is shared with the host, and memory is limited by process, not as a whole",
    "process": "programs can use the network and whatever files and processes their user can; "
    "install bubblewrap or Docker before you run code that you do not trust",
}


class SandboxPool:
    r"""Several sandboxes that share a list of work; one call at a time each.

    A sandbox that was lost is closed and replaced. A pool is itself a sandbox. Copying it gives the pool itself.

    Args:
        factory: Makes a sandbox.
        workers: How many; about one a core, since more only wait for one another.

    Raises:
        ConfigError: Fewer than one worker.

    Example:
        >>> pool = SandboxPool(ProcessSandbox, workers=1)
        >>> [result.stdout for result in pool.run([ExecJob("print(1)"), ExecJob("print(2)")])]
        ['1\n', '2\n']
        >>> pool.close()
    """

    def __init__(self, factory: Callable[[], Sandbox], workers: int = 2) -> None:
        if workers < 1:
            raise ConfigError(f"workers must be at least 1, not {workers!r}")
        self.factory = factory
        self.workers = workers
        self._lock = threading.Lock()
        self._closed = False
        self._open()

    def run(self, jobs: Sequence[ExecJob]) -> list[ExecResult | SandboxError]:
        """Run programs, as many at once as there are workers.

        Returns:
            One entry a job, in order; a ``SandboxError`` where a worker was lost for no fault of the code.

        Raises:
            SandboxError: The pool is closed.
        """
        with self._lock:
            if self._owner != os.getpid():  # in a fork: the workers belong to the parent
                self._open()
            if self._closed:
                raise SandboxError("the sandbox pool is closed")
        if len(jobs) == 1:
            return [self._run_one(jobs[0])]
        return list(self._threads.map(self._run_one, jobs))

    def exec(self, code: str, *, timeout_s: float, max_output_bytes: int = MAX_OUTPUT_BYTES) -> ExecResult:
        """Run one program; see ``Sandbox.exec``."""
        result = self.run([ExecJob(code, timeout_s, max_output_bytes)])[0]
        if isinstance(result, SandboxError):
            raise result
        return result

    def close(self) -> None:
        """Close every sandbox, each when its call has ended."""
        with self._lock:
            if self._closed or self._owner != os.getpid():
                return
            self._closed = True
        self._threads.shutdown(wait=True)
        for _ in range(self.workers):
            self._idle.get().close()

    def __deepcopy__(self, memo: dict[int, Any]) -> SandboxPool:
        return self

    def _open(self) -> None:
        self._owner = os.getpid()
        self._idle: queue.LifoQueue[Sandbox] = queue.LifoQueue()
        for sandbox in reversed([self.factory() for _ in range(self.workers)]):
            self._idle.put(sandbox)
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="toolenv-sandbox")

    def _run_one(self, job: ExecJob) -> ExecResult | SandboxError:
        sandbox = self._idle.get()
        try:
            return sandbox.exec(job.code, timeout_s=job.timeout_s, max_output_bytes=job.max_output_bytes)
        except SandboxError as error:
            sandbox.close()
            sandbox = self.factory()
            return error
        finally:
            self._idle.put(sandbox)


def make_sandbox(
    kind: str = "auto", *, workers: int = 2, limits: Limits | None = None, image: str = DEFAULT_IMAGE
) -> SandboxPool:
    """A pool of sandboxes by name.

    Args:
        kind: ``"docker"``, ``"bwrap"``, ``"process"``, or ``"auto"``: the first of these that works here, with one
            line in the log ``toolenv.sandbox`` that says which it is and what it does not protect against.
        workers: How many programs run at once.
        limits: What a program may use.
        image: Docker image.

    Raises:
        ConfigError: Another name.
        SandboxError: ``kind`` does not work here.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown sandbox {kind!r}; choose one of {', '.join(KINDS)}, or pass a sandbox object")
    if kind == "docker" and (problem := docker_problem(image)):
        raise SandboxError(problem)
    factories: dict[str, Callable[[], Sandbox]] = {
        "docker": lambda: DockerSandbox(limits, image=image),
        "bwrap": lambda: BwrapSandbox(limits),
        "process": lambda: ProcessSandbox(limits),
    }
    started: list[Sandbox] = []
    if kind == "auto":
        kind, trial, refused = _first_that_works(factories, image)
        started.append(trial)
        logger.warning("sandbox: %s; %s. %s", kind, GAPS[kind], " ".join(refused))
    return SandboxPool(lambda: started.pop() if started else factories[kind](), workers)


def _first_that_works(factories: dict[str, Callable[[], Sandbox]], image: str) -> tuple[str, Sandbox, list[str]]:
    refused: list[str] = []
    for kind, factory in factories.items():
        problem = docker_problem(image) if kind == "docker" else None
        if problem is None:
            sandbox = factory()
            problem = _trial(sandbox)
            if problem is None:
                return kind, sandbox, refused
            sandbox.close()
        refused.append(f"Not {kind}: {problem}.")
    raise SandboxError(f"no sandbox works here. {' '.join(refused)}")


def _trial(sandbox: Sandbox) -> str | None:
    """Why a sandbox does not work here, ``None`` where it does."""
    try:
        result = sandbox.exec("print(1)", timeout_s=10.0)
    except SandboxError as error:
        return str(error)
    return None if result.stdout == "1\n" else f"its first program gave {result}"


_shared: dict[tuple[Any, ...], SandboxPool] = {}
_shared_lock = threading.Lock()


def shared_sandbox(kind: str = "auto", *, workers: int = 2) -> SandboxPool:
    """The pool of this kind and size that all environments of this process share; made on first use.

    Raises:
        ConfigError: No such kind.
        SandboxError: That kind does not work here.
    """
    with _shared_lock:
        key = (kind, workers)
        if key not in _shared:
            _shared[key] = make_sandbox(kind, workers=workers)
        return _shared[key]


def run_jobs(sandbox: Sandbox, jobs: Sequence[ExecJob]) -> list[ExecResult | SandboxError]:
    """Run programs in a pool all at once, in a single sandbox one after the other."""
    if isinstance(sandbox, SandboxPool):
        return sandbox.run(jobs)
    results: list[ExecResult | SandboxError] = []
    for job in jobs:
        try:
            results.append(sandbox.exec(job.code, timeout_s=job.timeout_s, max_output_bytes=job.max_output_bytes))
        except SandboxError as error:
            results.append(error)
    return results
