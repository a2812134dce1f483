"""The worker in a Docker container: no network, no rights, a read-only file system, limits on all of it together."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import shlex
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

from toolenv.errors import SandboxError
from toolenv.extras import require
from toolenv.sandbox.arguments import check_name
from toolenv.sandbox.base import Limits, limits_of
from toolenv.sandbox.client import ENVIRONMENT, WARM, WorkerSandbox, worker_command, worker_settings
from toolenv.sandbox.engine import connect, ran_out_of_memory, runtimes
from toolenv.sandbox.reaper import owner_labels, remove

DEFAULT_IMAGE = "toolenv-python:1"
FIRST_UID, USERS = 20_000, 40_000
CPU_PERIOD_US = 20_000  # 10 ms made a call 4 percent slower
# gVisor's kernel is a process in the container, whose threads count: at 64 a program with 30 threads ended it.
GVISOR, GVISOR_PROCESSES = "runsc", 2048
RECEIVE_TIMEOUT_S = 30.0  # of bytes that are there already, but for TLS
STDOUT = 1

_slots = itertools.count()


class DockerSandbox(WorkerSandbox):
    """Programs in a hardened container (extra ``docker``).

    The image needs ``python`` with numpy and sympy, and nothing of this package: the worker's source travels in the
    container's command, so it always fits the package, and the engine may run on another machine (``DOCKER_HOST``).
    When this process ends, however it ends, its containers do.

    Args:
        limits: What a call may use.
        image: Name of the image; ``toolenv sandbox build`` makes the default one.
        warm: Statements that the worker runs once, at its start.
        runtime: The engine's runtime, such as ``"runsc"`` (gVisor); ``None``: the engine's default.

    Raises:
        ConfigError: ``limits`` or ``image`` that are none.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        image: str = DEFAULT_IMAGE,
        warm: Sequence[str] = WARM,
        runtime: str | None = None,
    ) -> None:
        check_name("image", image)
        self.limits = limits_of(limits)
        self.image = image
        self.warm = tuple(warm)
        self.runtime = runtime
        super().__init__(self._launch, "docker sandbox")

    def _launch(self) -> DockerTransport:
        # The container counts processes itself; a limit by user id would count those of other containers too.
        settings = worker_settings(
            path=[], limits=self.limits, tmp="/tmp", uid=None, max_processes=None, warm=self.warm
        )
        command = worker_command(["python", "-s", "-P", "-B"], settings)
        return DockerTransport(self.image, command, container_options(self.limits, self.runtime))


def docker_problem(image: str, runtime: str | None = None) -> str | None:
    """Why containers of this image cannot run here, ``None`` where they can."""
    try:
        client = connect()
    except SandboxError as error:
        return str(error)
    docker = require("docker", "docker")
    try:
        if found := image_problem(client, image):
            return found
        info = client.info()
    except (docker.errors.DockerException, OSError) as error:
        return f"the Docker engine does not answer ({str(error)[:160]})"
    if runtime is not None and runtime not in info["Runtimes"]:
        return (
            f"the Docker engine knows no runtime {runtime!r}, only {', '.join(runtimes(info))}; "
            "add it under 'runtimes' in the engine's daemon.json"
        )
    return None


def image_problem(client: Any, image: str) -> str | None:
    """Why an engine cannot make containers of an image, ``None`` where it can."""
    errors = require("docker", "docker").errors
    try:
        client.images.get(image)
    except errors.ImageNotFound:
        return f"the Docker engine has no image {image!r}; make it: {how_to_build(image)}"
    except errors.APIError as error:
        if not error.is_client_error():
            raise
        said = str(error.explanation)[:160]
        return f"the Docker engine takes no image {image!r} ({said}); name it as 'docker images' does"
    return None


def how_to_build(image: str) -> str:
    """The command that makes an image.

    Example:
        >>> how_to_build("mine:1")
        'toolenv sandbox build --tag mine:1'
    """
    return "toolenv sandbox build" + ("" if image == DEFAULT_IMAGE else f" --tag {shlex.quote(image)}")


class DockerTransport:
    """A worker as process 1 of a container, over the socket that is attached to it.

    Args:
        image: Name of the image.
        command: What the container runs.
        options: See ``container_options``.

    Raises:
        SandboxError: The container could not be started.
    """

    def __init__(self, image: str, command: Sequence[str], options: dict[str, Any]) -> None:
        self._client = connect()
        self._errors = (require("docker", "docker").errors.DockerException, OSError)
        self._id: str | None = None
        self._socket: Any = None
        self._frames = self._said = b""
        try:
            self._id = self._client.containers.create(image, list(command), **options).id
            self._socket = attach(self._client, self._id)
            self._client.api.start(self._id)
        except self._errors as error:
            self.kill()
            problem = docker_problem(image, options.get("runtime"))
            raise SandboxError(problem or f"cannot start a container of {image!r}: {error}") from error
        except BaseException:  # interrupted: nothing else knows of this container
            self.kill()
            raise
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def send(self, data: bytes, timeout_s: float) -> None:
        """Write all of ``data``; ``OSError`` where the worker is gone, or does not take it in time."""
        self._socket.settimeout(timeout_s)
        self._socket.sendall(data)
        self._socket.settimeout(RECEIVE_TIMEOUT_S)

    def receive(self, timeout_s: float) -> bytes | None:
        """Some bytes; empty where the worker is gone, ``None`` where none came in time."""
        deadline = time.monotonic() + timeout_s
        while self._is_readable(deadline):
            data: bytes = self._socket.recv(1 << 16)
            self._frames += data
            out = self._unpack()
            if out or not data:
                return out
        return None

    def _is_readable(self, deadline: float) -> bool:
        pending = getattr(self._socket, "pending", None)  # TLS reads ahead
        if pending is not None and pending():
            return True
        return bool(self._poll.poll(max(deadline - time.monotonic(), 0.0) * 1000))

    def _unpack(self) -> bytes:
        """Standard output of the whole frames: each has a stream number and a length before it."""
        out = b""
        while len(self._frames) >= 8:
            stream, length = struct.unpack(">BxxxL", self._frames[:8])
            if len(self._frames) < 8 + length:
                break
            body, self._frames = self._frames[8 : 8 + length], self._frames[8 + length :]
            if stream == STDOUT:
                out += body
            else:
                self._said = (self._said + body)[-2000:]
        return out

    def hang_up(self) -> None:
        """Close the container's standard input, so that the worker ends itself and all that runs."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End the container, and remove it."""
        if self._id is not None:
            with contextlib.suppress(*self._errors):
                remove(self._client, self._id)
        self.disconnect()

    def disconnect(self) -> None:
        """Close this process's end alone of the container's streams: in a fork, whose parent goes on with it."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()

    def diagnosis(self) -> str:
        """The end of what the container wrote to its standard error, and whether its memory ran out."""
        said = self._said.decode("utf-8", "replace").strip()
        with contextlib.suppress(*self._errors):
            if self._id is not None and ran_out_of_memory(self._client, self._id):
                said = f"{said}\nthe container ran out of memory".strip()
        return said


def attach(client: Any, container_id: str) -> Any:
    """A socket that carries the standard streams of a container."""
    attached = client.api.attach_socket(container_id, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    connection = getattr(attached, "_sock", attached)
    if type(connection) is socket.socket:  # TLS and SSH have kinds of their own, which cannot be duplicated
        # The SDK's is shared by the parts of an HTTP answer, and is closed when all of these are collected.
        shared, connection = connection, connection.dup()
        shared.close()
        attached.close()
    connection.settimeout(RECEIVE_TIMEOUT_S)
    return connection


def container_options(limits: Limits, runtime: str | None = None) -> dict[str, Any]:
    """Options of a hardened container, as the Docker SDK names them.

    Args:
        limits: What a call may use.
        runtime: The engine's runtime; ``None``: its default.

    Example:
        >>> options = container_options(Limits(memory_bytes=256 << 20))
        >>> options["network_mode"], options["read_only"], options["cap_drop"], options["mem_limit"] >> 20
        ('none', True, ['ALL'], 256)
    """
    # Each container has a user of its own, since the kernel keeps some counts by user over all containers.
    uid = FIRST_UID + (os.getpid() * 16 + next(_slots)) % USERS
    return {
        "runtime": runtime,
        "network_mode": "none",
        "hostname": "sandbox",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "mem_limit": limits.memory_bytes,
        "memswap_limit": limits.memory_bytes,
        "pids_limit": GVISOR_PROCESSES if (runtime or "").startswith(GVISOR) else limits.max_processes,
        # One core. A worker whose program has used up the share of a period waits for the next one.
        "cpu_period": CPU_PERIOD_US,
        "cpu_quota": CPU_PERIOD_US,
        "user": f"{uid}:{uid}",
        "ipc_mode": "private",
        "shm_size": 16 << 20,
        "tmpfs": {
            "/tmp": f"size=64m,nr_inodes=4096,nosuid,nodev,noexec,uid={uid},gid={uid}",
            # Message queues would stay from one call to the next, as files that the worker does not look for.
            "/dev/mqueue": "ro,size=0,nosuid,nodev,noexec",
        },
        "environment": ENVIRONMENT,
        "working_dir": "/tmp",
        "entrypoint": [],
        "stdin_open": True,
        "auto_remove": True,
        "log_config": {"Type": "none"},
        "labels": owner_labels(),
    }
