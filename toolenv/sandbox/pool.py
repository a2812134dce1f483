"""A pool of sandboxes that works through lists of programs."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from toolenv.errors import ConfigError, SandboxError
from toolenv.sandbox.arguments import whole
from toolenv.sandbox.base import MAX_OUTPUT_BYTES, ExecJob, ExecResult, Sandbox
from toolenv.sandbox.patience import make_fit, patiently
from toolenv.sandbox.session import Session
from toolenv.sandbox.workers import Workers

Item = TypeVar("Item")
Value = TypeVar("Value")


class SandboxPool:
    r"""Several sandboxes that share a list of work; one call at a time each.

    A worker is lent for a call. One that is lost is replaced in the background, and its call is tried on another (see
    ``patiently``), so nobody need try again what a pool has run. The time that a call waits for a worker is no part of
    its ``timeout_s``. Workers start with the first calls, or with ``start()``.

    A pool is itself a sandbox. Threads may share it, a fork gets workers of its own, a copy of it is the pool, and what
    it is unpickled to is a new pool of the same factory.

    Args:
        factory: Makes a sandbox. Where that has a property ``ready`` and a method ``start()``, as the bundled ones do,
            one that has to be started again is so in the background.
        workers: How many calls run at once; about one a core, since more only wait for one another.
        kind: What the sandboxes are, in a word.
        made: Sandboxes of the factory that are there already.

    Raises:
        ConfigError: ``workers`` is no whole number of at least 1.

    Example:
        >>> from toolenv.sandbox.process import ProcessSandbox
        >>> pool = SandboxPool(ProcessSandbox, workers=1, kind="process")
        >>> [result.stdout for result in pool.run([ExecJob("print(1)"), ExecJob("print(2)")])]
        ['1\n', '2\n']
        >>> pool
        SandboxPool('process', workers=1)
        >>> pool.close()
    """

    def __init__(
        self,
        factory: Callable[[], Sandbox],
        workers: int = 2,
        *,
        kind: str = "sandbox",
        made: Sequence[Sandbox] = (),
    ) -> None:
        self.factory = factory
        self.workers = whole("workers", workers, like="2")
        self.kind = kind
        self._open(made)
        _pools.add(self)

    def start(self) -> None:
        """Start all workers now, side by side, so that no call need wait for one.

        Raises:
            SandboxError: One cannot be started, or the pool is closed.
        """
        self._crew.start()

    def run(self, jobs: Sequence[ExecJob]) -> list[ExecResult | SandboxError]:
        """Run programs, as many at once as there are workers.

        Returns:
            One entry a job, in order; a ``SandboxError`` where it could not be run for no fault of the code.

        Raises:
            SandboxError: The pool is closed.
        """
        return self.map(self._run_one, jobs)

    def exec(
        self, code: str, *, timeout_s: float, max_output_bytes: int = MAX_OUTPUT_BYTES, stdin: str = ""
    ) -> ExecResult:
        """Run one program; see ``Sandbox.exec``."""
        result = self.run([ExecJob(code, timeout_s, max_output_bytes, stdin)])[0]
        if isinstance(result, SandboxError):
            raise result
        return result

    def session(self) -> Session:
        """A sandbox whose programs share names, imports and files; close it when they have been run.

        It has a worker for itself from its first program on. So there may be more workers than ``workers``, and they
        are kept for further sessions; but no more calls than ``workers`` run at once.

        Raises:
            ConfigError: The pool's sandboxes keep no state.
            SandboxError: The pool is closed.
        """
        self._crew.check_open()
        if not self._crew.keep_state():
            raise ConfigError(f"{self!r} has no sessions: its sandboxes have no method exec_keeping")
        return Session(self._crew)

    def map(self, function: Callable[[Item], Value], items: Sequence[Item]) -> list[Value]:
        """``function`` of each item, as many at once as there are workers.

        After Ctrl-C or an error none is begun any more, and the programs that run are ended.

        Raises:
            SandboxError: The pool is closed.
        """
        self._crew.check_open()
        if len(items) < 2:
            return [function(item) for item in items]
        stopped = threading.Event()

        def begin(item: Item) -> Value:
            with self._crew.stoppable(stopped):
                return function(item)

        try:
            futures = [self._submit(begin, item) for item in items]
            return [future.result() for future in futures]
        except BaseException:
            self._crew.stop(stopped)
            raise

    def close(self, *, now: bool = False) -> None:
        """Close every sandbox, when the calls that run have ended; those that wait are not begun.

        Args:
            now: Whether to end the calls that run, too.
        """
        self._crew.close(now=now)
        self._threads.shutdown()

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._crew.closed

    def __len__(self) -> int:
        return self.workers

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"SandboxPool({self.kind!r}, workers={self.workers}{state})"

    def __copy__(self) -> SandboxPool:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SandboxPool:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), kind=self.kind), (self.factory, self.workers)

    def _open(self, made: Sequence[Sandbox] = ()) -> None:
        self._crew = Workers(self.factory, self.workers, made)
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="toolenv-sandbox")

    def _open_in_fork(self) -> None:
        """Begin anew: workers and threads are the parent's, and one of its threads may have held a lock."""
        closed = self.closed
        self._open()
        self._crew.closed = closed

    def _submit(self, function: Callable[[Item], Value], item: Item) -> Future[Value]:
        try:
            return self._threads.submit(function, item)
        except RuntimeError:
            self._crew.check_open()  # closed in the meantime
            raise

    def _run_one(self, job: ExecJob) -> ExecResult | SandboxError:
        def attempt(try_out: bool) -> ExecResult:
            with self._crew.lent() as worker:
                make_fit(worker, try_out=try_out)
                return job.run_by(worker.exec)

        return patiently(attempt)


_pools: weakref.WeakSet[SandboxPool] = weakref.WeakSet()


def _open_pools_in_fork() -> None:
    for pool in list(_pools):
        pool._open_in_fork()


os.register_at_fork(after_in_child=_open_pools_in_fork)


def run_jobs(sandbox: Sandbox, jobs: Sequence[ExecJob]) -> list[ExecResult | SandboxError]:
    """Run programs in whatever sandbox: all at once where it has ``run``, as a pool has, else one after the other.

    One that has ``run`` also tries again what was lost, and any other one does not.
    """
    run: Callable[[Sequence[ExecJob]], list[ExecResult | SandboxError]] | None = getattr(sandbox, "run", None)
    if run is not None:
        return run(jobs)
    results: list[ExecResult | SandboxError] = []
    for job in jobs:
        try:
            results.append(job.run_by(sandbox.exec))
        except SandboxError as error:
            results.append(error)
    return results
