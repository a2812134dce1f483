"""Samples from vLLM servers: one or several, each with the same weights."""

from __future__ import annotations

import socket
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

from agents.sampling.adapters import AdapterShelf
from agents.sampling.base import Generation, SamplingParams, check_prompts
from agents.sampling.transfer import FileTransfer, NCCLTransfer, WeightTransfer, all_arrived, is_sender
from agents.sampling.vllm_action import ActionFormat, refuse_biased
from agents.tokens import TokenHistory
from toolenv.errors import ConfigError, SamplerError
from toolenv.http import Endpoint

Backend = Literal["files", "nccl"]
Result = TypeVar("Result")


class VLLMServerSampler:
    """Samples from vLLM servers over HTTP, token ids in and out; ``generate`` may be called from many threads.

    Prompts are spread over the servers; a history stays with its server, which has its prefix in its cache. ``sync``
    waits for the actions that are on their way, so that each has one version; with adapters nobody waits.

    Args:
        urls: Addresses of the servers, without ``/v1``.
        tokenizer: The policy's tokenizer.
        params: How to sample.
        version: Version of the weights that the servers hold; ``sync`` sets it.
        model: Name of the model on the servers; ``None``: the first that the first server names.
        ends: As for ``ActionFormat``.
        adapter: Name of the LoRA adapter that ``sync`` brings, version by version; ``None``: ``sync`` brings all
            weights.
        max_staleness: As for ``AdapterShelf``.
        backend: How weights travel, as the servers were told by ``--weight-transfer-config``.
        weight_dir: Where files lie on their way; ``None``: in shared memory. The servers must see it.
        extra: Further fields of each request, such as ``priority``; those that would bias what is recorded are refused.
        max_in_flight: Most requests that are on their way at once, over all servers.
        **endpoint: As for ``toolenv.http.Endpoint``, such as ``api_key_env``.

    Raises:
        ConfigError: No server, a field that would bias what is recorded, or servers that record log-probabilities
            without the temperature.
        SamplerError: A server does not answer.

    Example:
        >>> VLLMServerSampler(["http://localhost:8000"], tokenizer, SamplingParams())  # doctest: +SKIP
    """

    concurrent = True

    def __init__(
        self,
        urls: Sequence[str],
        tokenizer: Any,
        params: SamplingParams,
        version: int = 0,
        *,
        model: str | None = None,
        ends: Collection[int] = (),
        adapter: str | None = None,
        max_staleness: int = 1,
        backend: Backend = "files",
        weight_dir: Path | None = None,
        extra: Mapping[str, Any] | None = None,
        max_in_flight: int = 256,
        **endpoint: Any,
    ) -> None:
        if isinstance(urls, str) or not urls:
            raise ConfigError(f"urls must be one address or more, in a list; got {urls!r}")
        refuse_biased(extra or {})
        self.params = params
        self._servers = _Servers(
            [Endpoint(url, error=SamplerError, connections=max_in_flight, **endpoint) for url in urls]
        )
        self._format = ActionFormat(tokenizer, params, ends)
        self._fields = {**(extra or {}), **self._format.fields(), "return_token_ids": True}
        self._model = model or self._servers.first_model()
        self._shelf = AdapterShelf(adapter, max_staleness, weight_dir) if adapter is not None else None
        self._transfer: WeightTransfer | None = None
        self._backend, self._weight_dir = backend, weight_dir
        # What requests name, and the version of it: one pair, so that a thread never reads one half of a change.
        self._served = (self._model, version)
        self._gate = _Gate()
        self._pool = ThreadPoolExecutor(max_in_flight, thread_name_prefix="vllm")
        self._check_logprobs(tokenizer)

    @property
    def version(self) -> int:
        """Version of the weights."""
        return self._served[1]

    def generate(self, prompts: Sequence[TokenHistory], *, seeds: Sequence[int]) -> list[Generation]:
        """Draw one action for each history; see ``Sampler``."""
        check_prompts(prompts, seeds)
        with self._gate.shared():
            served = self._served
            self._servers.check_weights(served[1] if self._transfer is not None else None)
            futures = [
                self._pool.submit(self._draw, self._servers.of(prompt), served, list(prompt.ids), seed)
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]
            return _all_of(futures)

    def sync(self, model: Any, version: int) -> None:
        """Take over the weights of a model, or its adapter; see ``SyncedSampler``."""
        if self._shelf is not None:
            self._sync_adapter(self._shelf, model, version)
            all_arrived()
            return
        with self._gate.alone():
            if self._transfer is None:
                self._transfer = self._open_transfer(model)
            self._transfer.send(model)
            if is_sender():
                self._servers.use(version)
            self._served = (self._model, version)
            all_arrived()  # before anybody asks again: rank 0 may be the last to be done

    def close(self) -> None:
        """End the threads; the servers run on."""
        self._pool.shutdown(cancel_futures=True)
        if self._shelf is not None:
            self._shelf.close()

    # Inside --------------------------------------------------------------------------------------------------------

    def _draw(self, server: Endpoint, served: tuple[str, int], ids: list[int], seed: int) -> Generation:
        name, version = served
        # A draw depends on its prompt and seed alone, so that to ask again for what did not come changes nothing.
        answer = server.post(
            "/v1/completions", {**self._fields, "model": name, "prompt": ids, "seed": seed}, repeat=True
        )
        try:
            [choice] = answer["choices"]
            drawn, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            reason = choice["finish_reason"]
        except (TypeError, KeyError, ValueError) as error:
            raise SamplerError(f"{server.url} gave no token ids and log-probabilities; is it vLLM?") from error
        if drawn is None or any(logprob is None for logprob in logprobs):
            raise SamplerError(f"{server.url} returns no token ids; it must know return_token_ids, as vLLM does")
        return self._format.read(drawn, logprobs, reason, version)

    def _open_transfer(self, model: Any) -> WeightTransfer:
        if self._backend == "files":
            return FileTransfer(self._servers, self._weight_dir)
        address = socket.gethostbyname(socket.gethostname())
        return NCCLTransfer(self._servers, model, sum(self._servers.world_sizes()), address, _free_port())

    def _sync_adapter(self, shelf: AdapterShelf, model: Any, version: int) -> None:
        adapter = shelf.add(model, version)
        if is_sender():
            self._servers.each("/v1/load_lora_adapter", lora_name=adapter.name, lora_path=str(adapter.folder))
        all_arrived()
        self._served = (adapter.name, version)
        for old in shelf.drop_old():
            if is_sender():
                self._servers.each("/v1/unload_lora_adapter", lora_name=old.name)

    def _check_logprobs(self, tokenizer: Any) -> None:
        """Refuse servers whose log-probabilities know nothing of the temperature: vLLM's own default."""
        body = {**self._fields, "prompt": tokenizer("a")["input_ids"], "max_tokens": 1, "logprobs": 2, "seed": 0}
        for server in self._servers.endpoints:
            best = []
            for temperature in (1.0, 0.5):
                asked = {**body, "model": self._model, "temperature": temperature}
                answer = server.post("/v1/completions", asked, repeat=True)
                best.append(sorted(answer["choices"][0]["logprobs"]["top_logprobs"][0].values())[-2:])
            warm, cool = best
            # A flat distribution and a certain one are the same at every temperature, and say nothing.
            flat = warm[0] == warm[-1] or warm[-1] > -1e-3
            if warm == cool and not flat:
                raise ConfigError(
                    f"{server.url} leaves the temperature out of its log-probabilities; start it with "
                    "--logprobs-mode processed_logprobs"
                )


class _Servers:
    """All servers as one: a ``WeightClient``, and where each history goes."""

    def __init__(self, endpoints: list[Endpoint]) -> None:
        self.endpoints = endpoints
        self._homes: WeakKeyDictionary[TokenHistory, int] = WeakKeyDictionary()
        self._next = 0
        self._lock = threading.Lock()

    def of(self, history: TokenHistory) -> Endpoint:
        """The server that a history stays with; new ones go round."""
        with self._lock:
            if history not in self._homes:
                self._homes[history] = self._next
                self._next = (self._next + 1) % len(self.endpoints)
            return self.endpoints[self._homes[history]]

    def first_model(self) -> str:
        """The model that the first server names first: its own, before any adapter."""
        listed = self.endpoints[0].get("/v1/models")
        try:
            return str(listed["data"][0]["id"])
        except (TypeError, KeyError, IndexError) as error:
            raise SamplerError(f"{self.endpoints[0].url} names no model at /v1/models: {listed!r}") from error

    def each(self, path: str, **body: Any) -> None:
        """Post the same to all, at the same time: some wait for one another."""
        self._at_once([(server, path, body) for server in self.endpoints])

    def world_sizes(self) -> list[int]:
        """Workers of each server."""
        return [int(server.get("/get_world_size")["world_size"]) for server in self.endpoints]

    def check_weights(self, version: int | None) -> None:
        """Notice a server that was started anew, and is back at the weights that it was started with."""
        for server in self.endpoints if version is not None else ():
            held = server.get("/weight_info")["weight_version"]
            if held != str(version):
                raise SamplerError(
                    f"{server.url} holds weights of version {held!r}, not {version}; was it started anew, or does "
                    "another run sync it? Sync it again"
                )

    def use(self, version: int) -> None:
        """Name the new weights, and forget what older ones have computed."""
        self.each("/update_weight_version", new_version=str(version))
        for server in self.endpoints:
            if not server.post("/reset_prefix_cache")["success"]:
                raise SamplerError(f"{server.url} kept prefixes of older weights: somebody else's request is running")

    # vLLM's protocol.

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        infos = [dict(init_info) for _ in self.endpoints]
        if "rank_offset" in init_info:  # each server's workers come after those of the servers before it
            offset = init_info["rank_offset"]
            for info, workers in zip(infos, self.world_sizes(), strict=True):
                info["rank_offset"] = offset
                offset += workers
        path = "/init_weight_transfer_engine"
        self._at_once([(s, path, {"init_info": i}) for s, i in zip(self.endpoints, infos, strict=True)])

    def start_weight_update(self) -> None:
        self.each("/start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.each("/update_weights", update_info=update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.each("/finish_weight_update", weight_version=weight_version)

    @staticmethod
    def _at_once(requests: list[tuple[Endpoint, str, dict[str, Any]]]) -> None:
        with ThreadPoolExecutor(len(requests)) as pool:
            _all_of([pool.submit(server.post, path, body) for server, path, body in requests])


class _Gate:
    """Many may be inside together, or one alone, for whom new ones wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._closed = True
            self._changed.wait_for(lambda: self._inside == 0)
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


def _all_of(futures: Sequence[Future[Result]]) -> list[Result]:
    """All results; the first failure calls off what has not begun."""
    try:
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
