"""What a policy does with its tools, and the alarms of reward hacking."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.alarms import GAMED, GIVEN_UP, HackAlarms
from agents.behaviour import behaviour_metrics
from toolenv import Episode, Task, ToolCall, ToolResult, Turn


def call(query: str, tool: str = "search") -> ToolCall:
    return ToolCall(tool, {"query": query})


def episode(*results: tuple[ToolCall, str | None]) -> Episode:
    turns = tuple(Turn(i, "...", (made,), (ToolResult(made, "", error),)) for i, (made, error) in enumerate(results))
    return Episode("e", Task("t", "?"), "hermes", (), turns)


def test_calls_are_counted_by_tool_and_by_what_became_of_them():
    busy = episode(
        (call("a"), None), (call("b"), "timeout"), (call("a"), None), (call("a", "python"), "tool_error"),
        (call("a", "serach"), "unknown_tool"), (call("a", "python"), "bad_arguments"),
    )  # fmt: skip
    found = behaviour_metrics([busy, episode(), episode((call("a"), None)), episode()])
    assert found == {
        "calls/tool/python": 0.5,
        "calls/tool/search": 1.0,
        "calls/unknown_tool": 0.25,
        "calls/repeated": pytest.approx(2 / 7),  # a search and a python call; another episode's search is none
        "calls/invalid": pytest.approx(2 / 7),
        "calls/failed": pytest.approx(2 / 7),
        "no_call_episodes": 0.5,
    }
    assert behaviour_metrics([episode()]) == {"calls/unknown_tool": 0.0, "no_call_episodes": 1.0}


def test_arguments_in_another_order_are_the_same_call():
    one, other = ToolCall("f", {"a": 1, "b": [2]}), ToolCall("f", {"b": [2], "a": 1})
    assert behaviour_metrics([episode((one, None), (other, None))])["calls/repeated"] == 0.5


def watch(returns: list[float], success: list[float], calls: list[float] | None = None, every: int = 4):
    """The alarms of a run with an evaluation before it and after every few updates."""
    alarms, found = HackAlarms(), []
    found.append(alarms.watch({"update": 0, "eval/success_rate": success[0]}))
    for update, value in enumerate(returns, start=1):
        metrics = {"update": update, "return": value, "calls_per_episode": calls[update - 1] if calls else 2.0}
        if update % every == 0:
            metrics["eval/success_rate"] = success[update // every]
        found.append(alarms.watch(metrics))
    return [one for one in found if one]


def test_a_return_that_rises_without_success_is_told():
    rising = [0.1 * i for i in range(12)]
    assert [a[GAMED] for a in watch(rising, [0.5, 0.5, 0.5, 0.5])] == [1.0, 1.0]
    assert [a[GAMED] for a in watch(rising, [0.5, 0.52, 0.55, 0.6])] == [0.0, 0.0]
    assert [a[GAMED] for a in watch(rising, [0.3, 0.5, 0.6, 0.4])] == [0.0, 1.0]  # it falls again
    assert [a[GAMED] for a in watch([1.0] * 12, [0.5, 0.5, 0.5, 0.5])] == [0.0, 0.0]
    assert [a[GAMED] for a in watch(rising[::-1], [0.5, 0.5, 0.5, 0.5])] == [0.0, 0.0]


def test_a_return_that_only_wavers_is_no_rise():
    wavering = [0.0, 1.0] * 5 + [1.0, 1.0]
    assert [a[GAMED] for a in watch(wavering, [0.5, 0.5, 0.5, 0.5])] == [0.0, 0.0]


def test_tools_that_are_given_up_are_told_where_success_is_no_better():
    falling = [2.0] * 4 + [1.0] * 4 + [0.2] * 4
    assert [a[GIVEN_UP] for a in watch([1.0] * 12, [0.5, 0.5, 0.5, 0.5], falling)] == [0.0, 1.0]
    assert [a[GIVEN_UP] for a in watch([1.0] * 12, [0.5, 0.5, 0.5, 0.7], falling)] == [0.0, 0.0]


def test_too_few_evaluations_or_updates_say_nothing():
    assert watch([0.0, 9.0], [0.5, 0.5], every=2) == []
    assert watch([0.0, 9.0, 18.0], [0.5, 0.5, 0.5, 0.5], every=1) == []


@given(st.lists(st.floats(-1, 1), min_size=12, max_size=12), st.floats(0.1, 10), st.floats(-5, 5))
def test_the_alarm_does_not_depend_on_the_scale_of_the_return(returns, scale, shift):
    # On a grid, so that rounding cannot turn what is equal into a rise.
    returns = [round(value, 2) for value in returns]
    moved = [round(scale, 1) * value + round(shift, 1) for value in returns]
    alarms = [[a[GAMED] for a in watch(values, [0.5] * 4)] for values in (returns, moved)]
    assert alarms[0] == alarms[1]
