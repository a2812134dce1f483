"""Whose container is it? Each carries labels of the process that made it; those of dead processes are removed.

A container ends by itself when its process does, since its standard input closes then. What is left for this file: a
container that was paused or hung at that time, or that was not started yet.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from toolenv.extras import require

logger = logging.getLogger("toolenv.sandbox")

LABEL = "toolenv=sandbox"
HOST, PID, START = "toolenv.owner.host", "toolenv.owner.pid", "toolenv.owner.start"
GONE, BEING_REMOVED = 404, 409

Owner = Literal["alive", "dead", "unknown"]


def owner_labels() -> dict[str, str]:
    """Labels of a container that this process makes."""
    name, _, value = LABEL.partition("=")
    _, start = _state_and_start(os.getpid())
    return {name: value, HOST: host_id(), PID: str(os.getpid()), START: start}


def host_id() -> str:
    """Where the process ids that this process sees are valid: this boot, this namespace; empty where there is none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def owner_of(labels: Mapping[str, str]) -> Owner:
    """Whether the process that made a container lives; of one on another machine we cannot know.

    Example:
        >>> owner_of(owner_labels()), owner_of({"toolenv": "sandbox"})
        ('alive', 'unknown')
    """
    host, pid, start = (labels.get(name, "") for name in (HOST, PID, START))
    if not host or host != host_id() or not pid.isdigit():
        return "unknown"
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return "dead"
    except PermissionError:
        pass  # another user's
    state, started = _state_and_start(int(pid))
    if not started:
        return "unknown"
    # The kernel gives the ids of the dead to others; a zombie is dead, and only its parent has not looked.
    return "alive" if started == start and state not in ("Z", "X") else "dead"


def _state_and_start(pid: int) -> tuple[str, str]:
    """State and start time (ticks since boot) of a process; empty where it cannot be looked at."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


def sandbox_containers(client: Any) -> list[tuple[str, Owner]]:
    """Ids of the sandboxes' containers in an engine, and what became of their owners."""
    found = client.api.containers(all=True, filters={"label": LABEL})
    return [(container["Id"], owner_of(container["Labels"])) for container in found]


def remove_leftovers(client: Any) -> list[str]:
    """Remove the containers of dead processes; the ids of what was removed. Never one whose owner may live."""
    removed = []
    for container_id, owner in sandbox_containers(client):
        if owner == "dead" and remove(client, container_id):
            removed.append(container_id)
    if removed:
        logger.info("removed %d containers of processes that are dead", len(removed))
    return removed


def remove(client: Any, container_id: str) -> bool:
    """End and remove a container; whether it was there, and nobody else was at it."""
    errors = require("docker", "docker").errors
    try:
        client.api.remove_container(container_id, force=True)
    except errors.APIError as error:
        if error.status_code in (GONE, BEING_REMOVED):
            return False
        logger.warning("cannot remove the container %s: %s", container_id[:12], error)
        return False
    return True
