"""Programs that mean harm: what must come of each, and that the next call finds nothing of it, in the same worker."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import CANARY, SECRET, Hostile, crashes, files, hangs, kernel, memory, network, output, poison, processes
from hostile import protocol as forged
from hostile import signals as kills

from toolenv.errors import SandboxError
from toolenv.sandbox import ExecResult, Limits
from toolenv.sandbox.bwrap import BwrapSandbox
from toolenv.sandbox.client import WorkerSandbox
from toolenv.sandbox.docker import DEFAULT_IMAGE, DockerSandbox, docker_problem

pytestmark = pytest.mark.core

# Of a loaded machine. What an idle one does is measured in benchmarks/.
MARGIN_S = 4.0
LIMITS = Limits(memory_bytes=256 << 20, max_processes=32)
NO_DOCKER = docker_problem(DEFAULT_IMAGE)
MODULES = (processes, kills, hangs, memory, output, forged, crashes, poison, files, network, kernel)
CASES = [
    pytest.param(case, id=f"{module.__name__.partition('.')[2]}: {case.name}")
    for module in MODULES
    for case in module.CASES
]


def test_there_are_enough_and_no_name_is_used_twice() -> None:
    names = [case.id for case in CASES]
    assert len(set(names)) == len(names) >= 120


class Target:
    """A sandbox under attack, and what a call in it looked like when nothing had happened to it yet."""

    def __init__(self, sandbox: WorkerSandbox, planted: dict[str, str]) -> None:
        self.sandbox = sandbox
        self.planted = planted
        self.fresh = self.look()

    def run(self, case: Hostile) -> tuple[ExecResult, float]:
        code = case.code
        for mark, value in self.planted.items():
            code = code.replace(mark, value)
        started = time.monotonic()
        result = self.sandbox.exec(code, timeout_s=case.limit_s)
        return result, time.monotonic() - started

    def look(self) -> dict[str, Any]:
        result = self.sandbox.exec(CANARY, timeout_s=20)
        assert result.status == "ok", f"the canary failed: {result}"
        seen: dict[str, Any] = json.loads(result.stdout)
        return seen


@pytest.fixture(scope="module", params=["bwrap", "docker"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    if request.param == "docker" and NO_DOCKER:
        pytest.skip(NO_DOCKER)
    os.environ["TOOLENV_TEST_TOKEN"] = SECRET
    secret_file = tmp_path_factory.mktemp("host") / "secret"
    secret_file.write_text(SECRET)
    abstract = f"toolenv-test-{os.getpid()}"
    sandbox = BwrapSandbox(LIMITS) if request.param == "bwrap" else DockerSandbox(LIMITS)
    with socket.create_server(("0.0.0.0", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0{abstract}")
        local.listen()
        planted = {"@FILE@": str(secret_file), "@PORT@": str(server.getsockname()[1]), "@ABSTRACT@": abstract}
        try:
            sandbox.start()
        except SandboxError as error:
            pytest.skip(f"{request.param} does not work here: {error}")
        yield Target(sandbox, planted)
        sandbox.close()
    del os.environ["TOOLENV_TEST_TOKEN"]


@pytest.mark.parametrize("case", CASES)
def test_hostile_program(target: Target, case: Hostile) -> None:
    try:
        result, elapsed_s = target.run(case)
    finally:
        before, target.fresh = target.fresh, target.look()
    after = target.fresh
    changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    assert not changed, f"the next call finds something of it, or another worker (before, after); {result}"
    seen = f"{result.stdout}\n{result.stderr}\n{result.value}\n{result.error}"
    assert result.status in case.status, result
    assert (result.error is None) == (result.status == "ok"), result
    for part in case.shows:
        assert part in seen, result
    for part in (*case.hides, "DONE", SECRET):
        assert part not in seen, result
    if result.status == "timeout":
        assert case.limit_s - 0.05 <= elapsed_s <= case.limit_s + MARGIN_S
        assert f"{case.limit_s:g} s" in str(result.error)
    else:
        assert elapsed_s < case.limit_s, "it waited for its limit"
    assert max(map(len, (result.stdout, result.stderr, result.value or "", result.error or ""))) < 65_000


def test_host_is_as_it_was(target: Target) -> None:
    """Runs after the programs: what was planted is unharmed."""
    assert Path(target.planted["@FILE@"]).read_text() == SECRET
