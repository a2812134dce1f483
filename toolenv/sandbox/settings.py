"""What says which sandbox: a name with its settings, the address of a server, or a sandbox that is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolenv.errors import ConfigError
from toolenv.sandbox.arguments import check_name, whole
from toolenv.sandbox.base import Limits, Sandbox, limits_of
from toolenv.sandbox.docker import DEFAULT_IMAGE

KINDS = ("auto", "docker", "bwrap", "process")
WITH_IMAGES = ("auto", "docker")
TOKEN_ENV = "TOOLENV_SANDBOX_TOKEN"


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """What a pool on this machine is made from; its parts are told by ``make_sandbox``.

    Raises:
        ConfigError: An unknown kind, an image or a runtime for a kind that has none, or no number of workers.

    Example:
        >>> PoolSettings("bwrap", image="mine:1")
        Traceback (most recent call last):
        toolenv.errors.ConfigError: sandbox 'bwrap' takes no image, which is for 'docker'; got 'mine:1'
    """

    kind: str = "auto"
    workers: int = 2
    limits: Limits = field(default_factory=Limits)
    image: str | None = None
    runtime: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"unknown sandbox {self.kind!r}; choose one of {', '.join(KINDS)}, "
                "or give the address of a server, such as http://localhost:8080"
            )
        object.__setattr__(self, "workers", whole("workers", self.workers, like="2"))
        for name in ("image", "runtime"):
            value = getattr(self, name)
            if value is None:
                continue
            check_name(name, value)
            if self.kind not in WITH_IMAGES:
                raise ConfigError(f"sandbox {self.kind!r} takes no {name}, which is for 'docker'; got {value!r}")
        if self.kind == "docker" and self.image is None:
            object.__setattr__(self, "image", DEFAULT_IMAGE)


def sandbox_of(
    sandbox: Any,
    *,
    workers: int = 2,
    limits: Limits | Mapping[str, int] | None = None,
    image: str | None = None,
    runtime: str | None = None,
) -> PoolSettings | Sandbox:
    """What the argument ``sandbox`` of a tool or a server means, with those beside it.

    Args:
        sandbox: A name, see ``make_sandbox``; the address of a server, see ``RemoteSandbox``; or a sandbox.
        workers: How many programs run at once, here or on the server.
        limits: What a program may use; for a name alone, like all that follows.
        image: Docker image.
        runtime: Runtime of the Docker engine.

    Returns:
        What a pool is to be made from, for a name; else the sandbox.

    Raises:
        ConfigError: It is none of these, or a setting that it does not take.
    """
    is_address = isinstance(sandbox, str) and sandbox.startswith(("http://", "https://"))
    if isinstance(sandbox, str) and not is_address:
        return PoolSettings(sandbox, workers, limits_of(limits), image, runtime)
    if not is_address and (isinstance(sandbox, type) or not isinstance(sandbox, Sandbox)):
        raise ConfigError(
            f"sandbox must be one of {', '.join(KINDS)}, the address of a server, "
            f"or an object with the methods exec and close; got {sandbox!r}"
        )
    for name, value in {"limits": limits, "image": image, "runtime": runtime}.items():
        if value is not None:
            raise ConfigError(f"{name} cannot be set beside {sandbox!r}, which has its own; set it where that is made")
    if not is_address:
        return sandbox  # type: ignore[no-any-return]
    from toolenv.sandbox.remote import RemoteSandbox

    token = os.environ.get(TOKEN_ENV, "").strip()
    return RemoteSandbox(sandbox, token or None, max_in_flight=whole("workers", workers, like="2"))
