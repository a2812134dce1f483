"""Programs that mean harm: what must come of each, and that the next call finds nothing of it, in the same worker."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.hostile import (
    CANARY,
    SECRET,
    Hostile,
    crashes,
    files,
    hangs,
    kernel,
    memory,
    network,
    output,
    poison,
    processes,
)
from tests.hostile import protocol as forged
from tests.hostile import signals as kills
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
ON_PROCESSES = (processes, kills, forged)  # what could reach the processes that keep a session


def cases_of(modules: tuple[ModuleType, ...]) -> list[Any]:
    named = [(module.__name__.rpartition(".")[2], case) for module in modules for case in module.CASES]
    return [pytest.param(case, id=f"{name}: {case.name}") for name, case in named]


def test_there_are_enough_and_no_name_is_used_twice() -> None:
    names = [case.id for case in cases_of(MODULES)]
    assert len(set(names)) == len(names) >= 120


class Target:
    """A sandbox under attack, and what a call in it looked like when nothing had happened to it yet."""

    def __init__(self, sandbox: WorkerSandbox, planted: dict[str, str]) -> None:
        self.sandbox = sandbox
        self.planted = planted
        self.fresh = self.look()

    def program(self, case: Hostile) -> str:
        code = case.code
        for mark, value in self.planted.items():
            code = code.replace(mark, value)
        return code

    def look(self) -> dict[str, Any]:
        result = self.sandbox.exec(CANARY, timeout_s=20)
        assert result.status == "ok", f"the canary failed: {result}"
        seen: dict[str, Any] = json.loads(result.stdout)
        return seen

    def changes(self) -> dict[str, tuple[Any, Any]]:
        """What a call finds otherwise than the last one that looked: (before, after)."""
        before, self.fresh = self.fresh, self.look()
        return {key: (before[key], self.fresh[key]) for key in before if before[key] != self.fresh[key]}


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


def shown(result: ExecResult) -> str:
    return f"{result.stdout}\n{result.stderr}\n{result.value}\n{result.error}"


@pytest.mark.parametrize("case", cases_of(MODULES))
def test_hostile_program(target: Target, case: Hostile) -> None:
    started = time.monotonic()
    result = target.sandbox.exec(target.program(case), timeout_s=case.limit_s)
    elapsed_s = time.monotonic() - started
    assert not target.changes(), f"the next call finds something of it, or another worker; {result}"
    assert result.status in case.status, result
    assert (result.error is None) == (result.status == "ok"), result
    for part in case.shows:
        assert part in shown(result), result
    for part in (*case.hides, "DONE", SECRET):
        assert part not in shown(result), result
    if result.status == "timeout":
        assert case.limit_s - 0.05 <= elapsed_s <= case.limit_s + MARGIN_S
        assert f"{case.limit_s:g} s" in str(result.error)
    else:
        assert elapsed_s < case.limit_s, "it waited for its limit"
    assert max(map(len, (result.stdout, result.stderr, result.value or "", result.error or ""))) < 65_000


@pytest.mark.parametrize("case", cases_of(ON_PROCESSES))
def test_hostile_program_in_a_session(target: Target, case: Hostile) -> None:
    """The episode goes on with what it had, or is told that this is lost; the next episode finds nothing."""
    sandbox = target.sandbox
    sandbox.exec_keeping("kept = 41", timeout_s=10)
    result = sandbox.exec_keeping(target.program(case), timeout_s=min(case.limit_s, 2.0))
    following = sandbox.exec_keeping("kept + 1", timeout_s=10)
    sandbox.end_session()
    assert not target.changes(), f"the next episode finds something of it, or another worker; {result}"
    for part in (*case.hides, SECRET):  # not "DONE": its parent is a process of its own here
        assert part not in shown(result), result
    if "are lost" in str(result.error):
        assert "NameError" in str(following.error), (result, following)
    else:
        assert following.value == "42", (result, following)


# Looks for a text in all of its own memory, without holding that text itself.
SEARCH = """\
import re
pattern = re.compile(b''.join(b'[\\\\x%02x]' % (byte ^ 1) for byte in bytes.fromhex('@MASKED@')))
found = 0
with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
    for line in maps:
        start, end = (int(part, 16) for part in line.split()[0].split('-'))
        if line.split()[1][0] != 'r' or line.rstrip().endswith(('[vvar]', '[vvar_vclock]', '[vsyscall]')): continue
        memory.seek(start)
        found += len(pattern.findall(memory.read(end - start)))
print('found', found)
"""


def test_no_text_of_an_earlier_call_is_in_memory(target: Target) -> None:
    secret = "a" * 8 + secrets.token_hex(16)
    search = SEARCH.replace("@MASKED@", bytes(byte ^ 1 for byte in secret.encode()).hex())
    said = f"import sys\nprint('{secret}out', sys.stdin.read())\nsys.stderr.write('{secret}')\n'{secret}value'"
    for _ in range(3):
        assert target.sandbox.exec(said, timeout_s=10, stdin=secret).status == "ok"
        target.sandbox.exec(f"{said}\nraise ValueError('{secret}')", timeout_s=10)
    own = target.sandbox.exec(f"held = '{secret}'\n{search}", timeout_s=10)
    assert int(own.stdout.removeprefix("found ")) > 0, f"the search does not work: {own}"
    assert target.sandbox.exec("1", timeout_s=10).value == "1"
    assert target.sandbox.exec(search, timeout_s=10).stdout == "found 0\n"


def test_host_is_as_it_was(target: Target) -> None:
    """Runs after the programs: what was planted is unharmed."""
    assert Path(target.planted["@FILE@"]).read_text() == SECRET
