"""Arguments that an environment does not take, or cannot use, are refused when it is made."""

from __future__ import annotations

import re

import gymnasium as gym
import pytest

from agents.environments import make_envs
from tests.toys import TASKS
from toolenv import ConfigError, DataError, ToolEnv

pytestmark = pytest.mark.core

TAKES = "it takes tasks, split, format, tools, max_turns, max_action_chars, max_calls_per_turn, render_mode"


@pytest.mark.parametrize(
    "make",
    [
        gym.make,
        lambda env_id, **given: gym.make_vec(env_id, num_envs=2, **given),
        lambda i, **given: make_envs(i, 2, given),
    ],
    ids=["make", "make_vec", "make_envs"],
)
def test_an_argument_that_an_environment_does_not_take_is_named_with_those_it_takes(make):
    with pytest.raises(ConfigError) as caught:
        make("ToolFunctionCall-v0", splt="test")
    assert str(caught.value) == f"FunctionCallEnv takes no argument 'splt'; did you mean 'split'?; {TAKES}"
    with pytest.raises(ConfigError) as caught:
        make("ToolFunctionCall-v0", x=1)
    assert str(caught.value) == f"FunctionCallEnv takes no argument 'x'; {TAKES}"


def test_the_base_class_and_a_class_of_your_own_are_named_with_their_own_arguments():
    class Mine(ToolEnv):
        def __init__(self, *, colour="red", **kwargs):
            super().__init__(TASKS, **kwargs)

    with pytest.raises(ConfigError, match=re.escape("ToolEnv takes no argument 'max_turn'; did you mean 'max_turns'?")):
        ToolEnv(TASKS, max_turn=3)
    with pytest.raises(ConfigError, match=r"Mine takes no argument 'color'; did you mean 'colour'.; it takes colour, "):
        Mine(color="red")


@pytest.mark.parametrize("value", ["3", 0, 2.5, True])
@pytest.mark.parametrize("name", ["max_turns", "max_action_chars", "max_calls_per_turn"])
def test_a_limit_that_is_no_whole_number_is_refused_at_construction(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be a whole number of at least 1.*, not {value!r}"):
        ToolEnv(TASKS, **{name: value})


def test_the_nano_policy_is_said_to_know_the_bundled_encyclopaedia_alone(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    with pytest.warns(UserWarning, match="over another index it is right by chance"), pytest.raises(DataError):
        make_envs("ToolSearchQA-v0", 1, {"index": str(tmp_path / "none")}, policy="nano")
