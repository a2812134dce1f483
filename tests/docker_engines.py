"""For the tests of the Docker sandbox: why they are skipped, and an engine behind a connection that can be cut."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from toolenv.sandbox.docker import DEFAULT_IMAGE, DockerSandbox, docker_problem
from toolenv.sandbox.engine import connect

NO_DOCKER = docker_problem(DEFAULT_IMAGE)
needs_docker = pytest.mark.skipif(NO_DOCKER is not None, reason=str(NO_DOCKER))

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"


def plain(**options: Any) -> DockerSandbox:
    """A sandbox that starts fast: nothing is imported beforehand."""
    return DockerSandbox(warm=(), **options)


def container_id(sandbox: DockerSandbox) -> str:
    """The container that the sandbox runs in now."""
    sandbox.start()
    return str(sandbox._transport._id)  # type: ignore[union-attr]


def exists(container: str) -> bool:
    """Whether the engine still has a container."""
    return any(container == found["Id"] for found in connect().api.containers(all=True))


def wait_until_gone(container: str, within_s: float = 10.0) -> None:
    """Fail where a container is still there after so long."""
    deadline = time.monotonic() + within_s
    while exists(container):
        assert time.monotonic() < deadline, f"the container is still there after {within_s} s"
        time.sleep(0.05)


class Proxy:
    """An engine's socket at a port of this machine, until it is cut."""

    def __init__(self) -> None:
        self._engine = os.environ.get("DOCKER_HOST", DEFAULT_ADDRESS).removeprefix("unix://")
        self._server = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._engine)
                self._ends += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End all connections, and take no more."""
        for end in (self._server, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """An engine over TCP, which the test's sandboxes use."""
    if not os.environ.get("DOCKER_HOST", DEFAULT_ADDRESS).startswith("unix://"):
        pytest.skip("the engine is not on this machine")
    made = Proxy()
    monkeypatch.setenv("DOCKER_HOST", made.address)
    yield made
    made.cut()
