"""Scripted experts solve what they are made for, and the warm start learns what they show."""

from __future__ import annotations

import gymnasium as gym
import pytest

import toolenv  # noqa: F401
from agents.experts import FunctionCallExpert, MathExpert, SearchExpert
from agents.rollout import play
from rewards import OutcomeFn, score_episodes
from tests.toys import toy_env
from toolenv import ConfigError
from toolenv.formats import make_format
from toolenv.seeding import rng


def success(episodes):
    return sum(scores[-1] for scores in score_episodes(OutcomeFn(), episodes)) / len(episodes)


def test_the_function_call_expert_solves_every_category():
    env = gym.make("ToolFunctionCall-v0")
    expert = FunctionCallExpert(make_format("hermes"))
    episodes = [play(env, expert, seed=seed) for seed in range(60)]
    assert {e.task.metadata["category"] for e in episodes} >= {"single", "parallel", "sequential", "irrelevance"}
    assert success(episodes) == 1.0


def test_the_math_expert_solves_tasks_with_its_programs():
    env = gym.make("ToolPythonMath-v0", sandbox="process")
    episodes = [play(env, MathExpert(make_format("hermes")), seed=seed) for seed in range(6)]
    assert success(episodes) == 1.0
    assert all(e.num_calls == 1 for e in episodes)


@pytest.mark.parametrize(("styles", "low", "high"), [(("title",), 0.8, 1.0), (("keyword",), 0.0, 0.1)])
def test_the_search_expert_is_as_good_as_its_queries(styles, low, high):
    env = gym.make("ToolSearchQA-v0", retriever="bm25", hops=(1, 2))
    episodes = [play(env, SearchExpert(make_format("hermes"), rng(0, s), styles), seed=s) for s in range(40)]
    assert low <= success(episodes) <= high


def test_experts_say_what_a_task_lacks():
    env = toy_env()
    env.reset(seed=0)
    form = make_format("hermes")
    with pytest.raises(ConfigError, match="metadata\\['hops'\\]"):
        SearchExpert(form, rng(0)).act(env.episode.task, ())
    with pytest.raises(ConfigError, match="metadata\\['solution'\\]"):
        MathExpert(form).act(env.episode.task, ())
    with pytest.raises(ConfigError, match="styles must be some of"):
        SearchExpert(form, rng(0), ("telepathy",))
