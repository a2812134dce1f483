"""The python tool with state: kept within an episode, lost with it, and built again from its record."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode

from toolenv.env import ToolEnv
from toolenv.envs.python_math import PythonMathEnv, make_vec
from toolenv.envs.python_session import PythonSession
from toolenv.envs.python_tool import FRESH, KEPT, NO_OUTPUT, PythonTool
from toolenv.episode import Task
from toolenv.errors import ConfigError, SandboxError
from toolenv.messages import ToolCall
from toolenv.sandbox import ExecJob, ExecResult, SandboxPool, make_sandbox
from toolenv.sandbox.patience import AT_FAULT
from toolenv.vector import ToolVectorEnv

pytestmark = pytest.mark.core

TASKS = [Task(id=f"t{i}", prompt=f"What is {i} + 1?", answers=(str(i + 1),)) for i in range(4)]


class Keeper:
    """Plays the worker: ``timeout`` and ``killed`` roll back, ``lose`` brings it down, and so does ``break`` once."""

    made: list[Keeper]

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.codes: list[str] = []
        self.broken = False
        self.closed = False
        self.made.append(self)

    def exec(self, code: str, *, timeout_s: float, max_output_bytes: int = 0) -> ExecResult:
        raise AssertionError("a stateful tool runs its programs in sessions")

    def exec_keeping(self, code: str, *, timeout_s: float, max_output_bytes: int = 0) -> ExecResult:
        assert not self.closed
        self.codes.append(code)
        if code in ("timeout", "killed"):
            return ExecResult("", "", code, None, 0.0, error=f"{code}!")  # type: ignore[arg-type]
        if code == "lose" or (code == "break" and not any("break" in other.codes for other in self.made[:-1])):
            raise SandboxError("lost")
        try:
            exec(code if code != "break" else "", self.names)
        except Exception as error:
            return ExecResult("", "", "error", 1, 0.0, error=repr(error))
        return ExecResult(str(self.names.get("x")), "", "ok", 0, 0.0)

    def end_session(self) -> None:
        self.names = {}
        self.codes.append("-- end --")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def made() -> list[Keeper]:
    Keeper.made = []
    return Keeper.made


@pytest.fixture
def pool(made: list[Keeper]) -> Iterator[SandboxPool]:
    pool = SandboxPool(Keeper, workers=2)
    yield pool
    pool.close()
    assert all(keeper.closed for keeper in made)


def call(env: ToolEnv, *programs: str) -> str:
    return "\n".join(env.format.write_call(ToolCall("python", {"code": code})) for code in programs)


def play(env: ToolEnv, *programs: str) -> str:
    """What the last program of a turn said."""
    env.step(call(env, *programs))
    return env.episode.turns[-1].results[-1].content


def held(pool: SandboxPool) -> int:
    """How many workers sessions hold, once what is given back has been."""
    crew = pool._crew
    with crew._changed:
        crew._changed.wait_for(lambda: not crew._renewing, timeout=30)
        return len(crew._made) - len(crew._idle)


# Within an episode ---------------------------------------------------------------------------------------------------


def test_state_is_kept_also_after_an_error_and_rolled_back_on_a_timeout(pool: SandboxPool) -> None:
    env = PythonMathEnv(TASKS, sandbox=pool, stateful=True)
    env.reset(seed=0)
    assert play(env, "x = 1") == "1"
    assert "ZeroDivisionError" in play(env, "x = 2; 1 / 0")
    assert play(env, "timeout") == "timeout!"
    assert play(env, "killed", "x += 10", "x += 100") == "112"
    assert held(pool) == 1


def test_a_program_in_a_fence_is_the_same_program_in_the_record(made: list[Keeper], pool: SandboxPool) -> None:
    env = PythonMathEnv(TASKS, sandbox=pool, stateful=True)
    env.reset(seed=0)
    assert play(env, "```python\nx = 1\n```") == "1"
    assert play(env, "x += 1") == "2"
    assert made[0].codes == ["x = 1", "x += 1"], "nothing ran again"
    again = PythonMathEnv(TASKS, sandbox=pool, stateful=True)
    again.reset(seed=0)
    again.set_state(env.get_state())
    assert play(again, "x += 1") == "3"


def test_the_model_is_told_what_is_kept(pool: SandboxPool) -> None:
    fresh, kept = (PythonTool(pool, stateful=stateful) for stateful in (False, True))
    assert (FRESH in fresh.schema["description"], KEPT in fresh.schema["description"]) == (True, False)
    assert (FRESH in kept.schema["description"], KEPT in kept.schema["description"]) == (False, True)
    env = gym.make("ToolPythonMath-v0", tasks=TASKS, sandbox=pool, stateful=True)
    assert KEPT in env.reset(seed=0)[0][0].content


def test_any_environment_may_have_the_tool(pool: SandboxPool) -> None:
    env = ToolEnv(TASKS, [PythonTool(pool, stateful=True)])
    for _ in range(2):
        env.reset(seed=0)
        assert (play(env, "x = globals().get('x', 0) + 1"), play(env, "x += 1")) == ("1", "2")
    env.close()
    assert held(pool) == 0


# Never beyond it -----------------------------------------------------------------------------------------------------

SEEN = "x = globals().get('x', 0) + 1"


@pytest.mark.parametrize("end", ["reset", "answer", "max_turns", "truncate", "close", "dropped", "set_state"])
def test_the_end_of_an_episode_is_the_end_of_its_state(pool: SandboxPool, end: str) -> None:
    env = PythonMathEnv(TASKS, sandbox=pool, stateful=True, max_turns=2)
    env.reset(seed=0)
    blank = env.get_state()
    assert play(env, SEEN) == "1"
    assert held(pool) == 1
    match end:
        case "reset":
            env.reset(seed=1)
        case "answer":
            env.step("<answer>1</answer>")
        case "max_turns":
            env.step("hm")
        case "truncate":
            env.truncate("token_budget")
        case "close":
            env.close()
        case "set_state":
            env.set_state(blank)
        case "dropped":
            env = PythonMathEnv(TASKS, sandbox=pool, stateful=True)
    with pool.session() as session:
        session.exec("pass", timeout_s=1)  # a worker that garbage collection gave back is taken again
    assert held(pool) == 0
    if end != "set_state":
        env.reset(seed=1)
    assert play(env, SEEN) == "1"


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_vector_environments_keep_their_states_apart(pool: SandboxPool, mode: AutoresetMode) -> None:
    envs = make_vec(3, tasks=TASKS, sandbox=pool, stateful=True, max_turns=3, autoreset_mode=mode)
    envs.reset(seed=0)
    write = envs.envs[0].format.write_call
    grow = write(ToolCall("python", {"code": SEEN}))

    def said(i: int) -> str:
        return envs.envs[i].episode.turns[-1].results[-1].content

    envs.step([grow, grow, grow + grow])
    assert [said(i) for i in range(3)] == ["1", "1", "2"]
    envs.step([grow, "<answer>1</answer>", grow])
    assert held(pool) == 2
    if mode == AutoresetMode.DISABLED:
        envs.reset(seed=5, options={"reset_mask": [False, True, False]})
    envs.step([grow] * 3)  # with NEXT_STEP, the second environment takes it to be reset
    if mode == AutoresetMode.NEXT_STEP:
        assert held(pool) == 0
        envs.step([grow] * 3)
    assert said(1) == "1"
    envs.close()
    assert held(pool) == 0


def test_one_list_of_work_for_all_running_episodes(pool: SandboxPool, monkeypatch: pytest.MonkeyPatch) -> None:
    lists: list[int] = []
    batch = PythonTool.batch

    def counted(self: PythonTool, arguments: Any, sessions: Any = ()) -> Any:
        lists.append(len(arguments))
        return batch(self, arguments, sessions)

    monkeypatch.setattr(PythonTool, "batch", counted)
    envs = gym.make_vec("ToolPythonMath-v0", 4, tasks=TASKS, sandbox=pool, stateful=True)
    assert isinstance(envs, ToolVectorEnv)
    envs.reset(seed=0)
    action = call(envs.envs[0], "x = 1")
    envs.step([action, action, action + action, "hm"])
    assert lists == [4]
    envs.close()


def test_episodes_may_be_played_from_several_threads(pool: SandboxPool) -> None:
    first = PythonMathEnv(TASKS, sandbox=pool, stateful=True)
    envs = [first, *(first.sibling() for _ in range(5))]

    def episode(env: PythonMathEnv) -> list[str]:
        env.reset(seed=0)
        said = [play(env, SEEN) for _ in range(5)]
        env.truncate("token_budget")
        return said

    with ThreadPoolExecutor(6) as threads:
        for _ in range(3):
            assert list(threads.map(episode, envs)) == [list("12345")] * 6
    assert held(pool) == 0


# From a record -------------------------------------------------------------------------------------------------------


def test_branches_of_an_episode_do_not_meet(pool: SandboxPool, made: list[Keeper]) -> None:
    env = PythonMathEnv(TASKS, sandbox=pool, stateful=True)
    env.reset(seed=0)
    for program in ("x = 1", "1 / 0", "timeout", "x += 1"):
        play(env, program)
    state = env.get_state()
    played = [code for keeper in made for code in keeper.codes]
    assert play(env, "x += 10") == "12"
    for amount in (100, 200):
        env.set_state(copy.deepcopy(state))
        assert play(env, f"x += {amount}") == str(2 + amount)
    assert play(env, "x += 1") == "203"
    replays = [code for keeper in made for code in keeper.codes][len(played) :]
    assert (replays.count("1 / 0"), replays.count("timeout")) == (2, 0), "what was rolled back does not run again"
    other = PythonMathEnv(TASKS, sandbox=pool, stateful=True)
    other.set_state(state)
    assert play(other, "x += 5") == "7"
    assert play(env, "x += 1") == "204"
    other.close()
    env.close()
    assert held(pool) == 0


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "sibling"])
def test_a_copy_of_an_environment_has_a_session_of_its_own(pool: SandboxPool, way: str) -> None:
    tool = PythonTool(pool, stateful=True)
    env = ToolEnv(TASKS, [tool])
    env.reset(seed=0)
    play(env, "x = 1")
    if way == "sibling":
        twin = env.sibling()
        twin.set_state(env.get_state())
    elif way == "deepcopy":
        twin = copy.deepcopy(env)
    else:
        assert pickle.loads(pickle.dumps(env._sessions))._open == {}
        return
    assert play(twin, "x += 1") == "2"
    assert (play(env, "x += 10"), play(twin, "x += 1")) == ("11", "3")
    twin.close()
    assert play(env, "x += 10") == "21"


def test_a_turn_that_was_planned_and_never_run_changes_nothing(pool: SandboxPool) -> None:
    env = PythonMathEnv(TASKS, sandbox=pool, stateful=True)
    env.reset(seed=0)
    play(env, "x = 1")
    plan = env.plan(call(env, "x = 50"))
    assert len(plan.jobs) == 1
    assert play(env, "x += 1") == "2"


# Lost workers --------------------------------------------------------------------------------------------------------


def test_a_lost_worker_is_made_good_from_the_record(pool: SandboxPool, made: list[Keeper]) -> None:
    env = PythonMathEnv(TASKS, sandbox=pool, stateful=True)
    env.reset(seed=0)
    assert [play(env, code) for code in ("x = 1", "x += 1", "break", "x += 1")] == ["1", "2", "2", "3"]
    assert [result.data["status"] for turn in env.episode.turns for result in turn.results] == ["ok"] * 4
    assert sum(keeper.closed for keeper in made) == 1


def test_a_program_that_loses_two_workers_is_killed_and_the_state_is_as_before(pool: SandboxPool) -> None:
    env = PythonMathEnv(TASKS, sandbox=pool, stateful=True)
    env.reset(seed=0)
    assert play(env, "x = 1") == "1"
    assert play(env, "lose") == AT_FAULT
    assert play(env, "x += 1") == "2"


def test_what_does_not_run_again_as_it_did_is_the_machines_fault(pool: SandboxPool) -> None:
    session = PythonSession(pool.session, "python")
    assert not isinstance(session.run(ExecJob("x = 1")), SandboxError)
    session.done[0] = type(session.done[0])("1 / 0", "ok")
    session.close()
    result = session.run(ExecJob("x"))
    assert isinstance(result, SandboxError)
    assert "'ok' now ends with 'error'" in str(result)


def test_a_lost_sandbox_is_asked_no_more_often_than_the_pool_does(made: list[Keeper]) -> None:
    class Dead(Keeper):
        def exec_keeping(self, code: str, *, timeout_s: float, max_output_bytes: int = 0) -> ExecResult:
            raise SandboxError("gone")

        def exec(self, code: str, *, timeout_s: float, max_output_bytes: int = 0) -> ExecResult:
            self.codes.append(code)
            raise SandboxError("gone")

    for stateful in (False, True):
        made.clear()
        pool = SandboxPool(Dead, workers=1)
        env = PythonMathEnv(TASKS, sandbox=pool, stateful=stateful)
        env.reset(seed=0)
        with pytest.raises(SandboxError, match="gone"):
            env.step(call(env, "x = 1"))
        pool.close()
        assert len(made) <= 4


# Real workers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["process", "bwrap", "docker"])
def real(request: pytest.FixtureRequest) -> Iterator[SandboxPool]:
    try:
        pool = make_sandbox(request.param, workers=1)
        pool.start()
    except SandboxError as error:
        pytest.skip(f"{request.param} does not work here: {error}")
    yield pool
    pool.close()


def test_an_episode_with_real_workers(real: SandboxPool) -> None:
    env = PythonMathEnv(TASKS, sandbox=real, stateful=True, timeout_s=2.0)
    env.reset(seed=0)
    assert play(env, "import sympy\nx = sympy.Symbol('x')\nopen('f', 'w').write('kept')\ny = 5") == NO_OUTPUT
    assert "ZeroDivisionError" in play(env, "y = 6\n1 / 0")
    assert play(env, "y = 7\nwhile True: pass").startswith("timed out after 2 s")
    assert play(env, "(y, sympy.expand((x + 1)**2), open('f').read())") == "(6, x**2 + 2*x + 1, 'kept')"
    state = env.get_state()
    assert "SIGKILL" in play(env, "y = 8\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert play(env, "y += 1; y") == "7"
    env.set_state(state)
    assert play(env, "y += 10; (y, open('f').read())") == "(16, 'kept')"
    env.reset(seed=1)
    assert "NameError" in play(env, "y")
    assert "FileNotFoundError" in play(env, "open('f')")
    env.close()
    assert real.exec("6 * 7", timeout_s=10).value == "42"


def test_many_episodes_with_real_workers(real: SandboxPool) -> None:
    envs = make_vec(3, tasks=TASKS, sandbox=real, stateful=True)
    write = envs.envs[0].format.write_call
    for _ in range(2):
        envs.reset(seed=0)
        for said in ("1", "2"):
            envs.step(
                [write(ToolCall("python", {"code": f"n = globals().get('n', 0) + 1\n(n, {i})"})) for i in range(3)]
            )
            contents = [env.episode.turns[-1].results[-1].content for env in envs.envs]
            assert contents == [f"({said}, {i})" for i in range(3)]
    envs.close()
    assert held(real) == 0


# Settings ------------------------------------------------------------------------------------------------------------


def test_bad_settings_are_named(pool: SandboxPool) -> None:
    alone = Keeper()
    with pytest.raises(ConfigError, match="SandboxPool"):
        PythonTool(alone, stateful=True)
    alone.close()
    with pytest.raises(ConfigError, match="keeps no state"):
        PythonMathEnv(TASKS, sandbox=PythonTool(pool), stateful=True)
    with pytest.raises(ConfigError, match="through an environment"):
        PythonTool(pool, stateful=True)(code="1")
