"""Episodes played each at its own pace are those of lock-step, and none waits for another's tool."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents_fixtures import TextSampler, make_envs, make_model, make_tasks, make_tokenizer
from gymnasium.vector import AutoresetMode

from agents.rollout import CollectResult, collect
from agents.rollout_async import collect_async
from agents.sampling import Generation, SamplingParams
from agents.sampling.hf import HFSampler
from agents.tokens import ConversationEncoder, TokenHistory
from rewards.chat import encode_markup, encode_text
from toolenv.env import ToolEnv
from toolenv.errors import ConfigError, InfrastructureError, SamplerError, ToolError
from toolenv.formats import Hermes
from toolenv.messages import Message
from toolenv.retrieval.encoders import TransformerEncoder
from toolenv.tools import tool
from toolenv.vector import ToolVectorEnv

SEEDS = [3, 3, 3, 8, 8, 1, 0]
PATIENCE_S = 60.0  # a test that would hang fails after this


class Concurrent:
    """A sampler that may be called from many threads at once, as one that asks a server."""

    concurrent = True

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.lock, self.threads = sampler, threading.Lock(), set[str]()

    def generate(self, prompts: Sequence[TokenHistory], *, seeds: Sequence[int]) -> list[Generation]:
        with self.lock:
            self.threads.add(threading.current_thread().name)
            return self.sampler.generate(prompts, seeds=seeds)


def plain(sampler: Any) -> Any:
    return sampler


BOTH = pytest.mark.parametrize("served", [plain, Concurrent], ids=["batched", "concurrent"])
Served = Callable[[Any], Any]


def run(play: Any, sampler: Any, envs: ToolVectorEnv, seeds: Sequence[int] = SEEDS, **options: Any) -> CollectResult:
    encoder = ConversationEncoder(make_tokenizer(), envs.envs[0].format)
    return play(sampler, envs, seeds, encoder=encoder, sampler_seed=4, **options)


def envs_with(search: Callable[[str], str], count: int) -> ToolVectorEnv:
    search.__doc__ = "Look something up.\n\nArgs:\n    query: What."
    env = ToolEnv(make_tasks(), [tool(search)], format="search_r1", max_turns=3)
    return ToolVectorEnv([env.sibling] * count, AutoresetMode.DISABLED)


def talkative_model() -> Any:
    model = make_model()
    model.get_input_embeddings().weight.data[2] *= 3
    return model


def same(first: CollectResult, second: CollectResult) -> None:
    assert first.dropped == second.dropped
    assert [r.episode for r in first.rollouts] == [r.episode for r in second.rollouts]
    for one, other in zip(first.rollouts, second.rollouts, strict=True):
        assert one.tokens.ids == other.tokens.ids
        assert one.tokens.turn_ids == other.tokens.turn_ids
        assert one.tokens.versions == other.tokens.versions
        assert one.tokens.logprobs == pytest.approx(other.tokens.logprobs, abs=1e-5)
        assert one.finish_reasons == other.finish_reasons


def no_thread_is_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("rollout-")]


@BOTH
@pytest.mark.parametrize("format", ["search_r1", "hermes"])
def test_the_episodes_are_those_of_lock_step(format: str, served: Served) -> None:
    sampler = HFSampler(talkative_model(), make_tokenizer(), SamplingParams(12, stop=("n",)), version=5)
    expected = run(collect, sampler, make_envs(3, format))
    assert {len(rollout.episode.turns) for rollout in expected.rollouts} == {3}
    for count in (1, 3, 12):
        same(run(collect_async, served(sampler), make_envs(count, format)), expected)


@BOTH
def test_what_ends_an_episode_ends_it_here_too(served: Served) -> None:
    texts = ("<search>Lyon</search>", "<search>nothing</search>", "what?", "<answer>4</answer>")
    tokens = run(collect, TextSampler(*texts), make_envs(1, max_turns=4), [0]).rollouts[0].tokens
    prompt = tokens.turn_ids.index(0)
    for budget, reason in ((prompt - 1, None), (prompt, "token_budget"), (len(tokens) - 30, "token_budget")):
        expected = run(collect, TextSampler(*texts), make_envs(2, max_turns=4), max_tokens=budget)
        same(run(collect_async, served(TextSampler(*texts)), make_envs(2, max_turns=4), max_tokens=budget), expected)
        assert {rollout.episode.reason for rollout in expected.rollouts} == ({reason} if reason else set())
    full = run(collect_async, served(TextSampler(*texts)), make_envs(2, max_turns=4)).rollouts[0].episode
    assert [turn.results[0].error for turn in full.turns[:2]] == [None, "tool_error"]
    assert full.turns[2].error is not None
    cut = run(collect_async, served(TextSampler("<search>Lyon</search>")), make_envs(2, max_turns=2)).rollouts[0]
    assert (cut.episode.truncated, cut.episode.reason, cut.tokens.turn_ids[-1]) == (True, "max_turns", -1)


@BOTH
def test_a_slow_tool_holds_up_nobody(served: Served) -> None:
    others_done, waited = threading.Event(), []

    def search(query: str) -> str:
        if query == "slow":
            waited.append(others_done.wait(PATIENCE_S))
        return "found"

    class OneIsSlow(TextSampler):
        """The first episode asks for what takes until all others have ended."""

        def generate(self, prompts: Any, *, seeds: Any) -> Any:
            self.batches.append(len(prompts))
            return [self._say(self.text(prompt), 0) for prompt in prompts]

        def text(self, prompt: TokenHistory) -> str:
            if prompt.num_turns:
                return "<answer>4</answer>"
            slow = "town 2" in make_tokenizer().decode(prompt.ids)
            return f"<search>{'slow' if slow else 'quick'}</search>"

    def progress(done: int, total: int) -> None:
        if done == total - 1:
            others_done.set()

    sampler = OneIsSlow()
    result = run(
        collect_async, served(sampler), envs_with(search, 2), [0] * 5, tasks=[2, 0, 1, 3, 4], progress=progress
    )
    assert waited == [True]
    assert [rollout.episode.task.id for rollout in result.rollouts] == ["t2", "t0", "t1", "t3", "t4"]
    assert {rollout.episode.answer for rollout in result.rollouts} == {"4"}


def test_all_that_wait_are_one_batch() -> None:
    sampler = TextSampler("<search>Lyon</search>", "<answer>4</answer>")
    run(collect_async, sampler, make_envs(7), linger_s=PATIENCE_S)
    assert sampler.batches == [7, 7]


def test_a_server_is_asked_by_each_episode_for_itself() -> None:
    sampler = Concurrent(TextSampler("<answer>4</answer>"))
    run(collect_async, sampler, make_envs(2))
    assert sampler.sampler.batches == [1] * 7
    assert sampler.threads <= {"rollout-0", "rollout-1"}


def test_tools_that_take_batches_are_shared() -> None:
    seen: list[str] = []

    class Batched:
        name = "search"
        schema = make_envs(1).envs[0].tools["search"].schema

        def __call__(self, **arguments: Any) -> str:
            raise AssertionError("a tool that has batch is called by it")

        def batch(self, arguments: Sequence[Any]) -> list[str | ToolError]:
            seen.extend(entry["query"] for entry in arguments)
            return [ToolError("no") if entry["query"] == "x" else entry["query"] for entry in arguments]

    env = ToolEnv(make_tasks(), [Batched()], format="search_r1", max_turns=3)
    envs = ToolVectorEnv([env.sibling] * 3, AutoresetMode.DISABLED)
    result = run(collect_async, TextSampler("<search>Lyon</search>", "<search>x</search>", "<answer>4</answer>"), envs)
    assert sorted(seen) == ["Lyon"] * 7 + ["x"] * 7
    for rollout in result.rollouts:
        assert [turn.results[0].error for turn in rollout.episode.turns[:2]] == [None, "tool_error"]


@BOTH
def test_episodes_that_the_machine_lost_are_dropped_and_counted(served: Served) -> None:
    class Sometimes(TextSampler):
        def generate(self, prompts: Any, *, seeds: Any) -> Any:
            lost = ["town 2" in make_tokenizer().decode(p.ids) and p.num_turns == 1 for p in prompts]
            return [self._say(f"<search>{'outage' if gone else 'Lyon'}</search>", 0) for gone in lost]

    envs = make_envs(2)
    result = run(collect_async, served(Sometimes()), envs, [5, 6, 7], tasks=[1, 2, 3])
    assert [(r.episode.seed, r.episode.task.id) for r in result.rollouts] == [(5, "t1"), (7, "t3")]
    assert result.dropped == [(6, "the index is down")]


def test_an_episode_lost_without_a_word_is_lost_all_the_same() -> None:
    def search(query: str) -> str:
        raise InfrastructureError("")

    result = run(collect_async, TextSampler("<search>x</search>"), envs_with(search, 2), [5, 6])
    assert (result.rollouts, result.dropped) == ([], [(5, "InfrastructureError"), (6, "InfrastructureError")])


@BOTH
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SamplerError("the server is gone"), ValueError("a bug")])
def test_threads_end_with_an_error_and_the_error_is_raised(error: BaseException, served: Served) -> None:
    in_tool, go_on = threading.Event(), threading.Event()

    def search(query: str) -> str:
        in_tool.set()
        go_on.wait(PATIENCE_S)
        return "found"

    class Failing(TextSampler):
        """One episode calls the tool; the next draw fails while that tool runs."""

        def generate(self, prompts: Any, *, seeds: Any) -> Any:
            if self.batches:
                assert in_tool.wait(PATIENCE_S)
                go_on.set()
                raise error
            self.batches.append(len(prompts))
            return [self._say("?" if place else "<search>x</search>", 0) for place in range(len(prompts))]

    with pytest.raises(type(error)) as raised:
        run(collect_async, served(Failing()), envs_with(search, 4))
    assert raised.value is error
    assert no_thread_is_left()


@BOTH
def test_an_error_of_an_environment_is_raised(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ToolEnv, action: str) -> Any:
        raise RuntimeError("a bug in finish")

    monkeypatch.setattr(ToolEnv, "step", broken)
    with pytest.raises(RuntimeError, match="a bug in finish"):
        run(collect_async, served(TextSampler("?")), make_envs(3))
    assert no_thread_is_left()


def test_progress_is_told_in_the_calling_thread() -> None:
    seen: list[tuple[int, int, str]] = []
    sampler = Concurrent(TextSampler("<answer>4</answer>"))
    run(
        collect_async,
        sampler,
        make_envs(3),
        progress=lambda done, total: seen.append((done, total, threading.current_thread().name)),
    )
    assert seen == [(n, 7, threading.current_thread().name) for n in range(1, 8)]


@pytest.mark.parametrize("play", [collect, collect_async])
def test_processes_that_share_a_batch_sample_what_one_would(play: Any) -> None:
    sampler = HFSampler(talkative_model(), make_tokenizer(), SamplingParams(12), version=5)
    whole = run(play, sampler, make_envs(3)).rollouts
    for rank in range(2):
        mine = list(range(rank, len(SEEDS), 2))
        part = run(play, sampler, make_envs(3), [SEEDS[i] for i in mine], indices=mine).rollouts
        same(CollectResult(part, []), CollectResult([whole[i] for i in mine], []))


def test_the_environments_can_be_played_again() -> None:
    envs = make_envs(4)
    sampler = TextSampler("<search>Lyon</search>", "<answer>4</answer>")
    first = run(collect_async, sampler, envs, SEEDS[:2])
    same(run(collect, sampler, envs, SEEDS[:2]), first)
    same(run(collect_async, sampler, envs, SEEDS[:2]), first)
    envs.step([""] * 4)  # all have ended, so that there is nothing to play
    assert [len(env.episode.turns) for env in envs.envs[:2]] == [2, 2]


@pytest.mark.parametrize("play", [collect, collect_async])
def test_settings_that_do_not_fit(play: Any) -> None:
    sampler, envs = TextSampler("x"), make_envs(1)
    with pytest.raises(ConfigError, match="one a seed"):
        run(play, sampler, envs, [0, 1], indices=[0])
    with pytest.raises(ConfigError, match="1 of them different"):
        run(play, sampler, envs, [0, 1], indices=[3, 3])
    with pytest.raises(ConfigError, match="one a seed"):
        run(play, sampler, envs, [0, 1], tasks=["t0"])
    assert run(play, sampler, envs, []) == CollectResult([], [])


def in_threads(*works: Callable[[], None]) -> None:
    """Run all at once, with the interpreter changing threads as often as it can; raise what one raises."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    for error in errors:
        raise error


def test_threads_share_a_tokenizer() -> None:
    tokenizer, marked = make_tokenizer(), "a<|im_end|>b"
    text, markup = encode_text(tokenizer, marked), encode_markup(tokenizer, marked)
    assert (2 in markup, 2 in text) == (True, False)

    def as_text() -> None:
        assert all(encode_text(tokenizer, marked) == text for _ in range(200))

    def as_markup() -> None:
        assert all(encode_markup(tokenizer, marked) == markup for _ in range(200))

    in_threads(as_text, as_markup, as_text, as_markup)


def test_threads_share_a_search_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    encoder = TransformerEncoder(tmp_path, cache_size=1)

    def forward(texts: Sequence[str], kind: str) -> Any:
        time.sleep(0)  # another thread's turn
        return np.array([[float(text)] for text in texts], np.float32)

    monkeypatch.setattr(encoder, "_forward", forward)

    def search() -> None:
        for number in range(200):
            asked = [number % 3, (number + 1) % 3]
            assert encoder.encode([str(value) for value in asked])[:, 0].tolist() == asked

    in_threads(search, search, search)


def test_threads_share_a_format() -> None:
    """Another environment's prompt, written in the moment between, must not become this one's."""

    class Shared(Hermes):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_filled":
                super().__setattr__(name, (None, Message("system", "another task's tools")))

    task = make_tasks()[0]
    assert Shared().prompt("Do it.", task, []) == Hermes().prompt("Do it.", task, [])
