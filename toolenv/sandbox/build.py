"""``toolenv sandbox build``: the image of the Docker sandbox, from a hub's Python or from the one that runs this."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import toolenv
from toolenv.errors import ConfigError, SandboxError
from toolenv.extras import require
from toolenv.sandbox.docker import DEFAULT_IMAGE
from toolenv.sandbox.engine import new_client

IMAGE_FOLDER = Path(__file__).with_name("image")
DEFAULT_BASE = "python:3.11-slim"
PACKED_BASE = "toolenv-packed-python"
BUILD_TIMEOUT_S = 600
VERSION_LABEL = "toolenv.version"
PACKING_LABEL = "toolenv=packing"
# Variables of this process that the build is given, where they are set.
PASSED_ON = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL")


def build(
    base: str | None = None,
    tag: str = DEFAULT_IMAGE,
    *,
    from_this_python: bool = False,
    show: Callable[[str], object] = lambda text: print(text, end="", flush=True),
) -> str:
    """Build the image of the Docker sandbox (extra ``docker``).

    Args:
        base: Image to take Python from; not given: ``python:3.11-slim``.
        tag: Name of the image.
        from_this_python: Pack the Python that runs this, and take it as the base: no image hub is needed. The machine
            that the engine runs on must be of the same kind (Linux, the same processor).
        show: Is given the build's output, piece by piece.

    Returns:
        Id of the image.

    Raises:
        ConfigError: Both a base and ``from_this_python``.
        SandboxError: No engine answers, or the build failed.
    """
    if base is not None and from_this_python:
        raise ConfigError(f"base {base!r} and from_this_python exclude each other; give one of them")
    client = new_client()
    client.api.timeout = BUILD_TIMEOUT_S
    try:
        if not from_this_python:
            return _build(client, base or DEFAULT_BASE, tag, show)
        show(f"packing {sys.executable}\n")
        base = _import_this_python(client)
        try:
            return _build(client, base, tag, show)
        finally:
            client.images.remove(base, force=True)
    except (require("docker", "docker").errors.DockerException, OSError) as error:
        raise SandboxError(f"cannot build {tag!r}: {error}") from error
    finally:
        client.close()


def _build(client: Any, base: str, tag: str, show: Callable[[str], object]) -> str:
    arguments = {"BASE": base, "VERSION": toolenv.__version__}
    arguments |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    # What the base lacks comes from a hub and a package index; on this machine there may be neither.
    hint = "" if base.startswith(PACKED_BASE) else " (no hub within reach? --from-this-python needs none)"
    try:
        for step in client.api.build(
            path=str(IMAGE_FOLDER), tag=tag, buildargs=arguments, rm=True, forcerm=True, decode=True
        ):
            show(step.get("stream", ""))
            _refuse(step, f"cannot build {tag!r} from {base!r}{hint}")
        return str(client.images.get(tag).id)
    finally:
        for label in (PACKING_LABEL, VERSION_LABEL):  # the first stage, and what had the tag before
            client.images.prune(filters={"dangling": True, "label": label})


def _import_this_python(client: Any) -> str:
    """Pack the running Python as an image; its name."""
    name, tag = PACKED_BASE, str(os.getpid())
    with tempfile.TemporaryDirectory(prefix="toolenv-") as folder:
        root, archive = Path(folder, "root"), Path(folder, "root.tar")
        command = [sys.executable, str(IMAGE_FOLDER / "pack.py"), str(root), "--no-compile"]
        packed = subprocess.run(command, capture_output=True, text=True, check=False)
        if packed.returncode:
            raise SandboxError(f"cannot pack {sys.executable}: {packed.stderr.strip()[-500:]}")
        with tarfile.open(archive, "w") as tar:
            tar.add(root, arcname="/", filter=_owned_by_root)
        said = client.api.import_image_from_file(str(archive), name, tag, changes=["ENV PATH=/usr/local/bin"])
    for line in said.splitlines():
        _refuse(json.loads(line), "cannot import the packed Python")
    return f"{name}:{tag}"


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _refuse(step: dict[str, Any], problem: str) -> None:
    """Raise where the engine says that a step failed."""
    if "error" in step:
        raise SandboxError(f"{problem}: {step['error'].strip()}")
