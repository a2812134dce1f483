"""vLLM for real, on the CPU: in this process, and as two servers. ``make test-vllm`` runs this, in its environment.

The servers start first and load while the engine in this process is tested. Their model has a generation_config.json
that would cut the distribution, and they run with vLLM's default, which reads it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from agents_fixtures import make_envs, make_model, make_tokenizer
from peek import peek_envs, peek_model, peek_rewards, peek_tokenizer

from agents.config import GRPOConfig
from agents.evaluate import evaluate
from agents.grpo import train
from agents.rollout import collect
from agents.sampling import Generation, SamplingParams
from agents.sampling.making import make_sampler
from agents.sampling.openai import MessageEncoder, OpenAISampler
from agents.sampling.parity import check_parity, compare_logprobs
from agents.sampling.stops import StopStrings
from agents.sampling.transfer import FileTransfer
from agents.sampling.vllm_server import VLLMServerSampler
from agents.tokens import ConversationEncoder, TokenHistory
from rewards import RewardSum, TurnView
from toolenv.errors import ConfigError, SamplerError
from toolenv.formats import make_format

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed; run: make test-vllm", allow_module_level=True)

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this very process
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "NO_PROXY": "127.0.0.1",
}
SERVER_STARTS_S = 240.0
PROMPTS = ["What is the capital of France?", "<search>Lyon", "Answer:", "a"]
TOLERANCE = 1e-5
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


def policy(seed: int = 0) -> Any:
    """A small Qwen2 with tied embeddings, of a head size that vLLM has on a CPU."""
    return make_model(seed, hidden=64, spread=0.1)


def with_lora(model: Any, seed: int = 1) -> Any:
    import peft

    adapted = peft.get_peft_model(model, peft.LoraConfig(**LORA))
    set_lora(adapted, seed)
    return adapted.eval()


def set_lora(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def history(text: str, times: int = 1) -> TokenHistory:
    made = TokenHistory()
    made.append_context(make_tokenizer()(text)["input_ids"] * times)
    return made


def histories() -> list[TokenHistory]:
    return [history(text) for text in PROMPTS]


def draw(sampler: Any, seed: int = 0) -> list[Generation]:
    return sampler.generate(histories(), seeds=range(seed, seed + len(PROMPTS)))


def ids_of(generations: list[Generation]) -> list[tuple[int, ...]]:
    return [generation.ids for generation in generations]


def agree(sampler: Any, model: Any, seed: int = 0) -> None:
    """Sampler and model agree to rounding, at the first prompts and after some turns."""
    prompts = histories()
    prompts[-1].append_action([70, 71], [-1.0, -2.0])
    prompts[-1].append_context([72, 73])
    parity = check_parity(sampler, model, prompts, seeds=range(seed, seed + 4), tolerance=TOLERANCE)
    assert parity.tokens > 20


# Servers -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def servers(_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Addresses of two servers, which may still be loading; ``ready`` waits for them."""
    folder = tmp_path_factory.mktemp("served")
    model = policy()
    model.save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    biased = {"top_p": 0.4, "top_k": 3, "temperature": 0.2, "repetition_penalty": 1.5, "eos_token_id": [0, 2]}
    (folder / "model" / "generation_config.json").write_text(json.dumps(biased))
    ports = free_ports(2)
    started = [start_server(folder / "model", port, folder / f"server-{port}.log") for port in ports]
    try:
        yield [f"http://127.0.0.1:{port}" for port in ports]
    finally:
        for server in started:
            server.terminate()
        for server in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)  # its engine's processes too, where it had no time to end them
            server.wait()


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def start_server(model: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """The very command that docs/samplers.md gives, with a model and a port of ours and what the tests want besides."""
    page = (Path(__file__).parents[1] / "docs" / "samplers.md").read_text(encoding="utf-8")
    block = page.partition("## Start a server")[2].partition("```sh\n")[2].partition("```")[0]
    words = shlex.split(block.replace("\\\n", " "))
    given = dict(word.split("=") for word in words[: words.index("python")])
    command = [sys.executable, *words[words.index("python") + 1 :]]
    command[command.index("--model") + 1] = str(model)
    command[command.index("--port") + 1] = str(port)
    command += ["--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "1024", "--enforce-eager"]
    command += ["--enable-lora", "--max-loras", "3", "--max-lora-rank", "8"]
    given["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    with log.open("wb") as output:
        return subprocess.Popen(
            command, env={**os.environ, **given}, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


@pytest.fixture(scope="module")
def ready(servers: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The servers, once both answer."""
    limit = time.monotonic() + SERVER_STARTS_S
    for url in servers:
        while not healthy(url):
            if time.monotonic() > limit:
                logs = [path.read_text()[-2000:] for path in tmp_path_factory.getbasetemp().rglob("server-*.log")]
                pytest.fail(f"{url} did not start in {SERVER_STARTS_S:.0f} s:\n" + "\n".join(logs))
            time.sleep(0.5)
    return servers


def healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).status_code == 200
    except requests.RequestException:
        return False


# In this process -----------------------------------------------------------------------------------------------------


class Engines:
    """One engine at a time, which is all that a process can have; each is made once, in the order of the tests."""

    def __init__(self) -> None:
        self.name = ""
        self.made: Any = None

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        if self.name != name:
            self.close()
            self.name, self.made = name, make()
        return self.made

    def close(self) -> None:
        if self.made is not None:
            self.made[0].close()
        self.name, self.made = "", None


@pytest.fixture(scope="module")
def engines(servers: list[str]) -> Iterator[Engines]:
    made = Engines()
    yield made
    made.close()


@pytest.fixture
def engine(engines: Engines) -> Any:
    """An engine that started empty, and got its weights by the first sync."""
    return engines.get("whole", make_engine)[0]


def make_engine() -> tuple[Any]:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    params = SamplingParams(max_new_tokens=12)
    sampler = make_sampler("vllm", policy(), make_tokenizer(), params, version=4, options={"max_model_len": 1024})
    draw(sampler)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    return (sampler,)


def test_what_it_draws_is_what_the_model_would(engine: Any) -> None:
    agree(engine, policy())
    assert {generation.version for generation in draw(engine)} == {4}


def test_a_draw_is_its_seeds_own(engine: Any) -> None:
    first, again, other = draw(engine), draw(engine), draw(engine, seed=100)
    assert ids_of(first) == ids_of(again)
    assert all(a != b for a, b in zip(ids_of(first), ids_of(other), strict=True))
    alone = [engine.generate([prompt], seeds=[seed])[0] for seed, prompt in enumerate(histories())]
    assert ids_of(alone) == ids_of(first)
    repeated = engine.generate([history("a") for _ in range(8)], seeds=range(8))
    assert len(set(ids_of(repeated))) == 8


def test_sync_brings_every_weight_also_the_tied_head(engine: Any) -> None:
    old, new = policy(), policy(seed=1)
    with pytest.raises(SamplerError, match="other weights"):
        check_parity(engine, new, histories(), seeds=range(4))
    engine.sync(new, 5)
    agree(engine, new)
    assert {generation.version for generation in draw(engine)} == {5}
    with torch.no_grad():  # the embedding alone, which is the output head too
        new.get_input_embeddings().weight.mul_(1.3)
    engine.sync(new, 6)
    agree(engine, new)
    engine.sync(old, 7)
    agree(engine, old)


def test_weights_come_in_as_many_files_as_are_asked_for(engine: Any) -> None:
    new = policy(seed=2)
    sent: list[int] = []
    client = engine._transfer.client
    update = client.update_weights
    client.update_weights = lambda info: sent.append(Path(info["path"]).stat().st_size) or update(info)
    try:
        FileTransfer(client, chunk_bytes=20_000).send(new)
    finally:
        del client.update_weights
    assert len(sent) > 3
    engine.sync(new, 8)
    agree(engine, new)
    assert not list(Path("/dev/shm").glob("toolenv-weights-*"))


def test_adapters_are_merged_into_what_is_sent(engine: Any) -> None:
    adapted = with_lora(policy())
    engine.sync(adapted, 9)
    agree(engine, adapted)
    with pytest.raises(SamplerError, match="other weights"):
        check_parity(engine, policy(), histories(), seeds=range(4))


def test_without_a_reset_prefixes_of_older_weights_answer(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    long = [history(PROMPTS[0], times=20)]  # longer than a block of the cache
    engine.sync(policy(), 10)
    check_parity(engine, policy(), long, seeds=[1], tolerance=TOLERANCE)
    with monkeypatch.context() as patch:
        patch.setattr(engine._llm, "reset_prefix_cache", lambda: True)
        engine.sync(policy(seed=3), 11)
    with pytest.raises(SamplerError, match="prefix cache"):
        check_parity(engine, policy(seed=3), long, seeds=[1])
    engine.sync(policy(seed=3), 12)
    check_parity(engine, policy(seed=3), long, seeds=[1], tolerance=TOLERANCE)


def test_what_is_too_long_is_said(engine: Any) -> None:
    with pytest.raises(SamplerError, match="1024"):
        engine.generate([history(PROMPTS[0], times=200)], seeds=[1])


def test_there_is_one_engine_in_a_process(engine: Any) -> None:
    with pytest.raises(ConfigError, match="close"):
        make_sampler("vllm", policy(), make_tokenizer(), SamplingParams())


def test_grpo_learns_with_an_engine_in_its_process(engines: Engines, tmp_path: Path) -> None:
    engines.close()

    def run(num_updates: int, resume: bool) -> Any:
        config = GRPOConfig(
            output_dir=tmp_path / "run", num_updates=num_updates, groups_per_update=8, max_new_tokens=1, alpha=0.5,
            learning_rate=3e-3, micro_batch_episodes=64, checkpoint_every=20, sampler="vllm", resume=resume,
        )  # fmt: skip
        return train(
            config,
            model=peek_model(hidden=64),
            tokenizer=peek_tokenizer(),
            envs=peek_envs(64),
            rewards=peek_rewards(),
            quiet=True,
        )

    lines = run(40, resume=False).metrics + run(42, resume=True).metrics
    assert [line["update"] for line in lines] == list(range(1, 43))
    assert np.mean([line["success_rate"] for line in lines[:3]]) < 0.45
    assert np.mean([line["success_rate"] for line in lines[-3:]]) > 0.8
    assert max(line[name] for line in lines for name in ("parity_max", "sync_parity/max")) < TOLERANCE


@pytest.fixture
def adapter_engine(engines: Engines) -> tuple[Any, Any]:
    """An engine that holds the base model, whose adapters come version by version; at temperature 0.7, with stops."""
    return engines.get("adapter", make_adapter_engine)


def make_adapter_engine() -> tuple[Any, Any]:
    model = with_lora(policy())
    params = SamplingParams(max_new_tokens=12, temperature=0.7, stop=("e", "is"))
    options = {"adapter": "policy", "max_model_len": 1024}
    return make_sampler("vllm", model, make_tokenizer(), params, options=options), model


def test_each_version_of_an_adapter_is_itself(adapter_engine: tuple[Any, Any]) -> None:
    sampler, model = adapter_engine
    for version in range(1, 5):
        set_lora(model, seed=version)
        sampler.sync(model, version)
        agree(sampler, model, seed=10 * version)
        assert {generation.version for generation in draw(sampler)} == {version}
    assert len(sampler._llm.llm_engine.list_loras()) == 2  # the last one and, by max_staleness, one before it
    with pytest.raises(SamplerError, match="base model"), model.disable_adapter():
        check_parity(sampler, model, histories(), seeds=range(4))


def test_an_adapter_sampler_refuses_a_model_without(adapter_engine: tuple[Any, Any]) -> None:
    with pytest.raises(ConfigError, match="wrap it by PEFT"):
        adapter_engine[0].sync(policy(), 1)


def check_endings(sampler: Any) -> None:
    """Actions end as HFSampler's do: with the token that completes a stop string, an end token, or the limit."""
    tokenizer = make_tokenizer()
    stops = StopStrings(tokenizer, sampler.params.stop)
    kinds = set()
    for generation in sampler.generate([history("a") for _ in range(80)], seeds=range(80)):
        ended = generation.ids[-1] in (0, 2)
        spoken = generation.ids[: -1 if ended else None]
        assert generation.text == tokenizer.decode(spoken)
        assert len(generation.ids) == len(generation.logprobs)
        assert stops.end(generation.ids[:-1]) is None
        stopped = stops.end(spoken) is not None  # the text of an end token may hold one too
        assert (generation.finish_reason == "length") == (not ended and not stopped)
        assert stopped or ended or len(generation.ids) == sampler.params.max_new_tokens
        kinds.add((generation.finish_reason, ended, stopped))
    assert kinds >= {("stop", True, False), ("stop", False, True), ("length", False, False)}


def test_an_action_ends_as_it_would_with_transformers(adapter_engine: tuple[Any, Any]) -> None:
    sampler, model = adapter_engine
    sampler.sync(model, 9)
    check_endings(sampler)


# Behind servers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(ready: list[str]) -> Iterator[VLLMServerSampler]:
    params = SamplingParams(max_new_tokens=12, temperature=0.7, stop=("e", "is"))
    sampler = make_sampler("vllm-server", policy(), make_tokenizer(), params, version=2, urls=ready)
    assert isinstance(sampler, VLLMServerSampler)
    yield sampler
    sampler.close()


def test_servers_draw_what_the_model_would_whatever_their_defaults_are(served: Any) -> None:
    agree(served, policy())
    assert {generation.version for generation in draw(served)} == {2}
    assert ids_of(draw(served)) == ids_of(draw(served))
    assert ids_of(draw(served)) != ids_of(draw(served, seed=100))
    check_endings(served)


def test_every_server_is_synced(served: Any, ready: list[str]) -> None:
    long = [history(PROMPTS[0], times=20) for _ in range(4)]
    for version, model in ((3, policy(seed=1)), (4, policy())):
        served.sync(model, version)
        parity = check_parity(served, model, long, seeds=range(4), tolerance=TOLERANCE)
        assert parity.tokens > 4
        assert {served._servers.of(prompt).url for prompt in long} == set(ready)
        assert {requests.get(f"{url}/weight_info").json()["weight_version"] for url in ready} == {str(version)}


def test_actions_on_their_way_are_of_one_version_each(served: Any) -> None:
    models = {5: policy(seed=1), 6: policy(seed=2), 7: policy()}
    served.sync(models[5], 5)
    with ThreadPoolExecutor(8) as pool:
        prompts = [history(PROMPTS[i % 4]) for i in range(96)]
        futures = [pool.submit(served.generate, [p], seeds=[i]) for i, p in enumerate(prompts)]
        for version in (6, 7):
            futures[40 * (version - 5)].result()
            served.sync(models[version], version)
        drawn = [future.result()[0] for future in futures]
    assert {generation.version for generation in drawn} == {5, 6, 7}
    for version, model in models.items():
        chosen = [(p, g) for p, g in zip(prompts, drawn, strict=True) if g.version == version]
        compare_logprobs(model, *zip(*chosen, strict=True), temperature=0.7, tolerance=TOLERANCE)


def test_a_server_with_other_weights_is_noticed(served: Any, ready: list[str]) -> None:
    requests.post(f"{ready[1]}/update_weight_version", json={"new_version": "default"}, timeout=10)  # as after a start
    with pytest.raises(SamplerError, match="holds weights of version 'default'"):
        draw(served)
    served.sync(policy(), 8)
    agree(served, policy())


def test_a_request_that_is_refused_says_why(served: Any) -> None:
    with pytest.raises(SamplerError, match=r"status 400.*1024"):
        served.generate([history(PROMPTS[0], times=200)], seeds=[1])


def test_servers_take_adapters_by_version(served: Any, ready: list[str]) -> None:
    served.sync(policy(), 1)  # the base
    model = with_lora(policy())
    params = SamplingParams(max_new_tokens=12)
    sampler = VLLMServerSampler(ready, make_tokenizer(), params, model="tiny", adapter="policy", max_staleness=1)
    for version in range(4):
        set_lora(model, seed=version)
        sampler.sync(model, version)
        agree(sampler, model)
        assert {generation.version for generation in draw(sampler)} == {version}
    for url in ready:
        names = [entry["id"] for entry in requests.get(f"{url}/v1/models", timeout=10).json()["data"]]
        assert names == ["tiny", "policy-v2", "policy-v3"]
    sampler.close()


def test_episodes_are_played_on_servers(served: Any) -> None:
    served.sync(policy(), 1)
    envs = make_envs(4)
    encoder = ConversationEncoder(make_tokenizer(), envs.envs[0].format)
    played = collect(served, envs, [0, 0, 1, 1], encoder=encoder, sampler_seed=3, max_tokens=400)
    envs.close()
    assert len(played.rollouts) == 4
    for rollout in played.rollouts:
        tokens = rollout.tokens
        assert len(tokens.versions) == len(rollout.episode.turns)
        assert all(
            logprob < 0
            for logprob, turn in zip(rollout.tokens.logprobs, rollout.tokens.turn_ids, strict=True)
            if turn >= 0
        )


def test_grpo_runs_with_adapters_on_servers_each_episode_at_its_own_pace(
    served: Any, ready: list[str], tmp_path: Path
) -> None:
    served.sync(policy(), 1)  # the base
    config = GRPOConfig(
        output_dir=tmp_path / "run", num_updates=3, groups_per_update=2, group_size=4, max_new_tokens=12,
        max_tokens=400, rollout="async", learning_rate=1e-2,
        sampler="vllm-server", sampler_urls=tuple(ready), sampler_kwargs={"adapter": "grpo", "model": "tiny"},
    )  # fmt: skip
    rewards = RewardSum({"outcome": Brevity()})
    model, tokenizer = with_lora(policy()), make_tokenizer()
    result = train(config, model=model, tokenizer=tokenizer, envs=make_envs(8), rewards=rewards, quiet=True)
    assert len(result.metrics) == 3
    assert max(line[name] for line in result.metrics for name in ("parity_max", "sync_parity/max")) < TOLERANCE
    names = [entry["id"] for entry in requests.get(f"{ready[1]}/v1/models", timeout=10).json()["data"]]
    assert {"grpo-v2", "grpo-v3"} <= set(names)


class Brevity:
    """The outcome: the shorter the better."""

    name = "outcome"

    def score(self, views: Sequence[TurnView]) -> list[float | None]:
        return [1 / (1 + len(view.turn.action)) if view.final else None for view in views]


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_an_openai_server_is_evaluated(ready: list[str], api: str) -> None:
    envs = make_envs(2, format="hermes")
    form = envs.envs[0].format
    encoder = MessageEncoder(make_format("hermes")) if api == "chat" else ConversationEncoder(make_tokenizer(), form)
    writer = encoder if api == "chat" else make_tokenizer()
    sampler = OpenAISampler(ready[0], "tiny", writer, SamplingParams(16), retries=0)
    played, summary = evaluate(sampler, envs, 3, encoder=encoder)
    envs.close()
    assert summary.episodes == len(played.rollouts) == 3
    again, _ = evaluate(sampler, make_envs(2, format="hermes"), 3, encoder=encoder)
    actions = [[turn.action for turn in rollout.episode.turns] for rollout in played.rollouts]
    assert [[turn.action for turn in rollout.episode.turns] for rollout in again.rollouts] == actions
    assert any(text for texts in actions for text in texts)
    with pytest.raises(ConfigError, match="nothing can be learned"):
        sampler.sync(policy(), 1)
