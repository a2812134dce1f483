"""``toolenv sandbox doctor``: which sandboxes work on this machine, what is missing, and the command that mends it."""

from __future__ import annotations

import itertools
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import toolenv
from toolenv.errors import SandboxError
from toolenv.extras import require
from toolenv.sandbox.build import VERSION_LABEL
from toolenv.sandbox.bwrap import BwrapSandbox
from toolenv.sandbox.client import WorkerSandbox
from toolenv.sandbox.docker import DEFAULT_IMAGE, DockerSandbox, how_to_build, image_problem
from toolenv.sandbox.engine import engine_address, new_client, runtimes
from toolenv.sandbox.process import ProcessSandbox
from toolenv.sandbox.reaper import remove_leftovers, sandbox_containers

State = Literal["ok", "missing", "weak", "optional"]

WIDTH = 18
WITHOUT_A_HUB = "without a hub: --from-this-python"
TRIAL_CALLS = 5
TRIAL = (
    "import sys, numpy, sympy\n"
    "print(f'Python {sys.version.split()[0]}, NumPy {numpy.__version__}, SymPy {sympy.__version__}')"
)
# What an engine says that it can limit.
LIMITS = {"MemoryLimit": "memory", "SwapLimit": "swap", "PidsLimit": "processes", "CpuCfsQuota": "CPU time"}
NEW_USER_NAMESPACE = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000) and 1)"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table.

    Attributes:
        subject: What was looked at.
        state: ``"ok"``, ``"missing"``, ``"weak"`` (works, with a wall less) or ``"optional"`` (not there, nor needed).
        seen: What there is.
        mend: The command that mends it; empty where nothing is to mend.

    Example:
        >>> print(Finding("bubblewrap", "missing", "there is no program 'bwrap'", "apt-get install bubblewrap"))
        missing   bubblewrap         there is no program 'bwrap'
                                     -> apt-get install bubblewrap
    """

    subject: str
    state: State
    seen: str
    mend: str = ""

    def __str__(self) -> str:
        line = f"{self.state:9} {self.subject:{WIDTH}} {self.seen}"
        return f"{line}\n{'':9} {'':{WIDTH}} -> {self.mend}" if self.mend else line


def doctor(image: str | None = None, *, runtime: str | None = None, clean: bool = False) -> bool:
    """Print what this machine can do and what is missing.

    Args:
        image: Image of the Docker sandbox; ``None``: the one that ``toolenv sandbox build`` makes.
        runtime: Runtime that the Docker sandbox is to be tried with.
        clean: Remove the containers that dead processes left behind.

    Returns:
        Whether the Docker or the bubblewrap sandbox works; with an image or a runtime, whether the Docker sandbox does.
    """
    print(f"toolenv {toolenv.__version__}, Python {platform.python_version()}, {platform.platform()}")
    works: set[str] = set()
    for finding in examine(image or DEFAULT_IMAGE, runtime=runtime, clean=clean):
        print(finding, flush=True)
        works |= {finding.subject} if finding.state == "ok" else set()
    walls = bool(works & {"docker sandbox", "bwrap sandbox"})
    print(
        "There is a sandbox for code that you do not trust." if walls else "No sandbox here is for code you distrust."
    )
    asked = {"image": image, "runtime": runtime}
    said = " and ".join(f"the {name} {value!r}" for name, value in asked.items() if value is not None)
    if said and "docker sandbox" not in works:
        print(f"The Docker sandbox does not work with {said}.")
        return False
    return walls


def examine(image: str, *, runtime: str | None = None, clean: bool = False) -> Iterator[Finding]:
    """All that there is to say, in the order of the table."""
    yield from _docker(image, runtime, clean)
    yield _bubblewrap()
    yield _user_namespaces()
    yield _seccomp()
    yield _trial("bwrap sandbox", BwrapSandbox)
    yield _trial("process sandbox", ProcessSandbox)


def _docker(image: str, runtime: str | None, clean: bool) -> Iterator[Finding]:
    try:
        client = new_client()
    except SandboxError as error:
        yield Finding("docker engine", "missing", str(error), _how_to_get_docker(str(error)))
        return
    try:
        yield Finding("docker package", "ok", version("docker"))
        info = client.info()
        yield _engine(info)
        yield _gvisor(info)
        yield _image(client, image)
        yield _leftovers(client, clean)
    except (require("docker", "docker").errors.DockerException, OSError) as error:
        yield Finding("docker engine", "missing", f"it does not answer ({str(error)[:160]})")
        return
    finally:
        client.close()
    yield _trial("docker sandbox", lambda: DockerSandbox(image=image, runtime=runtime))


def _how_to_get_docker(problem: str) -> str:
    if "pip install" in problem:
        return "pip install 'toolenv[docker]'"
    if "Permission denied" in problem:
        return "sudo usermod -aG docker $USER, then log in again (who may talk to the engine is root on its machine)"
    if "DOCKER_HOST" in os.environ:
        return f"unset DOCKER_HOST (it is {os.environ['DOCKER_HOST']!r}), or start an engine there"
    if shutil.which("dockerd"):
        return "sudo systemctl start docker, or without systemd: sudo dockerd &"
    return "apt-get install docker.io (Debian, Ubuntu), or https://docs.docker.com/engine/install"


def _engine(info: dict[str, Any]) -> Finding:
    lacking = [name for key, name in LIMITS.items() if not info.get(key)]
    has_seccomp = any("seccomp" in option for option in info.get("SecurityOptions") or ())
    seen = (
        f"{info['ServerVersion']} at {engine_address()}, cgroup v{info.get('CgroupVersion', '1')}, "
        f"runtimes {', '.join(runtimes(info))}, {'seccomp' if has_seccomp else 'no seccomp'}"
    )
    if lacking:
        return Finding("docker engine", "weak", f"{seen}; it cannot limit {', '.join(lacking)}")
    return Finding("docker engine", "ok" if has_seccomp else "weak", seen)


def _gvisor(info: dict[str, Any]) -> Finding:
    if "runsc" in info["Runtimes"]:
        return Finding("gVisor", "ok", "the runtime 'runsc': a kernel of its own between programs and this one")
    return Finding("gVisor", "optional", "the engine has no runtime 'runsc'")


def _image(client: Any, image: str) -> Finding:
    if problem := image_problem(client, image):
        seen, _, mend = problem.rpartition("; ")
        built = mend.removeprefix("make it: ")
        return Finding("docker image", "missing", seen, mend if built == mend else f"{built} ({WITHOUT_A_HUB})")
    found = client.images.get(image)
    built_by = found.labels.get(VERSION_LABEL)
    seen = f"{image}, {found.attrs['Size'] / 1e6:.0f} MB, " + (
        f"built by toolenv {built_by}" if built_by else "your own"
    )
    if built_by in (None, toolenv.__version__):
        return Finding("docker image", "ok", seen)
    return Finding("docker image", "weak", seen, how_to_build(image))


def _leftovers(client: Any, clean: bool) -> Finding:
    removed = len(remove_leftovers(client)) if clean else 0
    owners = Counter(owner for _, owner in sandbox_containers(client))
    seen = f"{owners['alive']} in use, {owners['dead']} of dead processes, {owners['unknown']} of other machines"
    if removed:
        seen += f"; removed {removed}"
    return Finding("containers", "ok", seen, "toolenv sandbox doctor --clean" if owners["dead"] else "")


def _bubblewrap() -> Finding:
    program = shutil.which("bwrap")
    if program is None:
        return Finding("bubblewrap", "missing", "there is no program 'bwrap'", "apt-get install bubblewrap")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return Finding("bubblewrap", "ok", f"{said.stdout.split()[-1]} at {program}")


def _user_namespaces() -> Finding:
    """Bubblewrap needs them, but for root."""
    tried = subprocess.run([sys.executable, "-S", "-c", NEW_USER_NAMESPACE], capture_output=True, check=False)
    if tried.returncode == 0:
        return Finding("user namespaces", "ok", "anybody may make them")
    for switch, wanted in (
        ("kernel.apparmor_restrict_unprivileged_userns", "0"),
        ("kernel.unprivileged_userns_clone", "1"),
    ):
        file = Path("/proc/sys") / switch.replace(".", "/")
        if file.exists() and file.read_text().strip() != wanted:
            return Finding("user namespaces", "missing", "they are switched off", f"sudo sysctl {switch}={wanted}")
    return Finding("user namespaces", "missing", "this kernel or container refuses them; bubblewrap then needs root")


def _seccomp() -> Finding:
    status = Path("/proc/self/status")
    if status.exists() and "Seccomp:" in status.read_text():
        return Finding("seccomp", "ok", "the kernel filters system calls")
    return Finding("seccomp", "missing", "this kernel filters no system calls")


def _trial(subject: str, make: Callable[[], WorkerSandbox]) -> Finding:
    """Start a sandbox, and run the same program a few times."""
    sandbox = make()
    times = []
    try:
        times.append(time.perf_counter())
        sandbox.start()
        times.append(time.perf_counter())
        for _ in range(TRIAL_CALLS):
            result = sandbox.exec(TRIAL, timeout_s=10.0)
            times.append(time.perf_counter())
    except SandboxError as error:
        return Finding(subject, "missing", f"does not work: {error}")
    finally:
        sandbox.close()
    if result.status != "ok":
        return Finding(subject, "missing", f"its first program failed: {result.output.strip()[-200:]}")
    fastest = min(after - before for before, after in itertools.pairwise(times[1:]))
    seen = f"{result.stdout.strip()}; starts in {times[1] - times[0]:.2f} s, a call takes {fastest * 1e3:.1f} ms"
    return Finding(subject, "ok", seen)
