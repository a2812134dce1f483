"""Which sandbox it is, and with which settings: wherever one is used, and said at once where it cannot be."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from typing import Any

import gymnasium as gym
import pytest
from servers import serve

import toolenv
from tests.docker_engines import needs_docker
from toolenv.envs.python_math import PythonMathEnv
from toolenv.envs.python_tool import PythonTool
from toolenv.errors import ConfigError, MissingExtraError, SandboxError
from toolenv.sandbox import Limits, SandboxPool, make_sandbox, shared_sandbox
from toolenv.sandbox.docker import DEFAULT_IMAGE, DockerSandbox
from toolenv.sandbox.process import ProcessSandbox
from toolenv.sandbox.serve import serve as serve_sandbox
from toolenv.sandbox.settings import TOKEN_ENV, PoolSettings, sandbox_of

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("no_proxy")]

LONG_S = 30.0
BIG_FILE = "with open('f', 'wb') as f:\n    f.write(b'x' * 2000)"
TASK = [toolenv.Task(id="t", prompt="?", answers=("1",))]


def tell(env: Any, code: str) -> str:
    """What a model is told of a program."""
    env.reset(seed=0)
    conversation, *_ = env.step(env.unwrapped.format.write_call(toolenv.ToolCall("python", {"code": code})))
    return str(conversation[-1].content)


def test_limits_are_set_where_the_environment_is_made() -> None:
    given = json.loads('{"sandbox": "process", "workers": 1, "timeout_s": 30, "limits": {"max_file_bytes": 1000}}')
    env = gym.make("ToolPythonMath-v0", **given)
    assert "OSError" in tell(env, BIG_FILE)
    shared_sandbox("process", workers=1, limits=Limits(max_file_bytes=1000)).close()


def test_an_address_is_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    run = {"status": "Finished", "execution_time": 0.1, "return_code": 0, "stdout": "42\n", "stderr": ""}
    answer = json.dumps({"status": "Success", "message": "", "run_result": run})
    monkeypatch.setenv(TOKEN_ENV, "open sesame\n")
    with serve(lambda request: (200, {}, answer)) as served:
        env = PythonMathEnv(TASK, **json.loads(json.dumps({"sandbox": served.url})))
        assert "42" in tell(env, "print(6 * 7)")
        assert served.requests[-1].headers["Authorization"] == "Bearer open sesame"
        with pytest.raises(ConfigError, match=r"stateful=True needs .*RemoteSandbox\("):
            PythonTool(served.url, stateful=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sandbox": None}, "sandbox must be one of auto, .*, or an object with the methods exec and close; got None"),
        ({"sandbox": ProcessSandbox}, "got <class"),
        ({"sandbox": "localhost:8080"}, "unknown sandbox 'localhost:8080'; .* such as http://localhost:8080"),
        ({"sandbox": "bwrap", "image": "x"}, "sandbox 'bwrap' takes no image, which is for 'docker'; got 'x'"),
        ({"sandbox": "process", "runtime": "runsc"}, "sandbox 'process' takes no runtime"),
        ({"sandbox": "docker", "image": ""}, "image must be a name, not ''"),
        ({"sandbox": "docker", "image": 5}, "image must be text, not 5"),
        ({"sandbox": "http://host", "limits": Limits()}, "limits cannot be set beside 'http://host'"),
        ({"sandbox": SandboxPool(ProcessSandbox), "image": "x"}, r"image cannot be set beside SandboxPool\("),
        ({"sandbox": "process", "limits": {"memory": 1}}, "no limit 'memory'; choose from memory_bytes, "),
        ({"sandbox": "process", "limits": "1g"}, "limits must be a Limits, or a mapping such as .*; got '1g'"),
        ({"sandbox": "process", "limits": {"memory_bytes": "1g"}}, "memory_bytes must be .*; got '1g'"),
        ({"sandbox": "http://host", "workers": 2.5}, "workers must be .*; got 2.5"),
    ],
)
@pytest.mark.parametrize("use", [PythonTool, lambda **given: PythonMathEnv(TASK, **given), serve_sandbox])
def test_what_does_not_fit_is_refused_where_it_is_given(use: Any, given: dict[str, Any], message: str) -> None:
    try:
        with pytest.raises(ConfigError, match=message):
            use(**given)
    except MissingExtraError as error:
        pytest.skip(str(error))


def test_a_tool_that_is_made_already_has_its_settings() -> None:
    with pytest.raises(ConfigError, match=r"limits cannot be set beside PythonTool\('process'"):
        PythonMathEnv(TASK, sandbox=PythonTool("process"), limits=Limits())


def test_other_settings_are_another_shared_pool() -> None:
    assert PoolSettings("docker") == PoolSettings("docker", image=DEFAULT_IMAGE)
    tools = [PythonTool("process", workers=1, limits={"max_processes": count}) for count in (7, 7, 8)]
    first, second, other = (tool._started() for tool in tools)
    assert first is second
    assert first is not other
    assert isinstance(sandbox_of("auto", image="mine:1", limits={"max_processes": 7}), PoolSettings)


def test_what_is_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match="bwrap is not installed; install the package 'bubblewrap'"):
        make_sandbox("bwrap")


@pytest.mark.parametrize("asked", [{"image": "toolenv-no-such:9"}, {"runtime": "no-such-runtime"}])
@pytest.mark.parametrize("engine", ["there", "none"])
def test_what_was_asked_for_is_not_stepped_down_from(
    asked: dict[str, Any], engine: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if engine == "none":
        monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with (
        caplog.at_level(logging.WARNING, "toolenv.sandbox"),
        pytest.raises(SandboxError, match=f"with {next(iter(asked))}, the sandbox can only be Docker's. Not docker: "),
    ):
        make_sandbox("auto", **asked)
    assert not caplog.records


@needs_docker
@pytest.mark.parametrize("image", ["Nope Bad!", "toolenv-no-such:9"])
def test_an_image_that_is_none_is_at_fault_and_not_the_engine(image: str) -> None:
    with pytest.raises(SandboxError, match=f"image {image!r}") as refused:
        make_sandbox("docker", image=image)
    assert "does not answer" not in str(refused.value)
    nothing: Any = None
    with pytest.raises(ConfigError, match="image must be text, not None"):
        DockerSandbox(image=nothing)


def test_a_pool_is_pickled_by_its_settings() -> None:
    pool = make_sandbox("process", workers=3, limits=Limits(max_file_bytes=1000))
    pool.exec("1", timeout_s=LONG_S)
    other = pickle.loads(pickle.dumps(PythonTool(pool)))._started()
    assert (repr(other), other is pool) == ("SandboxPool('process', workers=3)", False)
    assert "OSError" in (other.exec(BIG_FILE, timeout_s=LONG_S).error or "")
    assert copy.copy(pool) is copy.deepcopy(pool) is pool
    other.close()
    assert pool.exec("6 * 7", timeout_s=LONG_S).value == "42"  # and goes on
    pool.close()
