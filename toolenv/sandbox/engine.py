"""The Docker engine, and the one client by which all sandboxes of a process talk to it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from toolenv.errors import MissingExtraError, SandboxError
from toolenv.extras import require
from toolenv.sandbox.reaper import remove_leftovers

REQUEST_TIMEOUT_S = 60
PING_TIMEOUT_S = 10
HOW_TO_REACH = "start one, or set DOCKER_HOST to where it listens"
SETTINGS = ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT")

_clients: dict[tuple[Any, ...], Any] = {}
_lock = threading.Lock()


def _unlock_in_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock_in_fork)


def connect() -> Any:
    """This process's client of the engine that ``DOCKER_HOST`` (or Docker's context) names.

    The first connection removes the containers that dead processes left in the engine.

    Raises:
        SandboxError: No engine answers, or the extra ``docker`` is not installed.
    """
    with _lock:
        # A fork makes connections of its own: two processes on one would read each other's answers.
        key = (os.getpid(), *(os.environ.get(name) for name in SETTINGS))
        if key not in _clients:
            client = new_client()
            try:
                remove_leftovers(client)
            except (require("docker", "docker").errors.DockerException, OSError) as error:
                raise SandboxError(f"the Docker engine does not answer ({str(error)[:160]})") from error
            _clients[key] = client
        return _clients[key]


def new_client() -> Any:
    """A client of the engine, which has answered once.

    Raises:
        SandboxError: No engine answers, or the extra ``docker`` is not installed.
    """
    try:
        docker = require("docker", "docker")
    except MissingExtraError as error:
        raise SandboxError(str(error)) from error
    try:
        client = docker.from_env(timeout=PING_TIMEOUT_S)
    except (docker.errors.DockerException, OSError, ValueError) as error:
        raise SandboxError(
            f"no Docker engine answers at {engine_address()} ({_cause(error)}); "
            + ("start one there, or unset DOCKER_HOST" if "DOCKER_HOST" in os.environ else HOW_TO_REACH)
        ) from error
    client.api.timeout = REQUEST_TIMEOUT_S
    # The SDK keeps a connection open for each address that it asked, and the addresses hold the containers' ids.
    client.api.headers["Connection"] = "close"
    return client


def _cause(error: BaseException) -> str:
    """The first cause of an error, which says what those above it only wrap."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error)[:160]


def ran_out_of_memory(client: Any, container_id: str) -> bool:
    """Whether the kernel ended something in a container for lack of memory; it may be gone already.

    The engine remembers its last few hundred events. Its own clock says how far to read, since it may run elsewhere.
    """
    now = datetime.fromisoformat(client.info()["SystemTime"]).timestamp()
    wanted = {"container": container_id, "event": "oom"}
    return bool(list(client.api.events(since="1", until=f"{now:.6f}", filters=wanted, decode=True)))


def engine_address() -> str:
    """Where the engine is looked for, as a person reads it."""
    return os.environ.get("DOCKER_HOST", "its usual address")


def runtimes(info: Mapping[str, Any]) -> list[str]:
    """Names of an engine's runtimes, without those of its parts that no user names."""
    return sorted(name for name in info["Runtimes"] if not name.startswith("io.containerd."))
