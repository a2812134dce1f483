"""The worker in a Docker container: no network, no rights, a read-only file system, limits on all of it together."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolenv.errors import MissingExtraError, SandboxError
from toolenv.extras import require
from toolenv.sandbox.base import Limits
from toolenv.sandbox.client import ENVIRONMENT, WARM, WorkerSandbox, worker_command, worker_settings

DEFAULT_IMAGE = "toolenv-python:1"
IMAGE_FOLDER = Path(__file__).with_name("image")
DEFAULT_SOCKET = "/var/run/docker.sock"
FIRST_UID = 20_000
CLIENT_TIMEOUT_S = 60
PING_TIMEOUT_S = 3

_slots = itertools.count()


class DockerSandbox(WorkerSandbox):
    """Programs in a hardened container (extra ``docker``).

    The image needs ``python`` with numpy and sympy, and nothing of this package: the worker's source travels in the
    container's command, so it always fits the package, and the engine may run on another machine.

    Args:
        limits: What a call may use.
        image: Name of the image; ``toolenv sandbox build`` makes the default one.
        warm: Statements that the worker runs once, at its start.
    """

    def __init__(self, limits: Limits | None = None, image: str = DEFAULT_IMAGE, warm: Sequence[str] = WARM) -> None:
        self.limits = limits or Limits()
        self.image = image
        self.warm = tuple(warm)
        super().__init__(self._launch, "docker sandbox")

    def _launch(self) -> DockerTransport:
        problem = docker_problem(self.image)
        if problem:
            raise SandboxError(problem)
        # The container counts processes itself; a limit by user id would count those of other containers too.
        settings = worker_settings(
            path=[], limits=self.limits, tmp="/tmp", uid=None, max_processes=None, warm=self.warm
        )
        command = worker_command(["python", "-s", "-P", "-B"], settings)
        return DockerTransport(self.image, command, self.limits)


def docker_problem(image: str) -> str | None:
    """Why containers of this image cannot run here, ``None`` where they can."""
    if "DOCKER_HOST" not in os.environ and not Path(DEFAULT_SOCKET).exists():
        return f"no Docker engine runs here: there is no {DEFAULT_SOCKET}, and DOCKER_HOST is not set"
    try:
        docker = require("docker", "docker")
    except MissingExtraError as error:
        return str(error)
    try:
        client = docker.from_env(timeout=PING_TIMEOUT_S)
    except docker.errors.DockerException as error:
        return f"no Docker engine answers ({str(error)[:120]})"
    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        return f"there is no Docker image {image!r}; make it: toolenv sandbox build"
    except (docker.errors.DockerException, OSError) as error:
        return f"the Docker engine does not answer ({str(error)[:120]})"
    finally:
        client.close()
    return None


class DockerTransport:
    """A worker as process 1 of a container, over the socket that is attached to it.

    Args:
        image: Name of the image.
        command: What the container runs.
        limits: What it may use.

    Raises:
        SandboxError: The container could not be started.
    """

    def __init__(self, image: str, command: Sequence[str], limits: Limits) -> None:
        docker = require("docker", "docker")
        self._errors = (docker.errors.DockerException, OSError)
        self._frames = b""
        self._said = b""
        self._client = docker.from_env(timeout=CLIENT_TIMEOUT_S)
        try:
            self._container = self._client.containers.create(image, list(command), **container_options(limits))
            attached = self._container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            self._socket = getattr(attached, "_sock", attached)
            self._socket.setblocking(True)
            self._container.start()
        except self._errors as error:
            self._client.close()
            raise SandboxError(f"cannot start a container of {image!r}: {error}") from error

    def send(self, data: bytes) -> None:
        """Write all of ``data``; ``OSError`` where the worker is gone."""
        self._socket.sendall(data)

    def receive(self, timeout_s: float) -> bytes | None:
        """Some bytes; empty where the worker is gone, ``None`` where none came in time."""
        if not select.select([self._socket], [], [], max(timeout_s, 0.0))[0]:
            return None
        while True:
            data: bytes = self._socket.recv(1 << 16)
            self._frames += data
            out = self._unpack()
            if out or not data:
                return out
            if not select.select([self._socket], [], [], max(timeout_s, 0.0))[0]:
                return None

    def _unpack(self) -> bytes:
        """Standard output of the whole frames: each has a stream number and a length before it."""
        out = b""
        while len(self._frames) >= 8:
            stream, length = struct.unpack(">BxxxL", self._frames[:8])
            if len(self._frames) < 8 + length:
                break
            body, self._frames = self._frames[8 : 8 + length], self._frames[8 + length :]
            if stream == 1:
                out += body
            else:
                self._said = (self._said + body)[-2000:]
        return out

    def kill(self) -> None:
        """End the container, which removes itself."""
        with contextlib.suppress(*self._errors):
            self._container.remove(force=True)
        with contextlib.suppress(OSError):
            self._socket.close()
        self._client.close()

    def diagnosis(self) -> str:
        """The end of what the container wrote to its standard error."""
        return self._said.decode("utf-8", "replace").strip()


def container_options(limits: Limits) -> dict[str, Any]:
    """Options of a hardened container, as the Docker SDK names them."""
    # Each container has a user of its own, since the kernel keeps some counts by user over all containers.
    uid = FIRST_UID + (os.getpid() * 16 + next(_slots)) % 40_000
    return {
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "mem_limit": limits.memory_bytes,
        "memswap_limit": limits.memory_bytes,
        "pids_limit": limits.max_processes,
        "nano_cpus": 1_000_000_000,
        "user": f"{uid}:{uid}",
        "ipc_mode": "private",
        "shm_size": 16 << 20,
        "tmpfs": {"/tmp": f"size=64m,nr_inodes=4096,nosuid,nodev,noexec,uid={uid},gid={uid}"},
        "environment": ENVIRONMENT,
        "working_dir": "/tmp",
        "entrypoint": [],
        "stdin_open": True,
        "auto_remove": True,
        "log_config": {"Type": "none"},
        "labels": {"toolenv": "sandbox"},
    }
