"""The choice of a sandbox by its name, and the pools that the environments of a process share."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial

from toolenv.errors import SandboxError
from toolenv.sandbox.base import Limits, Sandbox, limits_of
from toolenv.sandbox.bwrap import BwrapSandbox, bwrap_problem
from toolenv.sandbox.docker import DEFAULT_IMAGE, DockerSandbox, docker_problem
from toolenv.sandbox.pool import SandboxPool
from toolenv.sandbox.process import ProcessSandbox
from toolenv.sandbox.settings import PoolSettings

logger = logging.getLogger("toolenv.sandbox")

# What each kind does not protect against, as ``auto`` says it.
GAPS = {
    "docker": "the kernel is shared with the host, so a kernel bug is a way out",
    "bwrap": "the kernel is shared with the host, and memory is limited by process, not as a whole",
    "process": "programs can read whatever files their user can, and use the network where system calls are not "
    "filtered (Linux on x86-64 and arm64 filters); install bubblewrap or Docker for code that you do not trust",
}


def make_sandbox(
    kind: str = "auto",
    *,
    workers: int = 2,
    limits: Limits | Mapping[str, int] | None = None,
    image: str | None = None,
    runtime: str | None = None,
) -> SandboxPool:
    """A pool of sandboxes by name.

    Args:
        kind: ``"docker"``, ``"bwrap"``, ``"process"``, or ``"auto"``: the first of these that works here, with one
            line in the log ``toolenv.sandbox`` that says which it is and what it does not protect against. With an
            image or a runtime, ``"auto"`` takes Docker or fails.
        workers: How many programs run at once.
        limits: What a program may use: a ``Limits``, or a mapping of its fields.
        image: Docker image; ``None``: the one that ``toolenv sandbox build`` makes.
        runtime: Runtime of the Docker engine, such as ``"runsc"`` (gVisor); ``None``: the engine's own.

    Raises:
        ConfigError: Another name, or settings that make no sense or are for another kind.
        SandboxError: None works here; or there is no Docker engine with this image, or no bubblewrap. That one is there
            but cannot start its workers is said with the first call, or at ``start()``.

    Example:
        >>> with_more_memory = make_sandbox("process", limits=Limits(memory_bytes=1 << 30))
        >>> with_more_memory.exec("6 * 7", timeout_s=5).value
        '42'
        >>> with_more_memory.close()
    """
    return make_pool(PoolSettings(kind, workers, limits_of(limits), image, runtime))


def make_pool(settings: PoolSettings) -> SandboxPool:
    """A pool of these settings.

    Raises:
        SandboxError: As for ``make_sandbox``.
    """
    kind, trial = settings.kind, None
    if kind == "auto":
        kind, trial, refused = _first_that_works(settings)
        logger.warning("sandbox: %s; %s. %s", kind, GAPS[kind], " ".join(refused))
    elif problem := _problem(kind, settings):
        raise SandboxError(problem)
    return SandboxPool(_factory(kind, settings), settings.workers, kind=kind, made=[trial] if trial else [])


def _factory(kind: str, settings: PoolSettings) -> Callable[[], Sandbox]:
    """Makes a sandbox; can be pickled, and so can its pool."""
    if kind == "docker":
        return partial(DockerSandbox, settings.limits, settings.image or DEFAULT_IMAGE, runtime=settings.runtime)
    return partial(BwrapSandbox if kind == "bwrap" else ProcessSandbox, settings.limits)


def _problem(kind: str, settings: PoolSettings) -> str | None:
    """What is missing for a kind, as far as a look tells."""
    if kind == "docker":
        return docker_problem(settings.image or DEFAULT_IMAGE, settings.runtime)
    return bwrap_problem() if kind == "bwrap" else None


def _first_that_works(settings: PoolSettings) -> tuple[str, Sandbox, list[str]]:
    refused: list[str] = []
    asked = [name for name in ("image", "runtime") if getattr(settings, name) is not None]
    for kind in ("docker",) if asked else tuple(GAPS):
        problem = _problem(kind, settings)
        if problem is None:
            sandbox = _factory(kind, settings)()
            problem = _trial(sandbox)
            if problem is None:
                return kind, sandbox, refused
            sandbox.close()
        refused.append(f"Not {kind}: {problem}.")
    if asked:
        raise SandboxError(f"with {' and '.join(asked)}, the sandbox can only be Docker's. {refused[0]}")
    raise SandboxError(f"no sandbox works here. {' '.join(refused)}")


def _trial(sandbox: Sandbox) -> str | None:
    """Why a sandbox does not work here, ``None`` where it does."""
    try:
        result = sandbox.exec("print(1)", timeout_s=10.0)
    except SandboxError as error:
        return str(error)
    return None if result.stdout == "1\n" else f"its first program gave {result}"


_shared: dict[PoolSettings, SandboxPool] = {}
_shared_lock = threading.Lock()


def shared_sandbox(
    kind: str = "auto",
    *,
    workers: int = 2,
    limits: Limits | Mapping[str, int] | None = None,
    image: str | None = None,
    runtime: str | None = None,
) -> SandboxPool:
    """The pool of these settings that all environments of this process share.

    It is made on first use, and closed when the process ends; once closed by hand, the next use makes another. The
    arguments are those of ``make_sandbox``.

    Raises:
        ConfigError: As for ``make_sandbox``, like the next one.
        SandboxError: It does not work here.
    """
    return shared_pool(PoolSettings(kind, workers, limits_of(limits), image, runtime))


def shared_pool(settings: PoolSettings) -> SandboxPool:
    """The shared pool of these settings, see ``shared_sandbox``.

    Raises:
        SandboxError: It does not work here.
    """
    with _shared_lock:
        if settings not in _shared or _shared[settings].closed:
            _shared[settings] = make_pool(settings)
        return _shared[settings]


@atexit.register
def _close_shared() -> None:
    for pool in _shared.values():
        pool.close(now=True)


def _unlock_in_fork() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_unlock_in_fork)
