"""The choice of a sandbox by its name, and the pools that the environments of a process share."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable

from toolenv.errors import ConfigError, SandboxError
from toolenv.sandbox.arguments import whole
from toolenv.sandbox.base import Limits, Sandbox
from toolenv.sandbox.bwrap import BwrapSandbox
from toolenv.sandbox.docker import DEFAULT_IMAGE, DockerSandbox, docker_problem
from toolenv.sandbox.pool import SandboxPool
from toolenv.sandbox.process import ProcessSandbox

logger = logging.getLogger("toolenv.sandbox")

KINDS = ("auto", "docker", "bwrap", "process")

# What each kind does not protect against, as ``auto`` says it.
GAPS = {
    "docker": "the kernel is shared with the host, so a kernel bug is a way out",
    "bwrap": "the kernel is shared with the host, and memory is limited by process, not as a whole",
    "process": "programs can read whatever files their user can, and use the network where system calls are not "
    "filtered (Linux on x86-64 and arm64 filters); install bubblewrap or Docker for code that you do not trust",
}

Factories = dict[str, Callable[[], Sandbox]]


def make_sandbox(
    kind: str = "auto",
    *,
    workers: int = 2,
    limits: Limits | None = None,
    image: str = DEFAULT_IMAGE,
    runtime: str | None = None,
) -> SandboxPool:
    """A pool of sandboxes by name.

    Args:
        kind: ``"docker"``, ``"bwrap"``, ``"process"``, or ``"auto"``: the first of these that works here, with one
            line in the log ``toolenv.sandbox`` that says which it is and what it does not protect against.
        workers: How many programs run at once.
        limits: What a program may use.
        image: Docker image.
        runtime: Runtime of the Docker engine, such as ``"runsc"`` (gVisor); ``None``: the engine's own.

    Raises:
        ConfigError: Another name, or fewer than one worker.
        SandboxError: None works here, or there is no Docker engine with this image. ``"bwrap"`` and ``"process"`` say
            with the first call, or at ``start()``, that they do not work.

    Example:
        >>> with_more_memory = make_sandbox("process", limits=Limits(memory_bytes=1 << 30))
        >>> with_more_memory.exec("6 * 7", timeout_s=5).value
        '42'
        >>> with_more_memory.close()
    """
    check_kind(kind)
    whole("workers", workers, like="2")
    if kind == "docker" and (problem := docker_problem(image, runtime)):
        raise SandboxError(problem)
    factories: Factories = {
        "docker": lambda: DockerSandbox(limits, image=image, runtime=runtime),
        "bwrap": lambda: BwrapSandbox(limits),
        "process": lambda: ProcessSandbox(limits),
    }
    if kind != "auto":
        return SandboxPool(factories[kind], workers, kind=kind)
    kind, trial, refused = _first_that_works(factories, image, runtime)
    logger.warning("sandbox: %s; %s. %s", kind, GAPS[kind], " ".join(refused))
    return SandboxPool(factories[kind], workers, kind=kind, made=[trial])


def check_kind(kind: str) -> None:
    """Refuse a name that is none.

    Raises:
        ConfigError: There is no such kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown sandbox {kind!r}; choose one of {', '.join(KINDS)}, or pass a sandbox object")


def _first_that_works(factories: Factories, image: str, runtime: str | None) -> tuple[str, Sandbox, list[str]]:
    refused: list[str] = []
    for kind, factory in factories.items():
        problem = docker_problem(image, runtime) if kind == "docker" else None
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


Key = tuple[str, int, Limits, str, str | None]

_shared: dict[Key, SandboxPool] = {}
_shared_lock = threading.Lock()


def shared_sandbox(
    kind: str = "auto",
    *,
    workers: int = 2,
    limits: Limits | None = None,
    image: str = DEFAULT_IMAGE,
    runtime: str | None = None,
) -> SandboxPool:
    """The pool of these settings that all environments of this process share.

    It is made on first use, and closed when the process ends; once closed by hand, the next use makes another. The
    arguments are those of ``make_sandbox``.

    Raises:
        ConfigError: As for ``make_sandbox``, like the next one.
        SandboxError: It does not work here.
    """
    limits = limits or Limits()
    key = (kind, workers, limits, image, runtime)
    with _shared_lock:
        if key not in _shared or _shared[key].closed:
            _shared[key] = make_sandbox(kind, workers=workers, limits=limits, image=image, runtime=runtime)
        return _shared[key]


@atexit.register
def _close_shared() -> None:
    for pool in _shared.values():
        pool.close(now=True)


def _unlock_in_fork() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_unlock_in_fork)
