"""The judge's models: a real HTTP server on the loopback interface, and vLLM's place in this process."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from rewards import RewardWrapper, VectorRewardWrapper, score_episodes
from rewards.judge import JudgeFn
from rewards.judging.engine import VLLMChat
from rewards.judging.server import ChatServer
from tests.judges import chat_reply, expert_reply, question, serve_chat
from tests.servers import Request, Response, Served
from tests.toys import toy_env, toy_vector
from toolenv import ConfigError, Message, MissingExtraError, RewardError
from toolenv.errors import SamplerError
from toolenv.http import MAX_RETRY_AFTER_S
from toolenv.seeding import rng

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("no_proxy")]

HELLO = (Message("user", "hello"),)


def echo(request: Request) -> Response:
    return 200, {}, chat_reply(f"{question(request)}!")


def script(*responses: Response):
    """Answers these, one after the other, then echoes."""
    return lambda request: responses[request.number] if request.number < len(responses) else echo(request)


def ask(served: Served, **options) -> tuple[str | None, ChatServer]:
    chat = ChatServer(served.url, "judge", **options)
    return chat.complete([HELLO], seeds=[7])[0], chat


def test_a_request_says_what_is_wanted(monkeypatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", " secret\n")
    with serve_chat(echo) as served:
        reply, chat = ask(served, max_tokens=9, api_key_env="JUDGE_KEY", extra={"top_p": 0.5, "temperature": None})
        assert reply == "hello!"
        assert ChatServer(served.url + "/", "judge", extra={"seed": None}).complete([HELLO], seeds=[7]) == ["hello!"]
    first, second = served.requests
    assert first.path == second.path == "/v1/chat/completions"
    assert first.headers["Authorization"] == "Bearer secret"
    assert first.body == {
        "model": "judge",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 9,
        "seed": 7,
        "top_p": 0.5,
    }
    assert chat.settings == {"model": "judge", "max_tokens": 9, "top_p": 0.5}
    assert "Authorization" not in second.headers
    assert "seed" not in second.body


def test_replies_stand_in_the_order_of_the_prompts() -> None:
    def slow_first(request: Request) -> Response:
        time.sleep(0.05 if question(request) == "0" else 0)
        return echo(request)

    with serve_chat(slow_first) as served:
        prompts = [(Message("user", str(i)),) for i in range(20)]
        replies = ChatServer(served.url, "judge").complete(prompts, seeds=range(20))
        assert replies == [f"{i}!" for i in range(20)]
        asked = {question(request): request.body["seed"] for request in served.requests}
        assert asked == {str(i): i for i in range(20)}


@pytest.mark.parametrize(
    ("responses", "waits"),
    [
        ([(429, {"Retry-After": "7"}, "busy")], [7]),
        ([(503, {"Retry-After": "86400"}, "")], [MAX_RETRY_AFTER_S]),
        ([(429, {"Retry-After": "soon"}, "")] * 2, [1.0]),
        ([(500, {}, "oops")] * 3, [1.0, 2.0]),
    ],
)
def test_what_passes_is_tried_again(slept, responses, waits) -> None:
    with serve_chat(script(*responses)) as served:
        reply, chat = ask(served)
    assert reply == "hello!"
    assert len(served.requests) == len(responses) + 1
    assert [wait for wait in slept if wait] == waits
    assert not chat.failures


@pytest.mark.parametrize(
    ("response", "tries", "problem"),
    [
        ((500, {}, "oops"), 3, "status 500"),
        ((429, {"Retry-After": "1"}, ""), 3, "status 429"),
        ((200, {}, "<html>"), 2, "not a chat completion"),
        ((200, {}, '{"choices": []}'), 2, "not a chat completion"),
        ((200, {}, '{"error": "busy"}'), 2, "not a chat completion"),
        ((200, {}, '{"choices": [{"message": {"content": 1}}]}'), 2, "not a chat completion"),
        ((200, {}, "[" * 100_000), 2, "not a chat completion"),
        ((200, {"Content-Length": "1000"}, "cut short"), 2, "not a chat completion"),
        ((400, {}, "This model's maximum context length is 256 tokens."), 1, "status 400"),
        ((413, {}, "payload"), 1, "status 413"),
    ],
)
def test_what_does_not_pass_is_no_reply(slept, response, tries, problem) -> None:
    with serve_chat(lambda request: response) as served:
        reply, chat = ask(served, retries=2)
    assert reply is None
    assert len(served.requests) == tries
    assert chat.failures == {problem: 1}


def test_a_reply_that_is_garbage_once_is_asked_for_again() -> None:
    with serve_chat(script((200, {}, "garbage"))) as served:
        assert ask(served)[0] == "hello!"


def test_no_content_is_a_reply_though_not_in_form() -> None:
    with serve_chat(lambda request: (200, {}, chat_reply(None))) as served:
        assert ask(served)[0] == ""


def test_a_server_that_takes_too_long_gives_no_reply() -> None:
    done = threading.Event()

    def late(request: Request) -> Response:
        done.wait(30)
        return echo(request)

    with serve_chat(late) as served:
        reply, chat = ask(served, timeout_s=0.2, retries=0)
        done.set()
    assert reply is None
    assert chat.failures == {"ConnectionError": 1}


def test_a_chat_that_fails_takes_no_other_along(slept) -> None:
    with serve_chat(lambda request: (500, {}, "") if question(request) == "bad" else echo(request)) as served:
        chat = ChatServer(served.url, "judge", retries=1)
        assert chat.complete([HELLO, (Message("user", "bad"),), HELLO], seeds=[0] * 3) == ["hello!", None, "hello!"]


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ((401, {}, "bad key"), r"status 401; check the key \(api_key_env\). It says: 'bad key'"),
        ((403, {}, ""), "status 403; check the key"),
        ((404, {}, "no such\nmodel"), "status 404; check base_url and model. It says: 'no such model'"),
        ((400, {}, "temperature must be positive"), "status 400; check the settings"),
        ((302, {"Location": "http://127.0.0.1:9/"}, ""), "status 302; check the settings"),
    ],
)
def test_what_every_request_would_meet_is_an_error_at_once(slept, response, message) -> None:
    with serve_chat(lambda request: response) as served:
        chat = ChatServer(served.url, "judge", max_in_flight=1)
        with pytest.raises(SamplerError, match=message):
            chat.complete([HELLO] * 1000, seeds=[0] * 1000)
        assert len(served.requests) < 1000
    assert not slept


def test_an_address_that_nobody_answers_at_is_an_error_at_once(slept) -> None:
    with serve_chat() as served:
        pass
    with pytest.raises(SamplerError, match=r"no judge can be reached at http://127.0.0.1:\d+/v1/chat/completions"):
        ask(served)
    assert not slept


def test_a_server_that_goes_away_is_waited_for_and_then_gives_no_reply(slept) -> None:
    with serve_chat(echo) as served:
        reply, chat = ask(served, retries=3)
        assert reply == "hello!"
        served.stop()
        chat._session.close()  # else the connection that is kept would go on
        assert chat.complete([HELLO], seeds=[0]) == [None]
    assert [wait for wait in slept if wait] == [1.0, 2.0]
    assert chat.failures == {"ConnectionError": 1}


def test_so_many_requests_are_in_flight_and_no_more() -> None:
    # Each is answered only once three are there; were they fewer at once, the barrier would break.
    together, lock, running, peak = threading.Barrier(3, timeout=20), threading.Lock(), 0, 0

    def count(request: Request) -> Response:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        together.wait()
        time.sleep(0.01)
        with lock:
            running -= 1
        return echo(request)

    with serve_chat(count) as served:
        chat = ChatServer(served.url, "judge", max_in_flight=3)
        # Two callers at once share the bound.
        callers = [threading.Thread(target=chat.complete, args=([HELLO] * 6,), kwargs={"seeds": [0] * 6}) for _ in "ab"]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert peak == 3
    assert len(served.requests) == 12
    assert not chat.failures


def test_settings_that_make_no_sense_are_refused(monkeypatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    for options, message in [
        ({"base_url": "localhost:8000"}, "base_url must be like http://localhost:8000/v1"),
        ({"max_in_flight": 0}, "max_in_flight must be at least 1"),
        ({"timeout_s": 0}, "timeout_s above 0"),
        ({"api_key_env": "JUDGE_KEY"}, "'JUDGE_KEY' is not set"),
        ({"extra": {"stream": True}}, "extra cannot hold 'stream'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            ChatServer(**{"base_url": "http://127.0.0.1:9/v1", "model": "judge", **options})


CALL = '<tool_call>{{"name": "search", "arguments": {{"query": "{}"}}}}</tool_call>'


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_inline_vector_and_deferred_agree(tmp_path, mode) -> None:
    choices = [CALL.format("Peru"), CALL.format("Italy"), CALL.format("Atlantis"), CALL.format("Peru") * 2, "hm"]
    draws = rng(0, "plays", mode).integers(len(choices), size=(4, 4))
    plays = [[choices[i] for i in row] for row in draws]
    with serve_chat(expert_reply) as served:
        inline_fn, vector_fn, deferred_fn = (JudgeFn(ChatServer(served.url, "judge")) for _ in range(3))
        inline, episodes = [], []
        for seed, actions in enumerate(plays):
            env = RewardWrapper(toy_env(), inline_fn)
            env.reset(seed=seed)
            inline.append([env.step(action)[4]["reward_terms"].get("judge", np.nan) for action in actions])
            episodes.append(env.unwrapped.episode)
        envs = VectorRewardWrapper(toy_vector(4, mode), vector_fn)
        envs.reset(seed=[0, 1, 2, 3])
        steps = [envs.step([actions[t] for actions in plays])[4]["reward_terms"] for t in range(4)]
        vector = np.array([np.where(terms["_judge"], terms["judge"], np.nan) for terms in steps]).T
        deferred = score_episodes(deferred_fn, episodes)
    np.testing.assert_array_equal(inline, vector)
    np.testing.assert_array_equal(inline, deferred)
    assert {0.0, 0.5, 1.0} >= set(np.ravel(inline)[~np.isnan(inline).ravel()]) >= {0.0, 1.0}


def test_a_wrong_address_stops_the_run_with_one_clear_error() -> None:
    env = toy_env()
    env.reset(seed=0)
    env.step(CALL.format("Peru"))
    with serve_chat() as served:
        fn = JudgeFn(ChatServer(served.url.replace("/v1", "/v2"), "judge"))
        served.stop()
    with pytest.raises(RewardError, match="cannot ask its judge, and no turn is at fault: no judge can be reached"):
        score_episodes(fn, [env.episode])


# vLLM in this process -----------------------------------------------------------------------------------------------


class FakeVLLM:
    """Behaves as vLLM 0.32: a batch with one chat that is too long is refused as a whole."""

    def __init__(self, **engine) -> None:
        self.engine = engine
        self.batches: list[int] = []

    def chat(self, chats, sampling_params, use_tqdm):
        self.batches.append(len(chats))
        contents = [chat[-1]["content"] for chat in chats]
        if any(len(content) > 20 for content in contents):
            raise RuntimeError("This model's maximum context length is 20 tokens. However, your prompt has more")
        if "crash" in contents:
            raise RuntimeError("engine core died")
        texts = [f"{c} {p['seed']} {p['temperature']}" for c, p in zip(contents, sampling_params, strict=True)]
        return [SimpleNamespace(outputs=[SimpleNamespace(text=text)]) for text in texts]


def test_vllm_answers_all_but_the_chat_that_is_too_long(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=FakeVLLM, SamplingParams=dict))
    chat = VLLMChat("tiny", max_tokens=8, dtype="float32")
    assert chat.settings == {"model": "tiny", "temperature": 0.0, "max_tokens": 8, "dtype": "float32"}
    assert chat._llm.engine == {"model": "tiny", "dtype": "float32"}
    prompts = [(Message("user", text),) for text in ("a", "b" * 21, "c", "d")]
    assert chat.complete(prompts, seeds=[1, 2, 3, 4]) == ["a 1 0.0", None, "c 3 0.0", "d 4 0.0"]
    assert chat._llm.batches == [4, 2, 1, 1, 2]
    with pytest.raises(SamplerError, match="vLLM with model 'tiny' failed: engine core died"):
        chat.complete([(Message("user", "crash"),)], seeds=[0])


def test_vllm_is_missed_with_one_line(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match="vllm"):
        VLLMChat("tiny")
