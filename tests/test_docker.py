"""The Docker sandbox: the walls that a started container really has, and what its loss looks like."""

from __future__ import annotations

import gc
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from docker_engines import Proxy, container_id, needs_docker, plain, proxy, wait_until_gone

from toolenv.errors import SandboxError
from toolenv.sandbox import ExecResult, Limits, client, engine
from toolenv.sandbox import docker as docker_sandbox
from toolenv.sandbox.docker import DockerSandbox, container_options
from toolenv.sandbox.engine import connect

__all__ = ["proxy"]  # a fixture

pytestmark = pytest.mark.core

LIMITS = Limits(memory_bytes=200 << 20, max_processes=24)
PERIOD_US = 20_000


@pytest.fixture(scope="module")
def sandbox() -> Iterator[DockerSandbox]:
    made = DockerSandbox(LIMITS, runtime="runc")
    made.start()
    yield made
    made.close()


def told(sandbox: DockerSandbox, code: str) -> Any:
    """What a program says as JSON."""
    result = sandbox.exec(f"import json, os\n{code}", timeout_s=20, max_output_bytes=1 << 20)
    assert result.status == "ok", result.output
    return json.loads(result.stdout)


# The walls -----------------------------------------------------------------------------------------------------------


@needs_docker
def test_the_engine_confirms_the_options(sandbox: DockerSandbox) -> None:
    seen = connect().api.inspect_container(container_id(sandbox))
    host, config = seen["HostConfig"], seen["Config"]
    expected = {
        "NetworkMode": "none",
        "Runtime": "runc",
        "ReadonlyRootfs": True,
        "Privileged": False,
        "CapAdd": None,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Memory": 200 << 20,
        "MemorySwap": 200 << 20,
        "PidsLimit": 24,
        "CpuPeriod": PERIOD_US,
        "CpuQuota": PERIOD_US,
        "IpcMode": "private",
        "ShmSize": 16 << 20,
        "AutoRemove": True,
        "Binds": None,
    }
    assert {name: host[name] for name in expected} == expected
    assert host["LogConfig"]["Type"] == "none"
    assert not host["Devices"]
    assert (config["OpenStdin"], config["StdinOnce"], config["Tty"]) == (True, True, False)
    assert config["Entrypoint"] is None or config["Entrypoint"] == []
    names = {setting.partition("=")[0] for setting in config["Env"]}
    assert names == set(client.ENVIRONMENT)


@needs_docker
def test_no_right_is_left_in_process_1_nor_in_a_program(sandbox: DockerSandbox) -> None:
    for pid in ("1", "self"):
        code = f"print(json.dumps(dict(line.split(':\t') for line in open('/proc/{pid}/status') if ':\t' in line)))"
        status = {name: value.strip() for name, value in told(sandbox, code.replace("\t", "\\t")).items()}
        capabilities = {name: value for name, value in status.items() if name.startswith("Cap")}
        assert len(capabilities) == 5
        assert set(capabilities.values()) == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        for kind in ("Uid", "Gid"):
            ids = set(status[kind].split())
            assert len(ids) == 1
            assert 20_000 <= int(ids.pop()) < 60_000
        assert status.get("Groups", "") in ("", status["Gid"].split()[0])


@needs_docker
def test_the_cgroup_holds_the_limits(sandbox: DockerSandbox) -> None:
    """Read in the container: what the engine was told is what the kernel does."""
    files = {
        "memory/memory.limit_in_bytes": 200 << 20,
        "memory/memory.memsw.limit_in_bytes": 200 << 20,
        "pids/pids.max": 24,
        "cpu/cpu.cfs_quota_us": PERIOD_US,
        "cpu/cpu.cfs_period_us": PERIOD_US,
    }
    files_v2 = {"memory.max": 200 << 20, "memory.swap.max": 0, "pids.max": 24, "cpu.max": f"{PERIOD_US} {PERIOD_US}"}
    info = connect().info()
    expected = files_v2 if info.get("CgroupVersion") == "2" else files
    if not info["SwapLimit"]:
        expected = {name: value for name, value in expected.items() if "memsw" not in name and "swap" not in name}
    code = f"print(json.dumps([open('/sys/fs/cgroup/' + name).read().strip() for name in {list(expected)}]))"
    assert told(sandbox, code) == [str(value) for value in expected.values()]


@needs_docker
def test_only_two_small_folders_can_be_written_to(sandbox: DockerSandbox) -> None:
    code = """
import stat
found = []
for top, folders, names in os.walk('/'):
    folders[:] = [] if top == '/proc' else folders
    for path in (top, *(os.path.join(top, name) for name in names)):
        mode = os.lstat(path).st_mode
        if (stat.S_ISDIR(mode) or stat.S_ISREG(mode)) and os.access(path, os.W_OK):
            found.append(path)
mounts = [line.split() for line in open('/proc/mounts')]
print(json.dumps([sorted(found), {m[1]: m[3].split(',') for m in mounts}]))"""
    writable, mounts = told(sandbox, code)
    assert writable == ["/dev/shm", "/tmp"]
    assert "ro" in mounts["/"]
    assert {"nosuid", "nodev", "noexec", "size=65536k", "nr_inodes=4096"} <= set(mounts["/tmp"])
    assert {"nosuid", "nodev", "noexec", "size=16384k"} <= set(mounts["/dev/shm"])
    for folder in ("/sys", "/dev/mqueue", "/proc/sys", "/proc/bus"):
        assert "ro" in mounts[folder], folder


@needs_docker
def test_the_image_holds_python_and_nothing_else_to_run(sandbox: DockerSandbox) -> None:
    code = """
import stat
programs, raised = [], []
for top, folders, names in os.walk('/'):
    folders[:] = [] if top in ('/proc', '/sys', '/dev') else folders
    for path in (os.path.join(top, name) for name in names + folders):
        mode = os.lstat(path).st_mode
        if mode & (stat.S_ISUID | stat.S_ISGID):
            raised.append(path)
        if stat.S_ISREG(mode) and mode & 0o111 and os.path.getsize(path):  # .dockerenv is empty
            programs.append(path)
print(json.dumps([programs, raised]))"""
    programs, raised = told(sandbox, code)
    assert raised == []
    others = [path for path in programs if not os.path.basename(path).startswith(("python", "ld-"))]
    assert others == []
    assert told(sandbox, "import importlib.util\nprint(json.dumps(importlib.util.find_spec('pip') is None))")


@needs_docker
def test_bytecode_is_in_the_image_and_is_not_checked_against_its_source(sandbox: DockerSandbox) -> None:
    code = "import sympy, importlib.util as u\nprint(json.dumps(list(open(sympy.__cached__, 'rb').read(8)[4:])))"
    assert told(sandbox, code) == [1, 0, 0, 0]  # by hash, unchecked (PEP 552)


@needs_docker
def test_there_is_no_network_but_loopback_and_no_name_of_the_host(sandbox: DockerSandbox) -> None:
    code = (
        "print(json.dumps([[l.split(':')[0].strip() for l in open('/proc/net/dev') if ':' in l], os.uname().nodename]))"
    )
    assert told(sandbox, code) == [["lo"], "sandbox"]


@needs_docker
def test_message_queues_do_not_stay(sandbox: DockerSandbox) -> None:
    """Files in /dev/mqueue would outlive the call that makes them."""
    result = sandbox.exec("open('/dev/mqueue/left', 'w')", timeout_s=5)
    assert "Read-only file system" in result.output or "No such file" in result.output


def test_each_container_has_a_user_of_its_own() -> None:
    users = {container_options(Limits())["user"] for _ in range(16)}
    assert len(users) == 16
    assert not users & {"0:0", "root"}


def test_gvisor_has_room_for_its_own_threads() -> None:
    wanted = {runtime: container_options(Limits(), runtime)["pids_limit"] for runtime in (None, "runc", "runsc-kvm")}
    assert wanted == {None: 64, "runc": 64, "runsc-kvm": 2048}


# What cannot be started ----------------------------------------------------------------------------------------------


def own_containers() -> set[str]:
    """Ids of the containers that this process made."""
    found = connect().api.containers(all=True, filters={"label": f"toolenv.owner.pid={os.getpid()}"})
    return {container["Id"] for container in found}


@needs_docker
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "toolenv-no-such:9"}, r"no image 'toolenv-no-such:9'; make it: toolenv sandbox build"),
        ({"runtime": "toolenv-none"}, r"no runtime 'toolenv-none', only .*runc.*daemon\.json"),
        ({"limits": Limits(memory_bytes=8 << 20)}, "the container ran out of memory"),
        ({"limits": Limits(memory_bytes=1 << 20)}, "(?i)minimum memory limit"),
    ],
)
def test_what_cannot_be_started_says_why_and_leaves_nothing(options: dict[str, Any], message: str) -> None:
    before = own_containers()
    made = plain(**options)
    with pytest.raises(SandboxError, match=message):
        made.start()
    made.close()
    for container in own_containers() - before:
        wait_until_gone(container)


@needs_docker
def test_an_interrupted_start_leaves_no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        assert own_containers() - before, "the container is made by now"
        raise KeyboardInterrupt

    before = own_containers()
    monkeypatch.setattr(docker_sandbox, "attach", interrupt)
    with pytest.raises(KeyboardInterrupt):
        plain().start()
    assert own_containers() == before


def test_an_engine_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("docker")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with pytest.raises(SandboxError, match=r"no Docker engine answers at tcp://127\.0\.0\.1:9 .*refused"):
        plain().start()


def test_an_engine_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("docker")
    monkeypatch.setattr(engine, "PING_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(SandboxError, match=r"no Docker engine answers .*timed out"):
            plain().start()


# What is lost --------------------------------------------------------------------------------------------------------


def lose(sandbox: DockerSandbox, how: Callable[[], Any], timeout_s: float = 30.0) -> str:
    """Do something to the container while a call runs; the error of the call."""
    caught: list[BaseException | ExecResult] = []

    def call() -> None:
        try:
            caught.append(sandbox.exec("import time; time.sleep(60)", timeout_s=timeout_s))
        except SandboxError as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.3)
    started = time.monotonic()
    how()
    thread.join(30)
    assert time.monotonic() - started < 15
    assert isinstance(caught[0], SandboxError)
    return str(caught[0])


@needs_docker
@pytest.mark.parametrize("how", ["kill", "remove_container"])
def test_a_container_that_is_ended_from_outside_is_lost_and_the_next_call_has_another(how: str) -> None:
    sandbox = plain()
    lost = container_id(sandbox)
    options = {"force": True} if how == "remove_container" else {}
    assert "the worker is gone" in lose(sandbox, lambda: getattr(connect().api, how)(lost, **options))
    assert sandbox.exec("6 * 7", timeout_s=5).value == "42"
    assert container_id(sandbox) != lost
    sandbox.close()
    wait_until_gone(lost)


@needs_docker
def test_a_container_that_is_stopped_is_given_up_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "GRACE_S", 0.3)
    monkeypatch.setattr(client, "SEND_GRACE_S", 1.0)
    sandbox = plain()
    stopped = container_id(sandbox)
    assert "no answer within" in lose(sandbox, lambda: connect().api.pause(stopped), timeout_s=1.0)
    wait_until_gone(stopped)
    stopped = container_id(sandbox)
    connect().api.pause(stopped)
    with pytest.raises(SandboxError, match="timed out"):  # it does not even read the program
        sandbox.exec("#" * (8 << 20), timeout_s=1)
    wait_until_gone(stopped)
    sandbox.close()


@needs_docker
def test_an_engine_that_goes_away_is_a_loss_and_its_container_ends_by_itself(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = plain()
    lost = container_id(sandbox)
    assert sandbox.exec("6 * 7", timeout_s=5).value == "42"  # over TCP
    lose(sandbox, proxy.cut)
    with pytest.raises(SandboxError, match="Docker engine does not answer"):
        sandbox.exec("1", timeout_s=1)
    monkeypatch.undo()
    wait_until_gone(lost)
    assert sandbox.exec("6 * 7", timeout_s=5).value == "42"  # there is an engine again
    sandbox.close()


@needs_docker
def test_starting_and_closing_leaves_nothing_behind() -> None:
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    counts = []
    gc.collect()  # what earlier tests left
    for _ in range(21):  # the first one makes the client
        sandbox = plain()
        container = container_id(sandbox)
        sandbox.close()
        counts.append(held())
        wait_until_gone(container)
    files, threads = zip(*counts, strict=True)
    assert files[-1] <= files[0]
    assert threads[-1] <= threads[0]
