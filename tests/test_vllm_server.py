"""What goes over the wire to servers, against a stand-in that answers as vLLM does; test_vllm.py asks vLLM itself."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from agents_fixtures import make_envs, make_model, make_tokenizer
from safetensors.torch import load_file

from agents.evaluate import evaluate
from agents.sampling import SamplingParams
from agents.sampling.making import make_sampler
from agents.sampling.openai import MessageEncoder, OpenAISampler
from agents.sampling.vllm import VLLMSampler
from agents.sampling.vllm_server import VLLMServerSampler
from agents.sampling.weights import named_weights
from agents.tokens import TokenHistory
from tests.servers import Request, Response, serve
from toolenv.errors import ConfigError, SamplerError
from toolenv.formats import make_format

pytestmark = pytest.mark.usefixtures("no_proxy")

Answer = tuple[int, Any]


class StandIn:
    """A server that says "e" and the end token, keeps what it is asked, and answers otherwise where it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, Any]] = []
        self.version = "default"
        self.raw = False
        self.workers = 1
        self.otherwise: Callable[[str, Any], Answer | None] = lambda path, body: None
        self._lock = threading.Lock()

    def play(self, request: Request) -> Response:
        status, answer = self.answer(request.path, request.body)
        return status, {}, json.dumps(answer)

    def answer(self, path: str, body: Any) -> Answer:
        with self._lock:
            self.asked.append((path, body))
        other = self.otherwise(path, body)
        if other is not None:
            return other
        if path == "/update_weight_version":
            self.version = body["new_version"]
        return 200, {
            "/v1/models": {"data": [{"id": "tiny"}]},
            "/weight_info": {"weight_version": self.version},
            "/get_world_size": {"world_size": self.workers},
            "/reset_prefix_cache": {"success": True},
            "/v1/completions": {"choices": [self.choice(body or {})]},
        }.get(path, {})

    def choice(self, body: dict[str, Any]) -> dict[str, Any]:
        best = -1.0 if self.raw else -1.0 / body.get("temperature", 1.0)
        logprobs = {"token_logprobs": [-0.5, -0.25], "top_logprobs": [{"a": best, "b": best - 1}]}
        return {"token_ids": [ids("e")[0], 2], "logprobs": logprobs, "finish_reason": "stop", "text": "e"}

    def bodies(self, path: str) -> list[Any]:
        return [body for asked, body in self.asked if asked == path]


@contextmanager
def stand_ins(count: int) -> Iterator[list[StandIn]]:
    with ExitStack() as running:
        servers = [StandIn() for _ in range(count)]
        for server in servers:
            server.url = running.enter_context(serve(server.play)).url
        yield servers


def ids(text: str) -> list[int]:
    return make_tokenizer()(text)["input_ids"]


def history(text: str) -> TokenHistory:
    made = TokenHistory()
    made.append_context(ids(text))
    return made


def sampler_of(servers: list[StandIn], params: SamplingParams | None = None, **options: Any) -> VLLMServerSampler:
    urls = [server.url for server in servers]
    return VLLMServerSampler(urls, make_tokenizer(), params or SamplingParams(8), backoff_s=0.01, **options)


def test_a_request_leaves_no_default_to_the_server() -> None:
    params = SamplingParams(8, 0.7, stop=("</search>",))
    with stand_ins(1) as [server]:
        sampler = sampler_of([server], params, version=3)
        server.asked.clear()
        drawn = sampler.generate([history("a"), history("abc")], seeds=[2**62, 5])
    asked = sorted(server.bodies("/v1/completions"), key=lambda body: body["seed"])
    assert [(body["seed"], body["prompt"]) for body in asked] == [(5, ids("abc")), (2**62, ids("a"))]
    said = {
        "model": "tiny", "max_tokens": 8, "temperature": 0.7, "top_p": 1.0, "top_k": -1, "min_p": 0.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "min_tokens": 0,
        "stop": ["</search>"], "include_stop_str_in_output": True, "stop_token_ids": [0, 2], "ignore_eos": True,
        "return_token_ids": True, "logprobs": 0,
    }  # fmt: skip
    assert all(said.items() <= body.items() for body in asked)
    assert [(g.ids, g.logprobs, g.text, g.finish_reason, g.version) for g in drawn] == [
        ((ids("e")[0], 2), (-0.5, -0.25), "e", "stop", 3)
    ] * 2


@pytest.mark.parametrize(
    ("option", "reason"),
    [("top_p", "cuts"), ("repetition_penalty", "bends"), ("temperature", "SamplingParams"), ("seed", "each call")],
)
def test_what_would_bias_the_ratio_is_refused(option: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}=0.5 is refused.*{reason}"):
        VLLMServerSampler(["http://127.0.0.1:1"], make_tokenizer(), SamplingParams(), extra={option: 0.5})


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ({"logprobs_mode": "raw_logprobs"}, "processed_logprobs"),
        ({"generation_config": "auto"}, "top_p"),
        ({"override_generation_config": {"top_k": 5}}, "refused"),
        ({"worker_extension_cls": "a.B"}, "leave it out"),
    ],
)
def test_an_engine_that_would_bias_is_refused_before_it_loads(engine: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        VLLMSampler("nowhere", make_tokenizer(), SamplingParams(), **engine)


def test_raw_logprobs_are_refused_at_the_start() -> None:
    with stand_ins(2) as servers:
        sampler_of(servers)
        servers[1].raw = True
        with pytest.raises(ConfigError, match=f"{servers[1].url} leaves the temperature out"):
            sampler_of(servers)


def test_a_flat_distribution_is_no_evidence() -> None:
    def flat(path: str, body: Any) -> Answer | None:
        logprobs = {"token_logprobs": [-0.5], "top_logprobs": [{"a": -5.0, "b": -5.0}]}
        return (200, {"choices": [{"logprobs": logprobs}]}) if path == "/v1/completions" else None

    with stand_ins(1) as [server]:
        server.otherwise = flat
        sampler_of([server])


def test_what_passes_is_tried_again_and_what_does_not_is_said() -> None:
    statuses = [503, 429, 500]
    with stand_ins(1) as [server]:
        sampler = sampler_of([server])
        server.otherwise = lambda path, _: (statuses.pop(0), {}) if statuses and path == "/v1/completions" else None
        assert sampler.generate([history("a")], seeds=[1])[0].text == "e"
        assert statuses == []
        server.asked.clear()
        server.otherwise = lambda path, _: (400, {"error": "the prompt is too long"})
        with pytest.raises(SamplerError, match=r"status 400.*the prompt is too long"):
            sampler.generate([history("a")], seeds=[1])
        assert len(server.bodies("/v1/completions")) == 1
    with pytest.raises(SamplerError, match=r"no answer from .* after 3 tries"):
        VLLMServerSampler([server.url], make_tokenizer(), SamplingParams(), retries=2, backoff_s=0.01)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"token_ids": None}, "returns no token ids"),
        ({"finish_reason": "abort"}, "'abort'"),
        ({"logprobs": None}, "is it vLLM"),
        ({"logprobs": {"token_logprobs": [-0.5]}}, "1 finite log-probabilities for an action of 2"),
    ],
)
def test_an_answer_that_is_no_action_is_refused(choice: dict[str, Any], message: str) -> None:
    with stand_ins(1) as [server]:
        sampler = sampler_of([server])
        given = {**server.choice({}), **choice}
        server.otherwise = lambda path, _: (200, {"choices": [given]}) if path == "/v1/completions" else None
        with pytest.raises(SamplerError, match=message):
            sampler.generate([history("a")], seeds=[1])


def test_nothing_comes_after_the_token_that_completes_a_stop_string() -> None:
    written = [*ids("x</search>"), *ids("<answer>")]
    given = {"token_ids": written, "logprobs": {"token_logprobs": [-1.0] * len(written)}, "finish_reason": "length"}
    with stand_ins(1) as [server]:
        sampler = sampler_of([server], SamplingParams(20, stop=("</search>",)))
        server.otherwise = lambda path, _: (200, {"choices": [given]}) if path == "/v1/completions" else None
        [drawn] = sampler.generate([history("a")], seeds=[1])
    assert (drawn.text, drawn.finish_reason) == ("x</search>", "stop")
    assert list(drawn.ids) == ids("x</search>")
    assert len(drawn.logprobs) == len(drawn.ids)


def test_a_history_stays_with_its_server() -> None:
    with stand_ins(2) as servers:
        sampler = sampler_of(servers)
        for server in servers:
            server.asked.clear()
        histories = [history(text) for text in "abcdef"]
        for turn in range(3):
            sampler.generate(histories[turn:], seeds=range(6 - turn))
        first, second = ([body["prompt"] for body in server.bodies("/v1/completions")] for server in servers)
    assert sorted(first) == sorted([ids("a")] + 2 * [ids("c")] + 3 * [ids("e")] + [ids("c")])
    assert sorted(second) == sorted(2 * [ids("b")] + 3 * [ids("d")] + 3 * [ids("f")])


def test_a_sync_sends_each_weight_once_to_every_server_and_leaves_no_file() -> None:
    model = make_model()
    sent: list[tuple[str, dict[str, torch.Tensor]]] = []

    def load(path: str, body: Any) -> Answer | None:
        if path == "/update_weights":
            sent.append((body["update_info"]["path"], load_file(body["update_info"]["path"])))
        return None

    with stand_ins(2) as servers:
        for server in servers:
            server.otherwise = load
        urls = [server.url for server in servers]
        sampler = make_sampler("vllm-server", model, make_tokenizer(), SamplingParams(8), version=4, urls=urls)
        assert sampler.version == 4
        assert [server.version for server in servers] == ["4", "4"]
        order = [path for path, _ in servers[0].asked if "weight" in path or "prefix" in path]
        servers[1].version = "default"
        with pytest.raises(SamplerError, match="holds weights of version 'default', not 4"):
            sampler.generate([history("a")], seeds=[1])
    assert order == [
        "/init_weight_transfer_engine", "/start_weight_update", "/update_weights", "/finish_weight_update",
        "/update_weight_version", "/reset_prefix_cache",
    ]  # fmt: skip
    for path, weights in sent:
        assert weights.keys() == {name for name, _ in named_weights(model)}
        assert "lm_head.weight" not in weights  # tied
        assert all(torch.equal(weights[name], weight) for name, weight in named_weights(model))
        with pytest.raises(FileNotFoundError):
            load_file(path)
    assert len(sent) == 2


def test_no_rank_asks_before_every_rank_is_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 names the new version last; a rank that went on before would be told that its servers hold another."""
    with stand_ins(1) as servers:
        sampler = sampler_of(servers)
        asker = threading.Thread(target=lambda: sampler.generate([history("a")], seeds=[1]))

        def the_others_are_late() -> None:
            servers[0].asked.clear()
            asker.start()
            asker.join(timeout=0.2)
            assert not servers[0].asked

        monkeypatch.setattr("agents.sampling.vllm_server.all_arrived", the_others_are_late)
        sampler.sync(make_model(), 1)
        asker.join()
        assert servers[0].bodies("/v1/completions")


def test_the_workers_of_several_servers_have_numbers_of_their_own() -> None:
    with stand_ins(3) as servers:
        for server, workers in zip(servers, (2, 1, 4), strict=True):
            server.workers = workers
        sampler_of(servers)._servers.init_weight_transfer_engine({"rank_offset": 1, "world_size": 8})
        infos = [server.bodies("/init_weight_transfer_engine")[0]["init_info"] for server in servers]
    assert infos == [{"rank_offset": offset, "world_size": 8} for offset in (1, 3, 4)]


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="needs sampler_urls"):
        make_sampler("vllm-server", make_model(), make_tokenizer(), SamplingParams())
    with pytest.raises(ConfigError, match="not for 'hf'"):
        make_sampler("hf", make_model(), make_tokenizer(), SamplingParams(), urls=["http://127.0.0.1:1"])
    with pytest.raises(ConfigError, match="must be like http"):
        VLLMServerSampler(["localhost:8000"], make_tokenizer(), SamplingParams())
    with pytest.raises(ConfigError, match="in a list"):
        VLLMServerSampler("http://localhost:8000", make_tokenizer(), SamplingParams())  # type: ignore[arg-type]


def chat(path: str, body: Any) -> Answer | None:
    """Calls the tool, then answers; goes on writing after what should have stopped it."""
    turns = sum(message["role"] == "assistant" for message in body["messages"])
    form = make_format("hermes")
    text = ('<tool_call>\n{"name": "search", "arguments": {"query": "Lyon"}}\n</tool_call>', form.write_answer("2"))
    return 200, {"choices": [{"message": {"content": text[turns]}, "finish_reason": "stop"}]}


def test_a_chat_server_is_evaluated_by_messages() -> None:
    encoder = MessageEncoder(make_format("hermes"))
    envs = make_envs(2, format="hermes")
    with stand_ins(1) as [server]:
        server.otherwise = chat
        sampler = OpenAISampler(server.url, "m", encoder, SamplingParams(64, greedy=True), extra={"top_p": 0.9})
        played, summary = evaluate(sampler, envs, 4, encoder=encoder)
    envs.close()
    assert summary.episodes == 4
    assert summary.calls_per_episode == 1
    assert summary.successes == sum(rollout.episode.task.answers == ("2",) for rollout in played.rollouts)
    last = max(server.bodies("/v1/chat/completions"), key=lambda body: len(body["messages"]))
    assert [message["role"] for message in last["messages"]][-2:] == ["assistant", "user"]
    assert "Lyon is a town." in last["messages"][-1]["content"]
    assert (last["temperature"], last["top_p"], last["max_tokens"]) == (0.0, 0.9, 64)
    for rollout in played.rollouts:
        pairs = zip(rollout.tokens.turn_ids, rollout.tokens.logprobs, strict=True)
        assert all(math.isnan(logprob) == (turn >= 0) for turn, logprob in pairs)


def test_a_format_that_goes_on_in_its_own_message_needs_completions() -> None:
    with pytest.raises(ConfigError, match="chat server cannot"):
        MessageEncoder(make_format("search_r1"))
    text = "I think <search>Lyon</search> and more <search>Paris</search>"
    with stand_ins(1) as [server]:
        server.otherwise = lambda path, body: (200, {"choices": [{"text": text, "finish_reason": "length"}]})
        sampler = OpenAISampler(server.url, "m", make_tokenizer(), SamplingParams(64, stop=("</search>",)))
        [drawn] = sampler.generate([history("a")], seeds=[3])
    assert server.bodies("/v1/completions")[0] == {
        "model": "m", "max_tokens": 64, "temperature": 1.0, "seed": 3, "prompt": ids("a"),
    }  # fmt: skip
    assert (drawn.text, drawn.finish_reason) == ("I think <search>Lyon</search>", "stop")
    assert make_tokenizer().decode(drawn.ids) == drawn.text
