"""The workers of a pool: who is free, who runs, and who is being replaced in the background."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextvars import ContextVar
from functools import partial

from toolenv.errors import SandboxError, SandboxUnavailable
from toolenv.sandbox.base import Sandbox
from toolenv.sandbox.patience import make_fit

logger = logging.getLogger("toolenv.sandbox")


class Workers:
    """Sandboxes that are lent, one borrower at a time each.

    A call takes a turn, of which there are ``limit`` at once, and then a worker. There are no more workers than turns,
    but for those that sessions keep between their calls.

    Args:
        factory: Makes a sandbox.
        limit: How many calls run at once.
        made: Those that are there already.
    """

    def __init__(self, factory: Callable[[], Sandbox], limit: int, made: Sequence[Sandbox] = ()) -> None:
        self.factory = factory
        self.limit = limit
        self.closed = False
        self.running = 0
        self._renewing = 0
        self._idle = list(made)  # the last one ran last
        self._made = {id(worker): worker for worker in made}
        self._lent: dict[int, tuple[Sandbox, threading.Event | None]] = {}  # by thread, with what may stop it
        self._left: deque[Sandbox] = deque()
        self._changed = threading.Condition()  # guards all of these but the deque

    def __len__(self) -> int:
        return len(self._made)

    def start(self) -> None:
        """Start as many as there are turns, side by side.

        Raises:
            SandboxError: One cannot be started.
        """
        with self._changed:
            self.check_open()
            missing = max(self.limit - len(self._made), 0)
            idle, self._idle = self._idle, []
            self._renewing += len(idle) + missing
        fits = [partial(self._fit, worker) for worker in idle] + [self._make_fit] * missing
        problems: list[SandboxError] = []
        for thread in [self._renewal(fit, problems.append) for fit in fits]:
            if thread is not None:
                thread.join()
        if problems:
            raise problems[0]

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and have it.

        Raises:
            SandboxError: The pool is closed.
            CancelledError: The work was stopped.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.closed or _is_stopped() or self.running < self.limit)
            self.check_open()
            _check_going()
            self.running += 1
        try:
            yield
        finally:
            with self._changed:
                self.running -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def lent(self) -> Iterator[Sandbox]:
        """A turn and a worker for one call.

        Raises:
            SandboxError: The pool is closed.
        """
        with self.turn():
            worker = self.take()
            with self.watched(worker):
                yield worker
            self.give_back(worker)

    @contextlib.contextmanager
    def watched(self, worker: Sandbox) -> Iterator[None]:
        """Replace a worker that is lost; close it where its call is interrupted, since its answer is still to come.

        A call that ends while it is interrupted is so, too: its worker may have been hung up.

        Raises:
            SandboxError: The pool is closed.
            CancelledError: The work was stopped.
        """
        thread = threading.get_ident()
        try:
            with self._changed:
                self.check_open()
                _check_going()
                self._lent[thread] = worker, _stopped.get()
            yield
            with self._changed:
                self._lent.pop(thread)
                _check_going()
        except SandboxError:
            self._in_background(partial(self._replaced, worker))
            raise
        except BaseException:
            self._in_background(partial(self._close, worker))
            raise
        finally:
            with self._changed:
                self._lent.pop(thread, None)

    @contextlib.contextmanager
    def stoppable(self, stopped: threading.Event) -> Iterator[None]:
        """What this thread does inside can be stopped by ``stop``."""
        token = _stopped.set(stopped)
        try:
            _check_going()
            yield
        finally:
            _stopped.reset(token)

    def stop(self, stopped: threading.Event) -> None:
        """Give this work no turn any more, and interrupt its calls, where the sandboxes can be interrupted."""
        with self._changed:
            stopped.set()
            _interrupt([worker for worker, event in self._lent.values() if event is stopped])
            self._changed.notify_all()

    def take(self) -> Sandbox:
        """A free worker, to whoever has a turn; a new one where there is none, and none is about to be.

        Raises:
            SandboxError: The pool is closed.
        """
        with contextlib.suppress(IndexError):
            while True:
                self.end_session(self._left.popleft())
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._idle or not self._renewing)
            self.check_open()
            if self._idle:
                return self._idle.pop()
        return self._make()

    def give_back(self, worker: Sandbox) -> None:
        """Take a worker back; one that has to be started again is so in the background."""
        if getattr(worker, "ready", True):
            with self._changed:
                self._idle.append(worker)
                self._changed.notify_all()
        else:
            self._in_background(partial(self._fit, worker))

    def end_session(self, worker: Sandbox) -> None:
        """Take back a worker that a session kept; what it holds is wiped in the background."""
        if not self.closed:
            self._in_background(partial(self._wiped, worker))

    def left_behind(self, worker: Sandbox, owner: int) -> None:
        """Note the worker of a session that nobody closed; garbage collection may call this anywhere: no lock."""
        if owner == os.getpid():
            self._left.append(worker)

    def keep_state(self) -> bool:
        """Whether the workers can hold a session."""
        with self._changed:
            known = next(iter(self._made.values()), None)
        if known is None:
            known = self._make()
            with self._changed:
                self._idle.append(known)
        return hasattr(known, "exec_keeping")

    def check_open(self) -> None:
        """Refuse what comes after the end.

        Raises:
            SandboxError: The pool is closed.
        """
        if self.closed:
            raise SandboxUnavailable("the sandbox pool is closed")

    def close(self, *, now: bool) -> None:
        """Close all workers, when the calls that run have ended; who waits for a turn gets none.

        Args:
            now: Whether to interrupt the calls that run.
        """
        with self._changed:
            self.closed = True
            self._changed.notify_all()
            if now:
                _interrupt([worker for worker, _ in self._lent.values()])
            self._changed.wait_for(lambda: not self.running and not self._renewing)
            self._idle.clear()
            made, self._made = self._made, {}
        for worker in made.values():
            worker.close()

    # In the background ---------------------------------------------------------------------------------------------

    def _in_background(self, renew: Callable[[], Sandbox | None]) -> None:
        with self._changed:
            self._renewing += 1
        self._renewal(renew, _log)

    def _renewal(
        self, renew: Callable[[], Sandbox | None], report: Callable[[SandboxError], None]
    ) -> threading.Thread | None:
        """Renew a worker in a thread, where one can be had, else at once; it is counted already."""
        thread = threading.Thread(target=self._renew, args=(renew, report), name="toolenv-sandbox-renewal")
        try:
            thread.start()
        except RuntimeError:  # at the end of the interpreter, or at a limit
            self._renew(renew, report)
            return None
        return thread

    def _renew(self, renew: Callable[[], Sandbox | None], report: Callable[[SandboxError], None]) -> None:
        """Get a worker ready; where that fails, there is one less, until a call makes another."""
        worker = None
        try:
            worker = renew()
        except SandboxError as error:
            report(error)
        finally:
            with self._changed:
                self._renewing -= 1
                if worker is not None:
                    self._idle.append(worker)
                self._changed.notify_all()

    def _replaced(self, worker: Sandbox) -> Sandbox | None:
        self._close(worker)
        return None if self.closed else self._make_fit()

    def _wiped(self, worker: Sandbox) -> Sandbox | None:
        """A worker without its session."""
        try:
            worker.end_session()  # type: ignore[attr-defined]
        except SandboxError as error:
            _log(error)
            return self._replaced(worker)
        return self._fit(worker)

    def _make_fit(self) -> Sandbox:
        return self._fit(self._make())

    def _fit(self, worker: Sandbox) -> Sandbox:
        try:
            make_fit(worker, try_out=False)
        except SandboxError:
            self._close(worker)
            raise
        return worker

    def _make(self) -> Sandbox:
        worker = self.factory()
        with self._changed:
            self._made[id(worker)] = worker
        return worker

    def _close(self, worker: Sandbox) -> None:
        with self._changed:
            self._made.pop(id(worker), None)
        worker.close()


_stopped: ContextVar[threading.Event | None] = ContextVar("stopped", default=None)


def _is_stopped() -> bool:
    stopped = _stopped.get()
    return stopped is not None and stopped.is_set()


def _check_going() -> None:
    if _is_stopped():
        raise CancelledError


def _interrupt(workers: Sequence[Sandbox]) -> None:
    """End the calls of these: while the lock is held, so that none of them has gone on to another call."""
    for worker in workers:
        if hasattr(worker, "interrupt"):
            worker.interrupt()


def _log(error: SandboxError) -> None:
    logger.warning("a sandbox worker was not replaced: %s", error)
