"""A sandbox whose programs share a state."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Self

from toolenv.errors import SandboxUnavailable
from toolenv.sandbox.base import MAX_OUTPUT_BYTES, ExecJob, ExecResult
from toolenv.sandbox.patience import make_fit
from toolenv.sandbox.workers import Workers


class Session:
    """Programs that build on one another: names, imports, folder and files stay from one to the next.

    An error keeps the state. A program that is ended from outside (a timeout, a flood of output, a crash) leaves the
    interpreter as it was before it, and its result says so. Between programs nothing runs. ``SandboxPool.session()``
    makes one. It takes a worker with its first program and gives it back, wiped, with ``close()``.

    Example:
        >>> from toolenv.sandbox import make_sandbox
        >>> pool = make_sandbox("process", workers=1)
        >>> with pool.session() as session:
        ...     _ = session.exec("x = 6", timeout_s=5)
        ...     session.exec("x * 7", timeout_s=5).value
        '42'
        >>> pool.close()
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._worker: Any = None
        self._over = ""
        self._finalizer: weakref.finalize[..., Session] | None = None

    @property
    def closed(self) -> bool:
        """Whether it has ended: by ``close()``, or with its worker."""
        return bool(self._over)

    def exec(
        self, code: str, *, timeout_s: float, max_output_bytes: int = MAX_OUTPUT_BYTES, stdin: str = ""
    ) -> ExecResult:
        """Run a program in the state that the earlier ones have led to; see ``Sandbox.exec``.

        Raises:
            SandboxError: The worker was lost, and the state with it; or the session is closed.
        """
        job = ExecJob(code, timeout_s, max_output_bytes, stdin)
        if os.getpid() != self._owner:
            raise SandboxUnavailable("the session belongs to the process that this one is a fork of; open another")
        with self._lock, self._workers.turn():
            if self._over:
                raise SandboxUnavailable(f"the session {self._over}; open another")
            worker = self._worker or self._taken()
            try:
                with self._workers.watched(worker):
                    result = job.run_by(worker.exec_keeping)
            except BaseException:
                self._let_go("has lost its worker, and what that held")
                raise
            if not getattr(worker, "ready", True):  # something of the program was left, so its worker was ended
                self._let_go("has lost its worker, and what that held")
                self._workers.give_back(worker)
            return result

    def close(self) -> None:
        """End the session and all that it holds."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            worker = self._worker
            self._let_go("is closed")
            if worker is not None:
                self._workers.end_session(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _taken(self) -> Any:
        worker = self._workers.take()
        with self._workers.watched(worker):
            make_fit(worker, try_out=False)
        self._worker = worker
        self._finalizer = weakref.finalize(self, self._workers.left_behind, worker, self._owner)
        self._finalizer.atexit = False
        return worker

    def _let_go(self, why: str) -> None:
        self._worker, self._over = None, self._over or why
        if self._finalizer is not None:
            self._finalizer.detach()
