"""The base environment: the laws of a step, of records, of states, and of vectors."""

from __future__ import annotations

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import toolenv
from tests.toys import CAPITALS, TASKS, CountingTool, search, toy_env, toy_vector
from toolenv import ConfigError, DataError, Episode, InfrastructureError, TaskSet, ToolEnv, ToolVectorEnv
from toolenv.formats import FORMATS, letter, make_format
from toolenv.messages import ToolCall
from toolenv.tools import Job, execute

pytestmark = pytest.mark.core

FORMAT_NAMES = sorted(FORMATS)
anything = st.text(st.characters(), max_size=200) | st.sampled_from(
    [
        "<tool_call>",
        "<tool_call>[]</tool_call>",
        '<tool_call>{"name": "search", "arguments": {"query": 3}}</tool_call>',
        '<tool_call>{"name": "search", "arguments": {"query": "France"}}</tool_call><answer>Paris</answer>',
        '<tool_call>{"name": "search", "arguments": {"query": NaN}}</tool_call>',
        '<tool_call>{"name": "search", "arguments": {"n": ' + "9" * 5000 + "}}</tool_call>",
        "<tool_call>" + "[" * 50_000 + "</tool_call>",
        '<tool_call>{"name": "search", "arguments": {"query": ' + "[" * 700 + "]" * 700 + "}}</tool_call>",
        '<tool_call>{"name": "search", "arguments": {"n": ' + "9" * 400 + "}}</tool_call>",
        "```" + "\n" * 20_000 + "x",
        "<search></search>",
        "</search><search>",
        "```python\nprint(1)\n```",
        "```python\n",
        "\\boxed{",
        "\\boxed{{}}",
        "<response></response>",
        "\ud800",
        "a\x00b",
    ]
)


def solve(env, country: str | None = None):
    env.reset(seed=3)
    task = env.unwrapped.episode.task
    form = env.unwrapped.format
    env.step(form.write_call(ToolCall("search", {"query": country or task.id})))
    return env.step(form.write_answer(CAPITALS[task.id]))


@pytest.mark.parametrize("name", [f for f in FORMAT_NAMES if f not in ("torl", "simpletir", "retool")])
def test_a_call_then_an_answer_ends_the_episode(name):
    env = toy_env(format=name)
    _, reward, terminated, truncated, info = solve(env)
    assert (reward, terminated, truncated, info["reason"]) == (0.0, True, False, "answer")
    episode = env.episode
    assert [turn.answer for turn in episode.turns] == [None, CAPITALS[episode.task.id]]
    assert episode.turns[0].results[0].data == {"passages": [episode.task.id]}


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_check_env_passes_without_a_warning(name):
    gym.register("toy-v0", toy_env, max_episode_steps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("toy-v0", format=name).unwrapped)
    del gym.registry["toy-v0"]


@settings(max_examples=150, deadline=None)
@given(actions=st.lists(anything, min_size=1, max_size=4), name=st.sampled_from(FORMAT_NAMES))
def test_no_text_makes_the_environment_raise(actions, name):
    env = toy_env(format=name)
    env.reset(seed=0)
    for action in actions:
        observation, _, terminated, truncated, info = env.step(action)
        assert observation in env.observation_space
        assert all(isinstance(v, int | float | str | dict) for v in info.values())
        if terminated or truncated:
            break
        assert observation[-1].role == "tool"
        if len(action) <= env.action_space.max_length:
            assert observation[-2].content == letter.opening(env.format) + letter.cut(env.format, action)
    stored = json.dumps(env.episode.to_json())
    assert json.dumps(Episode.from_json(json.loads(stored)).to_json()) == stored


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_five_megabytes_are_an_error_that_the_model_is_told(name):
    env = toy_env(format=name)
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step("<search>" * 700_000)
    assert not terminated
    assert not truncated
    assert "at most 100000 are read" in env.episode.turns[0].error


def test_the_model_is_told_of_an_unknown_tool_and_of_wrong_arguments():
    env = toy_env()
    env.reset(seed=0)
    observation, *_ = env.step('<tool_call>{"name": "serach", "arguments": {"query": "x"}}</tool_call>')
    assert "unknown tool 'serach'; available: python, search. Did you mean 'search'?" in observation[-1].content
    observation, *_ = env.step('<tool_call>{"name": "search", "arguments": {"query": 3}}</tool_call>')
    assert "'query' must be of type string, not 3" in observation[-1].content
    assert [r.error for turn in env.episode.turns for r in turn.results] == ["unknown_tool", "bad_arguments"]


def test_a_good_call_beside_a_bad_one_keeps_its_place():
    env = toy_env()
    env.reset(seed=0)
    bad = '<tool_call>{"name": "nope", "arguments": {}}</tool_call>'
    good = '<tool_call>{"name": "search", "arguments": {"query": "Peru"}}</tool_call>'
    env.step(bad + good + bad)
    results = env.episode.turns[0].results
    assert [r.error for r in results] == ["unknown_tool", None, "unknown_tool"]
    assert "Lima" in results[1].content


def test_calls_and_an_answer_in_one_turn_execute_nothing():
    env = toy_env()
    env.reset(seed=0)
    call = '<tool_call>{"name": "search", "arguments": {"query": "Peru"}}</tool_call>'
    _, _, terminated, _, _ = env.step(call + "<answer>Lima</answer>")
    assert not terminated
    assert env.episode.turns[0].calls == ()
    assert "not both" in env.episode.turns[0].error


def test_a_tool_error_is_told_and_the_episode_goes_on():
    env = toy_env()
    _, _, terminated, _, _ = solve(env, country="Atlantis")
    assert terminated
    assert env.episode.turns[0].results[0].error == "tool_error"


def test_the_turn_limit_truncates():
    env = toy_env(max_turns=2)
    env.reset(seed=0)
    env.step("hm")
    *_, terminated, truncated, info = env.step("hm")
    assert (terminated, truncated, info["reason"]) == (False, True, "max_turns")
    with pytest.raises(ResetNeeded):
        env.step("hm")


def test_misuse_has_clear_errors():
    env = toy_env()
    with pytest.raises(ResetNeeded):
        env.step("x")
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="got int"):
        env.step(3)
    with pytest.raises(ConfigError, match="unknown format 'latin'"):
        toy_env(format="latin")
    with pytest.raises(DataError, match="no task 'Mars'"):
        env.reset(options={"task": "Mars"})
    with pytest.raises(DataError, match="'France' twice"):
        TaskSet([TASKS[0], TASKS[0]])


def test_the_task_is_a_function_of_the_seed():
    first = [toy_env().reset(seed=s)[1]["task_id"] for s in range(20)]
    assert first == [toy_env().reset(seed=s)[1]["task_id"] for s in range(20)]
    assert len(set(first)) > 1
    env = toy_env()
    assert env.reset(seed=1, options={"task": "Peru"})[1]["task_id"] == "Peru"


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_state_goes_on_the_same_in_another_environment(name):
    env, other = toy_env(format=name), toy_env(format=name)
    env.reset(seed=5)
    env.step(make_format(name).write_call(ToolCall("search", {"query": "Peru"})))
    other.set_state(env.get_state())
    form = make_format(name)
    unread = () if form.parse("hm").ends else ("hm",)
    for action in (*unread, form.write_answer("Lima")):
        assert env.step(action) == other.step(action)
    assert env.episode == other.episode
    assert env.reset() == other.reset()


def test_infrastructure_is_retried_then_raised_and_never_shown():
    flaky = CountingTool(failures=2)
    env = ToolEnv(TASKS, [flaky])
    env.reset(seed=0)
    call = '<tool_call>{"name": "search", "arguments": {"query": "x"}}</tool_call>'
    observation, *_ = env.step(call)
    assert "found x" in observation[-1].content
    flaky.failures = 99
    with pytest.raises(InfrastructureError, match="worker lost"):
        env.step(call)
    assert len(env.episode.turns) == 1


def test_a_failure_that_has_a_cause_is_retried_and_a_bug_is_not():
    class Tool:
        name, schema = "search", CountingTool().schema

        def __init__(self, error):
            self.error, self.calls = error, 0

        def __call__(self, query):
            self.calls += 1
            if self.calls < 3:
                try:
                    raise OSError("the pipe is broken")
                except OSError as cause:
                    raise self.error from cause
            return "found"

    lost, wrong = Tool(InfrastructureError("worker lost")), Tool(TypeError("oh"))
    call = ToolCall("search", {"query": "x"})
    assert [getattr(result, "content", None) for result in execute([Job(lost, call), Job(wrong, call)])] == [
        "found",
        None,
    ]
    assert (lost.calls, wrong.calls) == (3, 1)


def test_a_vector_drops_only_the_environment_that_was_hit():
    broken, fine = CountingTool(failures=99), CountingTool()
    envs = ToolVectorEnv([lambda: ToolEnv(TASKS, [broken]), lambda: ToolEnv(TASKS, [fine])])
    envs.reset(seed=0)
    call = '<tool_call>{"name": "search", "arguments": {"query": "x"}}</tool_call>'
    observations, _rewards, _terminations, truncations, infos = envs.step([call, call])
    assert truncations.tolist() == [True, False]
    assert infos["failure"][0] == "worker lost"
    assert infos["reason"][0] == "infrastructure"
    assert "found x" in observations[1][-1].content
    assert "lost" not in str(observations[0])


def test_sixteen_environments_make_one_batch_a_step():
    shared = CountingTool()
    envs = ToolVectorEnv([lambda: ToolEnv(TASKS, [shared])] * 16)
    envs.reset(seed=0)
    call = '<tool_call>{"name": "search", "arguments": {"query": "x"}}</tool_call>'
    envs.step([call * 2] * 16)
    assert shared.batches == [32]


def test_the_phantom_step_of_next_step_is_no_turn():
    envs = toy_vector(2)
    envs.reset(seed=0)
    _, _, terminations, _, infos = envs.step(["<answer>x</answer>", "hm"])
    assert terminations.tolist() == [True, False]
    assert infos["reason"][0] == "answer"
    assert infos["_reason"].tolist() == [True, False]
    ended = envs.envs[0].episode
    observations, rewards, terminations, _, infos = envs.step(["ignored", "hm"])
    assert not terminations.any()
    assert not rewards.any()
    assert [len(env.episode.turns) for env in envs.envs] == [0, 2]
    assert len(observations[0]) == len(ended.prompt)


def test_disabled_autoreset_waits_for_the_mask():
    envs = toy_vector(2, "Disabled")
    envs.reset(seed=[7, 7])
    assert envs.envs[0].episode.task == envs.envs[1].episode.task
    envs.step(["<answer>x</answer>", "hm"])
    envs.step(["ignored", "hm"])
    assert [len(env.episode.turns) for env in envs.envs] == [1, 2]
    envs.reset(seed=[1, 2], options={"reset_mask": np.array([True, False])})
    assert [len(env.episode.turns) for env in envs.envs] == [0, 2]


def test_a_vector_plays_as_its_environments_do_alone():
    envs = toy_vector(4, "Disabled")
    envs.reset(seed=11)
    alone = [toy_env() for _ in range(4)]
    for i, env in enumerate(alone):
        env.reset(seed=11 + i)
    call = '<tool_call>{"name": "search", "arguments": {"query": "Peru"}}</tool_call>'
    for actions in ([call, "hm", "<answer>Lima</answer>", call], [call, call, "ignored", "<answer>x</answer>"]):
        envs.step(actions)
        for env, action in zip(alone, actions, strict=True):
            if not env.episode.terminated:
                env.step(action)
    assert [env.episode for env in envs.envs] == [env.episode for env in alone]


def test_episodes_of_make_vec_name_their_environment():
    envs = gym.make_vec("ToolFunctionCall-v0", num_envs=2)
    envs.reset(seed=0)
    assert [env.episode.env_id for env in envs.unwrapped.envs] == ["ToolFunctionCall-v0"] * 2


def test_vector_misuse_has_clear_errors():
    with pytest.raises(ConfigError, match="at least one"):
        ToolVectorEnv([])
    with pytest.raises(ConfigError, match="SAME_STEP"):
        toy_vector(1, "SameStep")
    envs = toy_vector(2)
    with pytest.raises(ConfigError, match="2 seeds"):
        envs.reset(seed=[1])
    envs.reset(seed=0)
    with pytest.raises(ConfigError, match="2 actions"):
        envs.step(["x"])


def test_wrappers_note_cuts_and_keep_episodes(tmp_path):
    path = tmp_path / "episodes.jsonl"
    inner = gym.wrappers.TimeLimit(toy_env(max_turns=None), 1)
    env = toolenv.EpisodeLog(inner, path)
    env.reset(seed=0)
    *_, truncated, info = env.step("hm")
    assert truncated
    assert info["reason"] == "max_turns"
    assert [e.reason for e in toolenv.read_episodes(path)] == ["max_turns"]
    assert list(toolenv.read_episodes(path)) == env.episodes


def test_a_token_budget_cuts_but_never_an_answer():
    env = toolenv.TokenBudget(toy_env(), max_tokens=300, count=len)
    env.reset(seed=0)
    *_, terminated, truncated, info = env.step("x" * 300)
    assert (terminated, truncated, info["reason"]) == (False, True, "token_budget")
    env.reset(seed=0)
    *_, terminated, truncated, _ = env.step("<answer>" + "x" * 300 + "</answer>")
    assert (terminated, truncated) == (True, False)


def test_text_observation_is_the_conversation_in_one_string():
    env = toolenv.TextObservation(toy_env())
    text, _ = env.reset(seed=0)
    assert text in env.observation_space
    assert "capital of" in text


def test_a_broken_record_is_refused_with_its_line(tmp_path):
    path = tmp_path / "e.jsonl"
    env = toy_env()
    solve(env)
    toolenv.write_episodes(path, [env.episode])
    with path.open("a") as file:
        file.write('{"schema": 99}\n')
    with pytest.raises(DataError, match="line 2: an episode of schema 99"):
        list(toolenv.read_episodes(path))


def test_tools_describe_themselves():
    assert search.schema["description"] == "Look up a country."
    assert search.schema["parameters"]["properties"]["query"] == {
        "type": "string",
        "description": "Name of the country.",
    }


def test_the_turn_limit_stands_in_the_record_and_follows_states():
    env = gym.make("ToolFunctionCall-v0", max_turns=3)
    env.reset(seed=0)
    bad = "<tool_call>{</tool_call>"
    env.step(bad)
    state = env.unwrapped.get_state()
    env.step(bad)
    env.unwrapped.set_state(state)
    cuts = [env.step(bad)[3] for _ in range(2)]
    assert cuts == [False, True]
    assert env.unwrapped.episode.truncated
    assert env.unwrapped.episode.reason == "max_turns"


def test_options_are_checked():
    env = toy_env()
    with pytest.raises(DataError, match="index from 0 to 3; got 4"):
        env.reset(options={"task": 4})
    with pytest.raises(ConfigError, match="unknown reset option 'taks'"):
        env.reset(options={"taks": "Peru"})


def test_a_format_that_can_call_no_tool_is_refused():
    with pytest.raises(ConfigError, match="format 'torl' cannot call search"):
        ToolEnv(TASKS, [search], format="torl")


def test_wrapped_environments_are_refused_by_the_vector():
    with pytest.raises(ConfigError, match=r"use gym\.make_vec"):
        ToolVectorEnv([lambda: gym.make("ToolFunctionCall-v0")])


def test_broken_tools_are_found_at_construction():
    class Wrong:
        name = "wrong"

        def __init__(self, schema):
            self.schema = schema

    for schema, message in (
        ({"name": "other"}, "the name 'other'"),
        ({"name": "wrong", "parameters": {"required": ["a"]}}, "requires 'a'"),
    ):
        with pytest.raises(ConfigError, match=message):
            ToolEnv(TASKS, [Wrong(schema)])
    with pytest.raises(ConfigError, match="two tools are called 'search'"):
        ToolEnv(TASKS, [search, search])


def test_a_tools_own_bug_runs_once_and_is_infrastructure():
    class Buggy(CountingTool):
        def batch(self, arguments):
            self.batches.append(len(arguments))
            raise ZeroDivisionError("oops")

    tool = Buggy()
    env = ToolEnv(TASKS, [tool])
    env.reset(seed=0)
    with pytest.raises(InfrastructureError, match="raised ZeroDivisionError"):
        env.step('<tool_call>{"name": "search", "arguments": {"query": "x"}}</tool_call>')
    assert tool.batches == [1]
