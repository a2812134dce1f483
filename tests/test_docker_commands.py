"""``toolenv sandbox build``, ``doctor`` and ``serve``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker_engines import needs_docker

import toolenv
from agents import cli
from toolenv.errors import ConfigError, SandboxError
from toolenv.sandbox import Limits
from toolenv.sandbox import build as build_command
from toolenv.sandbox import doctor as doctor_command
from toolenv.sandbox.build import VERSION_LABEL, build
from toolenv.sandbox.docker import DEFAULT_IMAGE, DockerSandbox
from toolenv.sandbox.doctor import Finding, doctor, examine
from toolenv.sandbox.engine import connect
from toolenv.sandbox.process import ProcessSandbox
from toolenv.sandbox.reaper import PID, owner_labels

pytestmark = pytest.mark.core

DEAD = owner_labels() | {PID: str(2**22 + 1)}


# build ---------------------------------------------------------------------------------------------------------------


@needs_docker
def test_an_image_is_built_from_this_python_and_nothing_else_stays() -> None:
    tag = f"toolenv-test:{os.getpid()}"
    said: list[str] = []
    image = build(tag=tag, from_this_python=True, show=said.append)
    try:
        found = connect().images.get(tag)
        assert found.id == image
        assert found.labels == {VERSION_LABEL: toolenv.__version__}
        assert found.attrs["Config"]["User"] == "65534:65534"
        assert found.attrs["Size"] < 300e6
        assert "COPY --from=packing" in "".join(said)
        assert not [name for each in connect().images.list() for name in each.tags if name.startswith("toolenv-packed")]
        # NumPy brings libraries of its own; the others need those of the system.
        sandbox = DockerSandbox(image=tag, warm=())
        code = "import numpy, sympy, ssl, sqlite3, ctypes, lzma, bz2, zlib, hashlib, sys\n(sympy.sqrt(8), sys.version)"
        assert sandbox.exec(code, timeout_s=20).output == f"(2*sqrt(2), {sys.version!r})"
        sandbox.close()
    finally:
        connect().images.remove(tag, force=True)


@needs_docker
def test_a_base_that_cannot_be_had_is_named() -> None:
    with pytest.raises(SandboxError, match=r"from 'toolenv-no-such:9' \(.*--from-this-python"):
        build("toolenv-no-such:9", f"toolenv-test:{os.getpid()}", show=lambda text: None)


def test_two_bases_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match=r"base 'python:3\.12' and from_this_python exclude each other"):
        build("python:3.12", from_this_python=True)


def test_what_is_packed_is_what_python_needs(tmp_path: Path) -> None:
    """The packing by itself: it also runs where there is no engine."""
    packer = Path(build_command.__file__).with_name("image") / "pack.py"
    subprocess.run([sys.executable, str(packer), str(tmp_path / "root"), "--no-compile"], check=True, timeout=120)
    names = {path.name for path in tmp_path.rglob("*")}
    assert {"python", "os.py", "numpy", "sympy", "mpmath", "libc.so.6"} <= names
    assert not names & {"pip", "ensurepip", "tests", "test", "idlelib", "sh", "pytest", "gymnasium", "__pycache__"}
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink() and os.path.isabs(path.readlink())]


# doctor --------------------------------------------------------------------------------------------------------------


@needs_docker
def test_the_doctor_finds_the_docker_sandbox(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sandbox", "doctor"]) == 0
    lines = {line[10:28].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert f"built by toolenv {toolenv.__version__}" in lines["docker image"]
    for subject in ("docker engine", "docker sandbox", "process sandbox"):
        assert lines[subject].startswith("ok "), lines[subject]
    assert "NumPy" in lines["docker sandbox"]
    assert " ms" in lines["docker sandbox"]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with no engine, no bubblewrap, no namespaces, and sandboxes that are not started."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    monkeypatch.setattr("toolenv.sandbox.doctor.shutil", SimpleNamespace(which=lambda name: None))
    failed = SimpleNamespace(returncode=1)
    monkeypatch.setattr("toolenv.sandbox.doctor.subprocess", SimpleNamespace(run=lambda *_, **__: failed))
    monkeypatch.setattr(doctor_command, "_trial", lambda subject, make: Finding(subject, "missing", "does not work"))


def test_a_bare_machine_is_told_what_to_install(bare: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sandbox", "doctor"]) == 1
    told = capsys.readouterr().out
    assert "-> apt-get install bubblewrap" in told
    assert "-> unset DOCKER_HOST (it is 'tcp://127.0.0.1:9')" in told or "-> pip install 'toolenv[docker]'" in told
    assert told.splitlines()[-1] == "No sandbox here is for code you distrust."


@pytest.mark.parametrize(
    ("subject", "state", "works"),
    [
        ("docker sandbox", "ok", True),
        ("bwrap sandbox", "ok", True),
        ("process sandbox", "ok", False),  # it works, but is no wall
        ("docker sandbox", "missing", False),
        ("docker engine", "ok", False),
    ],
)
def test_the_verdict_is_that_of_the_trials(
    subject: str, state: Any, works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_command, "examine", lambda *_, **__: iter([Finding(subject, state, "seen")]))
    assert doctor() is works


@pytest.mark.parametrize("asked", [{"image": "mine:1"}, {"runtime": "runsc"}, {"image": DEFAULT_IMAGE}])
def test_the_verdict_is_of_what_was_asked_for(
    asked: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states: dict[str, Any] = {"docker sandbox": "missing", "bwrap sandbox": "ok"}
    found = [Finding(subject, state, "seen") for subject, state in states.items()]
    monkeypatch.setattr(doctor_command, "examine", lambda *_, **__: iter(found))
    assert (
        cli.main(["sandbox", "doctor", *(word for name, value in asked.items() for word in (f"--{name}", value))]) == 1
    )
    assert f"does not work with the {next(iter(asked))} {next(iter(asked.values()))!r}." in capsys.readouterr().out
    assert cli.main(["sandbox", "doctor"]) == 0


@needs_docker
@pytest.mark.parametrize(
    ("image", "mend"),
    [
        ("toolenv-no-such:9", "toolenv sandbox build --tag toolenv-no-such:9"),
        ("Nope Bad!", "name it as 'docker images' does"),
    ],
)
def test_an_image_that_is_not_there_is_named(image: str, mend: str) -> None:
    found = doctor_command._image(connect(), image)
    assert (found.state, repr(image) in found.seen, mend in found.mend) == ("missing", True, True)


@pytest.mark.parametrize(
    ("problem", "mend"),
    [
        ("no Docker engine answers at its usual address ([Errno 2] No such file)", "apt-get install docker.io"),
        ("'docker' is not installed; run: pip install 'toolenv[docker]'", "pip install 'toolenv[docker]'"),
        ("no Docker engine answers at its usual address ([Errno 13] Permission denied)", "usermod -aG docker"),
    ],
)
def test_what_mends_an_engine_depends_on_what_is_wrong(
    problem: str, mend: str, bare: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise SandboxError(problem)

    monkeypatch.setattr(doctor_command, "new_client", refuse)
    monkeypatch.delenv("DOCKER_HOST")
    found = {finding.subject: finding for finding in examine("image")}
    assert mend in found["docker engine"].mend
    assert "docker sandbox" not in found


class Engine:
    """An engine of one's own making: an old image, no seccomp, no limit on processes, and containers of the dead."""

    def __init__(self) -> None:
        self.api = self.images = self
        self.made = {"a": DEAD, "b": owner_labels(), "c": DEAD}

    def info(self) -> dict[str, Any]:
        limits = {"MemoryLimit": True, "SwapLimit": True, "PidsLimit": False, "CpuCfsQuota": True}
        runtimes: dict[str, Any] = {"runc": {}, "io.containerd.runc.v2": {}}
        return {"ServerVersion": "1.0", "Runtimes": runtimes, "SecurityOptions": ["name=rootless"], **limits}

    def get(self, image: str) -> SimpleNamespace:
        return SimpleNamespace(labels={VERSION_LABEL: "0.0.1"}, attrs={"Size": 2_000_000})

    def containers(self, all: bool, filters: dict[str, str]) -> list[dict[str, Any]]:
        assert all
        assert filters == {"label": "toolenv=sandbox"}
        return [{"Id": name, "Labels": labels} for name, labels in self.made.items()]

    def remove_container(self, container_id: str, force: bool) -> None:
        del self.made[container_id]

    def close(self) -> None:
        pass


def test_weaknesses_and_leftovers_are_told_and_mended(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("docker")
    engine = Engine()
    monkeypatch.setattr(doctor_command, "new_client", lambda: engine)
    found = {finding.subject: finding for finding in examine("old:1")}
    assert found["docker engine"].state == "weak"
    assert "runtimes runc, no seccomp; it cannot limit processes" in found["docker engine"].seen
    assert (found["docker image"].state, found["docker image"].mend) == ("weak", "toolenv sandbox build --tag old:1")
    assert "built by toolenv 0.0.1" in found["docker image"].seen
    assert found["containers"].seen == "1 in use, 2 of dead processes, 0 of other machines"
    assert found["containers"].mend == "toolenv sandbox doctor --clean"
    cleaned = {finding.subject: finding for finding in examine("old:1", clean=True)}
    assert cleaned["containers"].seen == "1 in use, 0 of dead processes, 0 of other machines; removed 2"
    assert set(engine.made) == {"b"}


def test_a_trial_tells_versions_and_times_or_what_is_wrong() -> None:
    good = doctor_command._trial("process sandbox", lambda: ProcessSandbox(warm=()))
    assert good.state == "ok"
    assert f"Python {sys.version.split()[0]}, NumPy" in good.seen
    without_packages = doctor_command._trial("process sandbox", lambda: ProcessSandbox(packages=(), warm=()))
    assert without_packages.state == "missing"
    assert "No module named" in without_packages.seen


# The command line ----------------------------------------------------------------------------------------------------


def test_options_arrive(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[Any, ...]] = []

    def record(*words: Any, **options: Any) -> str:
        calls.append((words, options))
        return "sha256:1"

    monkeypatch.setattr("toolenv.sandbox.build.build", record)
    monkeypatch.setattr("toolenv.sandbox.doctor.doctor", record)
    monkeypatch.setattr("toolenv.sandbox.serve.serve", record)
    monkeypatch.setenv("OTHER", "secret")
    monkeypatch.delenv("TOOLENV_SANDBOX_TOKEN", raising=False)
    assert cli.main(["sandbox", "build", "--base", "python:3.12", "--tag", "mine:2"]) == 0
    assert cli.main(["sandbox", "build", "--from-this-python"]) == 0
    assert cli.main(["sandbox", "doctor", "--image", "mine:2", "--runtime", "runsc", "--clean"]) == 0
    assert cli.main(["sandbox", "serve"]) == 0
    assert cli.main(["sandbox", "serve", "--sandbox", "bwrap", "--token-env", "OTHER", "--workers", "3"]) == 0
    made_of = ["--image", "mine:2", "--runtime", "runsc", "--memory-mb", "1024", "--max-processes", "9"]
    assert cli.main(["sandbox", "serve", "--sandbox", "docker", *made_of]) == 0
    here: dict[str, Any] = {"host": "127.0.0.1", "port": 8080}
    plain: dict[str, Any] = {"limits": None, "image": None, "runtime": None}
    limits = {"memory_bytes": 1 << 30, "max_processes": 9}
    assert calls == [
        (("python:3.12", "mine:2"), {"from_this_python": False}),
        ((None, "toolenv-python:1"), {"from_this_python": True}),
        (("mine:2",), {"runtime": "runsc", "clean": True}),
        (("auto",), {**here, "token": None, "workers": 2, **plain}),
        (("bwrap",), {**here, "token": "secret", "workers": 3, **plain}),
        (("docker",), {**here, "token": None, "workers": 2, "limits": limits, "image": "mine:2", "runtime": "runsc"}),
    ]
    assert capsys.readouterr().out.splitlines() == ["mine:2: sha256:1", "toolenv-python:1: sha256:1"]


def test_the_defaults_are_the_sandbox_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.parser().parse_args(["sandbox", "build"]).tag == DEFAULT_IMAGE
    for command, told in (
        ("doctor", ("(not given: toolenv-python:1)", "Exit status: 0 where")),
        ("serve", (f"(not given: {Limits().memory_bytes >> 20})", f"(not given: {Limits().max_processes})")),
        ("build", (f"(default: {DEFAULT_IMAGE})",)),
    ):
        with pytest.raises(SystemExit):
            cli.main(["sandbox", command, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert all(part in text for part in told)
        assert "(default: None)" not in text
        assert "(default: False)" not in text


def test_no_engine_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("docker")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    assert cli.main(["sandbox", "build"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("toolenv: no Docker engine answers at tcp://127.0.0.1:9")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["sandbox"],
        ["sandbox", "rebuild"],
        ["sandbox", "doctor", "--fix"],
        ["sandbox", "serve", "--memory-mb", "0"],
        ["sandbox", "serve", "--workers", "2.5"],
    ],
)
def test_wrong_usage_leaves_with_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert "usage: toolenv" in capsys.readouterr().err
