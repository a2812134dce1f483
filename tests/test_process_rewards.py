"""Process rewards: numbers worked out by hand, one score from every call site, and nobody is paid for words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rewards
from rewards import (
    GoldPassageFn,
    RewardWrapper,
    TurnView,
    VectorRewardWrapper,
    check_reward,
    score_episodes,
    score_views,
)
from rewards.process import (
    CallCostFn,
    ExecutionFn,
    InformationGainFn,
    InvalidCallFn,
    MTPPOFn,
    OracleFn,
    RedundancyFn,
    SchemaFn,
)
from rewards.process.call_label import CallLabel
from tests.toys import CAPITALS, toy_env, toy_vector
from toolenv import ConfigError, Episode, Message, RewardError, Task, ToolCall, ToolResult, Turn
from toolenv.data.functions import function_tasks
from toolenv.data.world import questions

pytestmark = pytest.mark.core

CALL = '<tool_call>{{"name": "search", "arguments": {{"query": "{}"}}}}</tool_call>'


class Reader:
    """Finds an answer as likely as 1 in 10, and 1 in 2 once the conversation's tool messages hold it; counts calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def answer_logprob(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[float | None]:
        self.calls.append(len(conversations))
        return [math.log(0.5 if _told(c, a) else 0.1) for c, a in zip(conversations, answers, strict=True)]


def _told(conversation: Sequence[Message], answer: str) -> bool:
    return any(answer in message.content for message in conversation if message.role == "tool")


FNS = [
    GoldPassageFn(),
    RedundancyFn(),
    MTPPOFn(),
    MTPPOFn(cumulative=False),
    ExecutionFn(),
    CallCostFn(free=1),
    InvalidCallFn(),
    InvalidCallFn(per="call", failed=True),
    SchemaFn(),
    InformationGainFn(Reader()),
    *(OracleFn(label, order) for label in ("product", "necessity", "quality") for order in ("any", "chain")),
]


def found(*passages: str, query: str = "x", content: str = "text") -> ToolResult:
    """What a search came to."""
    return ToolResult(ToolCall("search", {"query": query}), content, data={"passages": list(passages)})


def failed(error: str = "tool_error", content: str = "Error: no", name: str = "search") -> ToolResult:
    return ToolResult(ToolCall(name, {"query": content}), content, error)


def ran(content: str, code: str = "", error: str | None = None) -> ToolResult:
    """What a program came to."""
    return ToolResult(ToolCall("python", {"code": code or content}), content, error)


def play(*turns: Sequence[ToolResult] | str, **task: Any) -> list[TurnView]:
    """A view of each turn of an episode: the results of its calls, or the final answer."""
    grading = task.pop("grading", "em")
    spoken = []
    for index, turn in enumerate(turns):
        if isinstance(turn, str):
            spoken.append(Turn(index, f"<answer>{turn}</answer>", answer=turn))
        else:
            observation = tuple(Message("tool", result.content) for result in turn)
            spoken.append(Turn(index, "...", tuple(r.call for r in turn), tuple(turn), observation=observation))
    ended = bool(turns) and isinstance(turns[-1], str)
    prompt = (Message("user", "?"),)
    episode = Episode("x", Task("t", "?", **task), "hermes", prompt, tuple(spoken), ended, grading=grading)
    return [TurnView(episode, index) for index in range(len(spoken))]


def approx(*scores: float | None) -> list[Any]:
    return [None if score is None else pytest.approx(score) for score in scores]


# All of them -----------------------------------------------------------------------------------------------------

ACTIONS = [
    *(CALL.format(country) for country in CAPITALS),
    CALL.format("France") + CALL.format("Peru"),
    CALL.format("France") + CALL.format("Atlantis"),
    CALL.format("Tokyo").replace("search", "serach"),
    '<tool_call>{"name": "python", "arguments": {"code": "1"}}</tool_call>',
    "<tool_call>{",
    "hm",
    *(f"<answer>{capital}</answer>" for capital in CAPITALS.values()),
]


@pytest.mark.parametrize("fn", FNS, ids=lambda fn: fn.name)
@settings(max_examples=15)
@given(
    plays=st.lists(st.lists(st.sampled_from(ACTIONS), min_size=4, max_size=4), min_size=3, max_size=3),
    mode=st.sampled_from(["NextStep", "Disabled"]),
)
def test_inline_vector_and_deferred_agree(fn: Any, plays: list[list[str]], mode: str) -> None:
    inline, episodes = [], []
    for seed, actions in enumerate(plays):
        env = RewardWrapper(toy_env(), fn)
        env.reset(seed=seed)
        scores = []
        for action in actions:
            *_, terminated, truncated, info = env.step(action)
            scores.append(info["reward_terms"].get(fn.name, np.nan))
            if terminated or truncated:
                break
        inline.append(scores)
        episodes.append(env.unwrapped.episode)
    for scores, deferred in zip(inline, score_episodes(fn, episodes), strict=True):
        np.testing.assert_array_equal(scores, deferred)
    assert vector_scores(plays, fn, mode) == inline_without_nan(inline)


def inline_without_nan(inline: list[list[float]]) -> list[list[float]]:
    return [[score for score in scores if not np.isnan(score)] for scores in inline]


def vector_scores(plays: list[list[str]], fn: Any, mode: str) -> list[list[float]]:
    envs = VectorRewardWrapper(toy_vector(3, mode), fn)
    envs.reset(seed=[0, 1, 2])
    collected: list[list[float]] = [[], [], []]
    over = np.zeros(3, dtype=bool)
    for t in range(4):
        _, _, terminations, truncations, infos = envs.step([actions[t] for actions in plays])
        terms = infos["reward_terms"]
        for i in np.flatnonzero(terms[f"_{fn.name}"] & ~over):
            collected[i].append(terms[fn.name][i])
        over |= terminations | truncations
    return collected


@pytest.mark.parametrize("fn", FNS, ids=lambda fn: fn.name)
def test_they_keep_the_laws_of_rewards(fn: Any) -> None:
    check_reward(fn)


@pytest.mark.parametrize("fn", FNS, ids=lambda fn: fn.name)
def test_the_order_of_a_batch_does_not_matter(fn: Any) -> None:
    views = play([found("a")], [found("a", "b", content="It is Lyon.")], [failed()], "Lyon", **TWO_HOPS)
    views += play([found("b")], [ran("Lyon")], answers=("Lyon",), gold_passages=(("b",),))
    assert fn.score(views) == fn.score(views[::-1])[::-1]
    assert fn.score(views) == [fn.score([view])[0] for view in views]
    assert fn.score([]) == []


TWO_HOPS: dict[str, Any] = {"answers": ("Lyon",), "gold_passages": (("a",), ("b",))}


@pytest.mark.parametrize("fn", [fn for fn in FNS if fn.name != "information_gain"], ids=lambda fn: fn.name)
def test_words_of_the_model_and_the_prompt_pay_nothing(fn: Any) -> None:
    """The answer and passages' ids in a thought, a query, the question or an error are worth what silence is."""
    scores = []
    for words, error in (("", "x y"), ("I found a and b; it is Lyon.", "a b Lyon")):
        failures = [failed("bad_arguments", f"Error: {error}"), failed("tool_error", f"Error: again, {error}")]
        turns = tuple(Turn(i, words, (r.call,), (r,)) for i, r in enumerate(failures))
        prompt = (Message("user", words),)
        episode = Episode("x", Task("t", words, **TWO_HOPS), "hermes", prompt, turns)
        scores.append(score_episodes(fn, [episode])[0].tolist())
    assert scores[0] == scores[1]


def test_turns_without_a_call_have_no_process_to_judge() -> None:
    views = play([], "Lyon", **TWO_HOPS)
    for fn in (GoldPassageFn(), RedundancyFn(), ExecutionFn(), OracleFn(), OracleFn("quality")):
        assert fn.score(views) == [None, None]
    assert CallCostFn().score(views) == InvalidCallFn().score(views) == [0.0, 0.0]


def test_a_score_of_nothing_is_no_negative_zero() -> None:
    views = play([found()], [], "Lyon", **TWO_HOPS)
    for fn in FNS:
        assert all(math.copysign(1, score) > 0 for score in fn.score(views) if score == 0)


def test_the_old_name_of_the_gold_passages_still_works() -> None:
    assert rewards.GoldPassageFn is GoldPassageFn
    assert GoldPassageFn().score(play([found("a")], [found("a", "b")], [found("b")], **TWO_HOPS)) == [1.0, 1.0, 0.0]


# Redundancy, execution, costs ------------------------------------------------------------------------------------


def test_redundancy_by_hand() -> None:
    views = play([found("a", "b", "c")], [found("a", "d"), found("d", "e")], [found("f")], [found()], [found("f")])
    # Second turn: a is known, the second d is known: 2 of 4.
    assert RedundancyFn(cost=1.0).score(views) == [0.0, -0.5, 0.0, 0.0, -1.0]
    assert RedundancyFn().score(views) == approx(0.0, -0.3, 0.0, 0.0, -0.6)


def test_execution_by_hand() -> None:
    views = play([found("a")], [found(), failed("timeout"), failed("unknown_tool")], [failed()])
    assert ExecutionFn().score(views) == approx(1.0, 1 / 3, 0.0)
    unknown = Episode("x", Task("t", "?"), "hermes", (), (Turn(0, "...", (ToolCall("search"),)),))
    with pytest.raises(RewardError, match=r"'execution' .*task 't', turn 0: nobody knows whether the turn's 1 calls"):
        score_episodes(ExecutionFn(), [unknown])


def test_calls_cost_once_the_free_ones_are_used_up() -> None:
    views = play([found()], [found(), failed()], [], [found()])
    assert CallCostFn(cost=0.25).score(views) == [-0.25, -0.5, 0.0, -0.25]
    assert CallCostFn(cost=0.25, free=2).score(views) == [0.0, -0.25, 0.0, -0.25]
    assert CallCostFn().score(views) == [-0.1, -0.2, 0.0, -0.1]


def test_calls_fit_their_schemas_or_do_not() -> None:
    book = {"type": "object", "properties": {"seats": {"type": "integer"}}, "required": ["seats"]}
    task = Task("t", "?", functions=({"name": "book", "parameters": book},))
    good, wrong = ToolCall("book", {"seats": 2}), ToolCall("book", {"seats": "two"})
    said = [(good,), (good, good), (good, wrong), (ToolCall("cook"),), ()]
    turns = [Turn(i, "...", calls) for i, calls in enumerate(said)]
    turns.append(Turn(5, "<tool_call>{", error="not closed"))
    episode = Episode("x", task, "hermes", (), tuple(turns))
    assert SchemaFn().score([TurnView(episode, i) for i in range(6)]) == [1.0, 1.0, -1.0, -1.0, None, -1.0]
    assert SchemaFn(reply=-1.0).score([TurnView(episode, 4)]) == [-1.0]


def test_invalid_calls_by_hand() -> None:
    wrong = [failed("unknown_tool"), failed("bad_arguments"), failed("tool_error"), failed("timeout"), found()]
    views = play(wrong, [failed("timeout")], [found()])
    assert InvalidCallFn().score(views) == [-0.01, 0.0, 0.0]
    assert InvalidCallFn(cost=1, per="call").score(views) == [-2.0, 0.0, 0.0]
    assert InvalidCallFn(cost=1, per="call", failed=True).score(views) == [-4.0, -1.0, 0.0]
    unreadable = Episode("x", Task("t", "?"), "hermes", (), (Turn(0, "<tool_call>{", error="not closed"),))
    assert InvalidCallFn(cost=1, per="call").score([TurnView(unreadable)]) == [-1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CallCostFn(cost=-0.1), "cost must be a finite number of at least 0"),
        (lambda: CallCostFn(free=-1), "free must be"),
        (lambda: RedundancyFn(cost=float("nan")), "got nan"),
        (lambda: InvalidCallFn(cost=float("inf")), "got inf"),
        (lambda: InvalidCallFn(per="token"), "per must be one of turn, call; got 'token'"),
        (lambda: OracleFn("use"), "label must be one of product, necessity, quality; got 'use'"),
        (lambda: OracleFn(order="none"), "order must be one of any, chain; got 'none'"),
    ],
)
def test_options_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# MT-PPO ----------------------------------------------------------------------------------------------------------


def test_mt_ppo_by_hand() -> None:
    told = found("a", content='Doc 1(Title: "France") The capital is LYON, they say.')
    views = play([found()], [told], [told, failed()], "Lyon", answers=("Lugdunum", "the Lyon"))
    # format + retrieval - searches so far: .1 - .1 | .1 + .3 - .2 | .1 + .3 - .4 | the outcome's
    assert MTPPOFn().score(views) == approx(0.0, 0.2, 0.0, None)
    assert MTPPOFn(cumulative=False).score(views) == approx(0.0, 0.3, 0.2, None)
    assert MTPPOFn(retrieval=1, well_formed=0, search_cost=0).score(views) == [0, 1, 1, None]


def test_mt_ppo_charges_turns_that_are_not_well_formed() -> None:
    turns = (Turn(0, "hm", error="neither"), Turn(1, "{}", (ToolCall("search"),), (found(),), lenient=True))
    episode = Episode("x", Task("t", "?", answers=("Lyon",)), "hermes", (), turns)
    views = [TurnView(episode, 0), TurnView(episode, 1)]
    assert MTPPOFn().score(views) == approx(-0.2, -0.3)
    assert MTPPOFn(malformed=-2.0, search_cost=0).score(views) == [-2.0, -2.0]
    assert MTPPOFn().score(play([found()])) == [None]  # no answer to look for


def test_mt_ppo_counts_whole_words_of_searches_alone() -> None:
    fn = MTPPOFn(well_formed=0, search_cost=0)
    for content, answer in (("Lyonnaise potatoes", "Lyon"), ("the", "the"), ("", "")):
        assert fn.score(play([found("a", content=content)], answers=(answer,))) == [0.0]
    # A program prints what the model wrote into it.
    assert fn.score(play([ran("Lyon", code="print('Lyon')")], answers=("Lyon",))) == [0.0]


# Information gain ------------------------------------------------------------------------------------------------


def test_information_gain_by_hand() -> None:
    told = found("a", content="It is Lyon.")
    views = play([found(content="Nothing.")], [told], [told], "Lyon", answers=("Lyon", "Lugdunum"))
    reader = Reader()
    assert InformationGainFn(reader).score(views) == approx(0.0, 0.4, 0.0, None)
    assert InformationGainFn(reader, logs=True).score(views) == approx(0.0, math.log(5), 0.0, None)


def test_a_state_is_scored_once_and_all_of_them_in_one_call() -> None:
    group = [play([found(content=text)], [found(content="b")], "Lyon", answers=("Lyon",)) for text in ("x", "x", "y")]
    reader = Reader()
    InformationGainFn(reader).score([view for views in group for view in views])
    # The prompt, the state after x or y, and the state after b on either.
    assert reader.calls == [5]
    InformationGainFn(reader).score(play("Lyon", answers=("Lyon",)))
    assert reader.calls == [5]


def test_a_state_without_a_number_has_no_gain() -> None:
    class Short:
        def answer_logprob(self, conversations: Sequence[Any], answers: Sequence[str]) -> list[float | None]:
            return [None if len(c) > 3 else -1.0 for c in conversations]

    views = play([found()], [found()], [found()], answers=("Lyon",))
    assert InformationGainFn(Short()).score(views) == [0.0, None, None]
    assert InformationGainFn(Short()).score(play([found()])) == [None]  # no answer, no scorer asked


def test_a_scorer_that_loses_one_is_an_error() -> None:
    class Forgetful:
        def answer_logprob(self, conversations: Sequence[Any], answers: Sequence[str]) -> list[float | None]:
            return [-1.0 for _ in conversations][1:]

    with pytest.raises(RewardError, match="reward 'information_gain' raised ValueError"):
        score_views(InformationGainFn(Forgetful()), play([found()], answers=("Lyon",)))


# The oracle ------------------------------------------------------------------------------------------------------


def labels(views: Sequence[TurnView], order: Any = "any") -> dict[str, list[list[bool | None]]]:
    kinds: tuple[Any, ...] = ("necessity", "quality", "product")
    return {kind: [OracleFn(kind, order).label_calls(view) for view in views] for kind in kinds}


def test_the_use_of_searches_by_hand() -> None:
    searches = {
        "finds the first hop": found("a", "z", query="1"),
        "finds it again": found("a", query="2"),
        "misses": found("z", query="3"),
        "misses in the same words": found("z", query="3"),
        "fails": failed("unknown_tool", "4"),
        "finds the second hop, and the first again": found("b", "a", query="5"),
        "finds nothing when all is found": found("z", query="6"),
    }
    labelled = labels(play(*([result] for result in searches.values()), **TWO_HOPS))
    assert labelled == {
        "necessity": [[True], [False], [True], [False], [True], [True], [False]],
        "quality": [[True], [True], [False], [False], [False], [True], [False]],
        "product": [[True], [False], [False], [False], [False], [True], [False]],
    }


def test_a_turn_with_several_calls_earns_the_share_that_was_of_use() -> None:
    views = play([found("a"), found("a", query="y"), ran("Lyon"), failed()], **TWO_HOPS)
    # The program worked, and what it was good for here nobody knows.
    assert labels(views)["product"] == [[True, False, None, False]]
    assert OracleFn().score(views) == approx(1 / 3)
    assert OracleFn().score(play([ran("Lyon")], **TWO_HOPS)) == [None]


def test_in_a_chain_a_hop_counts_once_those_before_it_are_found() -> None:
    views = play([found("b", query="1")], [found("a", query="2")], [found("b", query="3")], **TWO_HOPS)
    assert labels(views)["product"] == [[True], [True], [False]]
    assert labels(views, "chain") == {
        "necessity": [[False], [True], [False]],
        "quality": [[True], [True], [True]],
        "product": [[False], [True], [False]],
    }
    both = play([found("b", "a")], [found("b")], **TWO_HOPS)
    assert labels(both, "chain")["product"] == [[True], [False]]


def test_any_of_a_hops_passages_finds_it() -> None:
    views = play([found("a2")], [found("a1", query="y")], gold_passages=(("a1", "a2"),))
    assert labels(views)["product"] == [[True], [False]]


@pytest.mark.parametrize("order", ["any", "chain"])
def test_a_right_search_for_each_hop_of_a_bundled_question_is_of_use_once(order: Any) -> None:
    for task in questions("test", size=60):
        results = [found(hop["passage"], query=hop["subject"]) for hop in task.metadata["hops"]]
        turns = tuple(
            Turn(i, "...", (result.call,), (result,)) for i, result in enumerate([*results, *reversed(results)])
        )
        episode = Episode("x", task, "hermes", (), turns)
        wanted = [1.0] * len(results) + [0.0] * len(results)
        assert score_episodes(OracleFn(order=order), [episode])[0].tolist() == wanted
        assert score_episodes(OracleFn("quality", order), [episode])[0].tolist() == [1.0] * len(turns)


def called(*calls: ToolCall) -> list[ToolResult]:
    return [ToolResult(call, "done") for call in calls]


A1, A2, AX = (ToolCall("a", {"x": value}) for value in (1, 2, "?"))
B = ToolCall("b")


def test_the_use_of_function_calls_by_hand() -> None:
    views = play(called(A1, B), called(AX), called(AX, A2), called(A2, B), gold_calls=(A1, A2), grading="calls")
    assert labels(views) == {
        "necessity": [[True, False], [True], [False, True], [False, False]],
        "quality": [[True, False], [False], [False, True], [True, False]],
        "product": [[True, False], [False], [False, True], [False, False]],
    }
    assert OracleFn().score(views) == [0.5, 0.0, 0.5, 0.0]


def test_a_call_that_fits_two_gold_calls_takes_neither_from_another() -> None:
    accepted: list[Mapping[str, Any]] = [{"x": [1, 2]}, {"x": [1]}]
    views = play(called(A1), called(A2), gold_calls=(A2, A1), metadata={"accepted": accepted}, grading="calls")
    assert labels(views)["product"] == [[True], [True]]


def test_a_gold_call_that_is_due_twice_is_of_use_twice() -> None:
    views = play(called(B), called(B), called(B), gold_calls=(B, B), grading="calls")
    assert labels(views)["product"] == [[True], [True], [False]]


def test_a_gold_call_that_is_made_again_is_of_no_use_in_whatever_words() -> None:
    accepted: list[Mapping[str, Any]] = [{"x": [1, 11]}, {"x": [2]}]
    again = ToolCall("a", {"x": 11})
    views = play(called(A1, A1), called(again), gold_calls=(A1, A2), metadata={"accepted": accepted}, grading="calls")
    assert labels(views) == {
        "necessity": [[True, False], [False]],
        "quality": [[True, True], [True]],
        "product": [[True, False], [False]],
    }


def test_where_no_function_fits_no_call_is_of_use() -> None:
    assert labels(play(called(A1), grading="calls")) == {
        "necessity": [[False]],
        "quality": [[False]],
        "product": [[False]],
    }


def test_gold_calls_of_bundled_tasks_are_of_use_once() -> None:
    for task in function_tasks("test")[:40]:
        turns = tuple(Turn(i, "...", (c,), (ToolResult(c, "done"),)) for i, c in enumerate([*task.gold_calls, B]))
        episode = Episode("x", task, "hermes", (), turns, grading="calls")
        assert score_episodes(OracleFn(), [episode])[0].tolist() == [*[1.0] * len(task.gold_calls), 0.0]


def test_the_use_of_programs_is_known_where_the_answer_tells() -> None:
    programs = [
        [ran("17", "step")],
        [ran("NameError", "oops", "tool_error")],
        [ran("1000", "a number in which the answer stands")],
        [ran("first\n50", "answer")],
        [ran("100", "check")],
        [ran("boom", "late", "timeout")],
    ]
    assert labels(play(*programs, answers=("50",), grading="math")) == {
        "necessity": [[None], [None], [None], [True], [False], [False]],
        "quality": [[None], [False], [None], [True], [None], [False]],
        "product": [[None], [False], [None], [True], [False], [False]],
    }
    again = play([ran("17", "step")], [ran("17", "step"), ran("", "silent")], answers=("50",), grading="math")
    assert labels(again)["necessity"] == [[None], [False, None]]
    parallel = play([ran("50\n17"), ran("50"), ran("100")], answers=("50",), grading="math")
    assert labels(parallel)["product"] == [[None, True, False]]


def test_after_a_program_that_nobody_can_judge_none_is_called_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.process.oracle_math.math_equal", lambda a, b: None if a == "lost" else a == b)
    programs = [[ran("17"), ran("lost"), ran("17")], [ran("50")], [ran("100")]]
    assert labels(play(*programs, answers=("50",), grading="math")) == {
        "necessity": [[None, None, False], [None], [False]],
        "quality": [[None, None, None], [True], [None]],
        "product": [[None, None, False], [None], [False]],
    }
    # One accepted answer that matches is enough, whatever becomes of the others.
    monkeypatch.setattr("rewards.process.oracle_math.math_equal", lambda a, b: None if b == "lost" else a == b)
    views = play([ran("50"), ran("17")], answers=("lost", "50"), grading="math")
    assert labels(views)["product"] == [[True, False]]


def test_where_nothing_is_known_the_oracle_is_silent() -> None:
    assert OracleFn().score(play([found("a")], answers=("Lyon",))) == [None]
    assert OracleFn().score(play([ran("50")], grading="math")) == [None]


@pytest.mark.parametrize("necessity", [True, False, None])
@pytest.mark.parametrize("quality", [True, False, None])
def test_a_product_is_known_as_soon_as_one_label_is_no(necessity: bool | None, quality: bool | None) -> None:
    possible = {n and q for n in _could_be(necessity) for q in _could_be(quality)}
    assert CallLabel(necessity, quality).product is (possible.pop() if len(possible) == 1 else None)


def _could_be(label: bool | None) -> tuple[bool, ...]:
    return (True, False) if label is None else (label,)
