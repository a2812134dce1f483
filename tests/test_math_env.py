"""The mathematics environment, its tasks and its loader."""

from __future__ import annotations

import copy
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.data.math import load_math_jsonl, math_tasks
from toolenv.data.math.algebra import exact_determinant
from toolenv.data.math.counting import lattice_paths
from toolenv.data.math.tasks import GENERATORS, split_of
from toolenv.env import ToolEnv
from toolenv.envs.fence import unfenced
from toolenv.envs.python_math import PythonMathEnv, make_vec
from toolenv.envs.python_tool import NO_OUTPUT, PythonTool
from toolenv.episode import Task
from toolenv.errors import ConfigError, DataError, SandboxError
from toolenv.grading.math import math_equal
from toolenv.messages import ToolCall
from toolenv.sandbox import ExecJob, ExecResult, SandboxPool
from toolenv.sandbox.process import ProcessSandbox
from toolenv.sandbox.shortening import shorten
from toolenv.seeding import rng
from toolenv.vector import ToolVectorEnv

pytestmark = pytest.mark.core

TASKS = [Task(id=f"t{i}", prompt=f"What is {i} + 1?", answers=(str(i + 1),)) for i in range(5)]
SHARED_DATA = Path(os.environ.get("TOOLENV_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    made = SandboxPool(ProcessSandbox, workers=2)
    yield made
    made.close()


def call(env: ToolEnv, *programs: str) -> str:
    return "\n".join(env.format.write_call(ToolCall("python", {"code": code})) for code in programs)


# The environment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["hermes", "torl", "toolrl"])
def test_gymnasium_finds_nothing_to_say(pool: SandboxPool, format: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("ToolPythonMath-v0", tasks=TASKS, sandbox=pool, format=format).unwrapped)


def test_the_registered_environment_cuts_after_six_turns(pool: SandboxPool) -> None:
    env = gym.make("ToolPythonMath-v0", sandbox=pool)
    env.reset(seed=3)
    cut = [env.step("hm")[3] for _ in range(6)]
    assert cut == [False] * 5 + [True]
    assert isinstance(env.unwrapped, PythonMathEnv)
    assert env.unwrapped.episode.task in math_tasks("train")


def test_an_episode(pool: SandboxPool) -> None:
    env = PythonMathEnv(TASKS, sandbox=pool)
    env.reset(seed=0)
    observation, _, _, _, info = env.step(call(env, "1 / 0", "print(6 * 7)", "x = 1"))
    assert info["num_calls"] == 3
    assert "ZeroDivisionError" in observation[-3].content
    assert observation[-2].content == "<tool_response>\n42\n</tool_response>"
    assert NO_OUTPUT in observation[-1].content
    results = env.episode.turns[0].results
    assert [(r.error, r.data["status"]) for r in results] == [("tool_error", "error"), (None, "ok"), (None, "ok")]
    _, _, terminated, truncated, info = env.step("<answer> 42 </answer>")
    assert (terminated, truncated, info["reason"], env.episode.answer) == (True, False, "answer", "42")


def test_a_box_in_a_turn_without_calls_is_an_answer(pool: SandboxPool) -> None:
    env = PythonMathEnv(TASKS, sandbox=pool)
    env.reset(seed=0)
    env.step("I compute. " + call(env, "print(1)") + " Perhaps \\boxed{1}.")
    assert env.episode.answer is None
    env.step("So it is \\boxed{\\frac{1}{2}}.")
    assert env.episode.answer == "\\frac{1}{2}"


def test_limits_are_told(pool: SandboxPool) -> None:
    tool = PythonTool(pool, timeout_s=0.3, max_output_bytes=100)
    endless, long, killed = tool.batch(
        [{"code": code} for code in ("print('a')\nwhile True: pass", "'x' * 5000", "import os; os.abort()")]
    )
    assert not isinstance(endless, SandboxError)
    assert (endless.content, endless.error, endless.data) == (
        "a\ntimed out after 0.3 s", "timeout", {"status": "timeout"}
    )  # fmt: skip
    assert not isinstance(long, SandboxError)
    assert len(long.content) < 160
    assert "bytes left out" in long.content
    assert not isinstance(killed, SandboxError)
    assert (killed.error, killed.data) == ("tool_error", {"status": "killed"})
    assert "SIGABRT" in killed.content


def test_warnings_show_only_where_nothing_else_does(pool: SandboxPool) -> None:
    tool = PythonTool(pool)
    assert tool(code="import sys\nprint('w', file=sys.stderr)\nprint('out')").content == "out"
    assert tool(code="import sys\nprint('w', file=sys.stderr)").content == "w"


@pytest.mark.parametrize(
    "code",
    [
        "```python\nx = 6\nx * 7\n```",
        "\n```\nx = 6\nx * 7\n```\n\n",
        "``` Python3\r\nx = 6\r\nx * 7\r\n``` ",
        "````py\n'```'\n# ```\n42\n````",
    ],
)
def test_a_program_in_a_fence_runs(pool: SandboxPool, code: str) -> None:
    assert PythonTool(pool)(code=code).content == "42"


@pytest.mark.parametrize(
    "code",
    [
        "```python\n1\n```\nand\n```python\n2\n```",
        "So:\n```python\n1\n```",
        "```python\n1",
        "```",
        "``` ```",
        "```javascript\n1\n```",
        "x = 1\n```python\n1\n```",
        "1",
    ],
)
def test_what_is_not_one_fenced_block_is_left_as_it_is(code: str) -> None:
    assert unfenced(code) == code


@given(text=st.text(st.characters(), max_size=60), limit=st.integers(1, 30))
def test_shorten_keeps_head_and_tail(text: str, limit: int) -> None:
    short, size = shorten(text, limit), len(text.encode("utf-8", "surrogatepass"))
    if size <= limit:
        assert short == text
    else:
        head, tail = short.split("\n... [")[0], short.rsplit("] ...\n", 1)[1]
        kept = len((head + tail).encode("utf-8", "surrogatepass"))
        assert kept <= limit
        assert f"[{size - kept} bytes left out]" in short
        assert text.startswith(head)
        assert text.endswith(tail)


def test_what_the_sandbox_left_out_is_counted(pool: SandboxPool) -> None:
    tool = PythonTool(pool, max_output_bytes=100)
    for program in ("print('x' * 99_999)", "'x' * 99_998"):
        assert tool(code=program).content.count("left out") == 1
    assert "[99899 bytes left out]" in tool(code="print('x' * 99_999)").content
    error = tool(code="print('o' * 5000)\nraise ValueError('e' * 5000)").content
    assert (error.startswith("ValueError: eee"), error.endswith("eee"), error.count("left out")) == (True, True, 1)


def test_a_cut_shows_whole_lines_and_the_error(pool: SandboxPool) -> None:
    tool = PythonTool(pool, max_output_bytes=200)
    text = tool(code="for i in range(10**6, 10**6 + 300): print(i)\nraise KeyError('k' * 120)").content
    *numbers, last = [line for line in text.splitlines() if "left out" not in line]
    assert last == f"KeyError: '{'k' * 120}'"
    assert {len(number) for number in numbers} == {7}


@given(words=st.lists(st.integers(0, 10**9).map(str), min_size=1, max_size=60), space=st.sampled_from("\n "))
def test_shorten_cuts_between_words(words: list[str], space: str) -> None:
    text = space.join(words)
    for limit in (60, 100):
        head, found, tail = shorten(text, limit).partition("\n... [")
        assert head.split() == words[: len(head.split())]
        left = tail.partition("] ...\n")[2].split()
        assert not found or left == words[len(words) - len(left) :] != []


class CountingSandbox:
    """Echoes the code, counts the lists of work."""

    def __init__(self, lost: str = "") -> None:
        self.lost = lost
        self.calls = 0

    def exec(self, code: str, *, timeout_s: float, max_output_bytes: int = 0) -> ExecResult:
        self.calls += 1
        if self.lost and self.lost in code:
            raise SandboxError("the machine is gone")
        return ExecResult(code, "", "ok", 0, self.calls * 1.5)

    def close(self) -> None:
        """Nothing to close."""


def test_a_lost_sandbox_is_never_told_to_the_model() -> None:
    env = PythonMathEnv(TASKS, sandbox=CountingSandbox(lost="print"))
    env.reset(seed=0)
    with pytest.raises(SandboxError, match="the machine is gone"):
        env.step(call(env, "print(1)"))


def test_no_clock_in_the_record() -> None:
    env = PythonMathEnv(TASKS, sandbox=CountingSandbox())
    records = []
    for _ in range(2):
        env.reset(seed=0)
        env.step(call(env, "print(1)"))
        records.append(json.dumps(env.episode.to_json()))
    assert records[0] == records[1]


class RecordingPool(SandboxPool):
    """Keeps the lists of work that it is given."""

    def __init__(self) -> None:
        super().__init__(CountingSandbox, workers=2)
        self.lists: list[list[str]] = []

    def run(self, jobs: Sequence[ExecJob]) -> list[ExecResult | SandboxError]:
        self.lists.append([job.code for job in jobs])
        return super().run(jobs)


def test_a_vector_step_is_one_list_of_work() -> None:
    pool = RecordingPool()
    envs = gym.make_vec("ToolPythonMath-v0", 4, sandbox=pool, tasks=TASKS)
    assert isinstance(envs, ToolVectorEnv)
    envs.reset(seed=0)
    write = envs.envs[0].format.write_call
    actions = [write(ToolCall("python", {"code": f"print({i})"})) for i in range(4)]
    observations = envs.step([*actions[:3], "<answer>1</answer>"])[0]
    assert pool.lists == [["print(0)", "print(1)", "print(2)"]]
    assert ["print(1)" in message.content for message in (o[-1] for o in observations)] == [False, True, False, False]
    pool.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_vector_environments_end_where_single_ones_do(mode: AutoresetMode) -> None:
    envs = make_vec(2, max_episode_steps=2, autoreset_mode=mode, tasks=TASKS, sandbox=CountingSandbox())
    envs.reset(seed=[1, 1])
    assert envs.envs[0].episode.task.id == envs.envs[1].episode.task.id
    envs.step(["hm", "<answer>1</answer>"])
    _, _, terminated, truncated, infos = envs.step(["hm", "hm"])
    assert (bool(truncated[0]), infos["reason"][0]) == (True, "max_turns")
    assert not terminated[0]


def test_state_round_trips(pool: SandboxPool) -> None:
    env = PythonMathEnv(TASKS, sandbox=pool)
    env.reset(seed=2)
    env.step(call(env, "print(1)"))
    state = env.get_state()
    ends = []
    for _ in range(2):
        env.set_state(copy.deepcopy(state))
        env.step(call(env, "print(2)"))
        env.step("<answer>3</answer>")
        ends.append(env.episode)
    assert ends[0] == ends[1]


def test_bad_settings_are_named() -> None:
    for settings_, part in (
        ({"sandbox": "dokcer"}, "'dokcer'"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"max_output_bytes": 0}, "max_output_bytes"),
        ({"workers": 0}, "workers"),
        ({"format": "search_r1"}, "search_r1"),
    ):
        with pytest.raises(ConfigError, match=part):
            PythonMathEnv(TASKS, **settings_)  # type: ignore[arg-type]


def test_deep_copies_share_the_tool(pool: SandboxPool) -> None:
    tool = PythonTool(pool)
    assert copy.deepcopy([tool])[0] is tool
    assert PythonMathEnv(TASKS, sandbox=tool).tools["python"] is tool


@settings(max_examples=30)
@given(action=st.text(st.characters(), max_size=80) | st.text(max_size=80).map(lambda t: f"```python\n{t}\n```"))
@pytest.mark.parametrize("format", ["hermes", "torl"])
def test_any_text_is_a_turn(pool: SandboxPool, format: str, action: str) -> None:
    env = PythonMathEnv(TASKS, sandbox=CountingSandbox(), format=format)
    env.reset(seed=0)
    env.step(action)
    assert env.episode.turns[0].action == action
    assert env.episode.to_json()


# The tasks -----------------------------------------------------------------------------------------------------------


def test_splits_are_large_disjoint_and_the_same_every_time() -> None:
    sets = {split: math_tasks(split) for split in ("train", "validation", "test")}
    assert {split: len(tasks) for split, tasks in sets.items()} == {"train": 1200, "validation": 160, "test": 320}
    prompts = [task.prompt for tasks in sets.values() for task in tasks]
    assert len(set(prompts)) == len(prompts)
    for split, tasks in sets.items():
        assert {split_of(task.prompt) for task in tasks} == {split}
        assert {task.metadata["kind"] for task in tasks} == set(GENERATORS)
        assert all(task.answers[0] and task.metadata["solution"] for task in tasks)
    math_tasks.cache_clear()
    assert list(math_tasks("test")) == list(sets["test"])


def test_sizes_and_seeds() -> None:
    assert len(math_tasks("train", size=30)) == 30
    assert [t.prompt for t in math_tasks("test", size=50)] == [t.prompt for t in math_tasks("test")[:50]]
    assert not {t.prompt for t in math_tasks("test", seed=1)} <= {t.prompt for t in math_tasks("test")}
    with pytest.raises(ConfigError, match="'dev'"):
        math_tasks("dev")
    with pytest.raises(ConfigError, match="0"):
        math_tasks("test", size=0)


def test_programs_find_the_answers(pool: SandboxPool) -> None:
    """Two per kind, from a stream of their own: the programs work in another way than the generators do."""
    problems = [generate(rng(11, "check", kind, i)) for kind, generate in GENERATORS.items() for i in range(2)]
    results = pool.run([ExecJob(problem.solution, timeout_s=60.0) for problem in problems])
    outputs = [str(r) if isinstance(r, SandboxError) else r.output for r in results]
    verdicts = [math_equal(o, p.answer) for o, p in zip(outputs, problems, strict=True)]
    wrong = [(p, o) for p, o, ok in zip(problems, outputs, verdicts, strict=True) if not ok]
    assert wrong == []


def test_prompts_are_written_as_people_write_them() -> None:
    """No x^1 or x^0, no 1x or 0x, no two signs side by side."""
    odd = re.compile(r"\^[01]\b|(?<![\d^.])[01][a-z(]|[+-] [+-]|--")
    assert [odd.search(text) is None for text in ("5x^1 ln(x)", "1x + 2", "x + -3")] == [False] * 3
    prompts = [task.prompt for split in ("train", "validation", "test") for task in math_tasks(split)]
    assert [prompt for prompt in prompts if odd.search(prompt)] == []
    assert any("x ln(x)" in prompt for prompt in prompts)


def test_a_determinant_by_hand() -> None:
    assert exact_determinant([[2, 0, 0], [0, 0, 3], [0, 4, 0]]) == -24
    assert exact_determinant([[1, 2], [2, 4]]) == 0


def test_lattice_paths_name_points_on_the_grid() -> None:
    for i in range(20):
        problem = lattice_paths(np.random.default_rng(i))
        assert int(problem.answer) > 0
        assert "(0, 0)" in problem.prompt


# Files ---------------------------------------------------------------------------------------------------------------


def write(path: Path, *records: object) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


def test_common_shapes_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "some.jsonl",
        {"problem": "p", "answer": "\\frac{1}{2}", "level": 3},
        {"question": "q", "answer": "She has 5 - 3 = 2.\n#### 2"},
        {"input": "i", "output": "70"},
        {"question": "o", "final_answer": ["1", "2"]},
        {"problem": "m", "solution": "Thus \\boxed{3}."},
        {"problem": "f", "answer": 27.0, "id": "mine"},
    )
    tasks = load_math_jsonl(path)
    assert [task.answers for task in tasks] == [("\\frac{1}{2}",), ("2",), ("70",), ("1", "2"), ("3",), ("27",)]
    assert (tasks[0].id, tasks[0].metadata, tasks[5].id) == ("some-1", {"level": 3}, "mine")
    assert len(PythonMathEnv(path).tasks) == 6


@pytest.mark.parametrize(
    ("record", "part"),
    [
        ({"answer": "1"}, "needs a field 'problem'"),
        ({"problem": " ", "answer": "1"}, "field 'problem' is blank"),
        ({"problem": ["p"], "answer": "1"}, "field 'problem' must be a text"),
        ({"problem": "\ud800", "answer": "1"}, "lone surrogate"),
        ({"problem": "p", "answer": " "}, "field 'answer' is blank"),
        ({"problem": "p", "answer": "so it is\n#### "}, "the answer in 'answer' is blank"),
        ({"problem": "p", "solution": "\\boxed{ }"}, "the answer in 'solution' is blank"),
        ({"problem": "p", "answer": ["1", "\udc00"]}, "lone surrogate"),
        ({"problem": "p", "answer": True}, "field 'answer' must be a text"),
        ({"problem": "p", "answer": "1", "id": "first"}, r"'first' stands already at .*line 1"),
        ({"problem": "p", "answer": "1", "id": ""}, "field 'id' is blank"),
        ({"problem": "p"}, "no answer"),
        ({"problem": "p", "answer": None}, "no answer"),
        ({"problem": "p", "solution": "none"}, "boxed"),
        ({"problem": "p", "answer": {"a": 1}}, "must be a text"),
        ([1], "JSON object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, record: object, part: str) -> None:
    path = write(tmp_path / "bad.jsonl", {"problem": "p", "answer": "1", "id": "first"}, record)
    with pytest.raises(DataError, match=rf"bad\.jsonl, line 2: .*{part}"):
        load_math_jsonl(path)


def test_problems_without_an_answer_may_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "gaps.jsonl", {"problem": "p", "answer": None}, {"problem": "q", "answer": "1"})
    assert [task.id for task in load_math_jsonl(path, skip_unanswered=True)] == ["gaps-2"]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("aime24.jsonl", 30),
        ("aime25.jsonl", 30),
        ("amc23.jsonl", 40),
        ("gsm8k_test.jsonl", 1319),
        ("math500.jsonl", 500),
        ("math_train_rllm.json", 7470),
        ("minerva_math.jsonl", 272),
        ("olympiadbench.jsonl", 675),
    ],
)
def test_real_sets_are_read(name: str, size: int) -> None:
    path = SHARED_DATA / "math" / name
    if not path.exists():
        pytest.skip(f"{name} is not here; TOOLENV_SHARED_DATA names its folder")
    tasks = load_math_jsonl(path, skip_unanswered=True)
    assert len(tasks) == size
    assert all(task.prompt and all(task.answers) for task in tasks)
