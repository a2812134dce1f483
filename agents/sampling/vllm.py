"""Samples from vLLM's engine in this process."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import torch

from agents.sampling.adapters import Adapter, AdapterShelf
from agents.sampling.base import Generation, SamplingParams, check_prompts
from agents.sampling.transfer import FileTransfer, world_size
from agents.sampling.vllm_action import ActionFormat, refuse_biased
from agents.tokens import TokenHistory
from toolenv.errors import ConfigError, SamplerError, ToolEnvError
from toolenv.extras import require

WORKER_EXTENSION = "agents.sampling.vllm_worker.WorkerExtension"
OURS = {
    "logprobs_mode": "processed_logprobs",
    "generation_config": "vllm",
    "worker_extension_cls": WORKER_EXTENSION,
    "weight_transfer_config": {"backend": "files"},
}
"""What the engine is always started with."""


_open: WeakSet[VLLMSampler] = WeakSet()
"""The sampler that holds the engine of this process."""


class VLLMSampler:
    """Samples from a vLLM engine that lives in this process, with weights of its own.

    One at a time: vLLM keeps its process groups for the whole process, and an engine that goes takes them along.

    Args:
        source: Folder or name of the model, as vLLM takes it.
        tokenizer: Its tokenizer.
        params: How to sample.
        version: Version of the weights in ``source``; ``sync`` sets it.
        ends: As for ``ActionFormat``.
        adapter: Name of the LoRA adapter that ``sync`` brings, version by version, over the weights in ``source``;
            ``None``: ``sync`` brings all weights.
        max_staleness: As for ``AdapterShelf``.
        weight_dir: Where weights lie on their way; ``None``: in shared memory.
        **engine: Settings of ``vllm.LLM``, such as ``dtype``, ``gpu_memory_utilization``, ``max_model_len``.

    Raises:
        ConfigError: A setting that would bias what is recorded, or that the sampler makes itself; a second engine, or
            one of several training processes.
        MissingExtraError: vLLM is not installed.
        SamplerError: vLLM does not start.

    Example:
        >>> VLLMSampler("runs/sft", tokenizer, SamplingParams(), dtype="float32")  # doctest: +SKIP
    """

    concurrent = False

    def __init__(
        self,
        source: str | Path,
        tokenizer: Any,
        params: SamplingParams,
        version: int = 0,
        *,
        ends: Collection[int] = (),
        adapter: str | None = None,
        max_staleness: int = 1,
        weight_dir: Path | None = None,
        **engine: Any,
    ) -> None:
        refuse_biased(engine)
        if taken := sorted(OURS.keys() & engine):
            raise ConfigError(f"{taken[0]} is what the sampler makes itself; leave it out")
        if _open:
            raise ConfigError(
                "there is a VLLMSampler in this process, and vLLM can be in it once; close() that one first"
            )
        if world_size() > 1:
            raise ConfigError(f"one of {world_size()} training processes cannot hold vLLM too; take 'vllm-server'")
        self.params = params
        self.version = version
        self._format = ActionFormat(tokenizer, params, ends)
        self._vllm = require("vllm", "vllm")
        self._shelf = AdapterShelf(adapter, max_staleness, weight_dir) if adapter is not None else None
        if self._shelf is not None:
            engine = {"max_loras": max_staleness + 2, **engine, "enable_lora": True}
        # Compiling takes half a minute on a CPU, and what comes out is slower there.
        engine = {"enforce_eager": not torch.cuda.is_available(), **engine}
        with _failing_to(f"start with model {str(source)!r}"), _generators_untouched():
            self._llm = self._vllm.LLM(str(source), **engine, **OURS)
            _open.add(self)
            self._transfer = FileTransfer(_Engine(self._llm), weight_dir)
        self._adapter: Any = None

    def generate(self, prompts: Sequence[TokenHistory], *, seeds: Sequence[int]) -> list[Generation]:
        """Draw one action for each history; see ``Sampler``."""
        check_prompts(prompts, seeds)
        if not prompts:
            return []
        fields = self._format.fields()
        with _failing_to(f"answer {len(prompts)} prompts"), _generators_untouched():
            outputs = self._llm.generate(
                [{"prompt_token_ids": list(prompt.ids)} for prompt in prompts],
                [self._vllm.SamplingParams(seed=seed, **fields) for seed in seeds],
                lora_request=self._adapter,
                use_tqdm=False,
            )
        return [self._read(output.outputs[0]) for output in outputs]

    def sync(self, model: Any, version: int) -> None:
        """Take over the weights of a model, or its adapter; see ``SyncedSampler``."""
        with _failing_to(f"take over weights of version {version}"):
            if self._shelf is not None:
                self._load(self._shelf.add(model, version), self._shelf)
            else:
                self._send(model, version)
        self.version = version

    def take_base(self, model: Any) -> None:
        """Take over what lies under a PEFT model's adapters: for an engine that holds another base, or none.

        Raises:
            SamplerError: The weights could not be handed over.
        """
        with _failing_to("take over the base model"), model.disable_adapter():
            self._send(model, self.version)

    def close(self) -> None:
        """Shut the engine down, and free what it holds."""
        self._llm.llm_engine.engine_core.shutdown()
        _open.discard(self)
        if self._shelf is not None:
            self._shelf.close()

    # Inside --------------------------------------------------------------------------------------------------------

    def _send(self, model: Any, version: int) -> None:
        self._transfer.send(model)
        self._llm.update_weight_version(str(version))
        if not self._llm.reset_prefix_cache():
            raise SamplerError("vLLM kept prefixes of older weights, for a request that is still running")

    def _load(self, adapter: Adapter, shelf: AdapterShelf) -> None:
        request = require("vllm.lora.request", "vllm").LoRARequest(adapter.name, adapter.number, str(adapter.folder))
        self._llm.llm_engine.add_lora(request)
        self._adapter = request
        for old in shelf.drop_old():
            self._llm.llm_engine.remove_lora(old.number)

    def _read(self, output: Any) -> Generation:
        logprobs = [row[token].logprob for row, token in zip(output.logprobs, output.token_ids, strict=True)]
        return self._format.read(output.token_ids, logprobs, output.finish_reason, self.version)


class _Engine:
    """The engine as a ``WeightClient``."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._llm.init_weight_transfer_engine({"init_info": init_info})

    def start_weight_update(self) -> None:
        self._llm.start_weight_update()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._llm.update_weights({"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._llm.finish_weight_update(weight_version)


@contextmanager
def _failing_to(do: str) -> Iterator[None]:
    """What vLLM raises, which has no base of its own, is a failure of the machinery."""
    try:
        yield
    except ToolEnvError:
        raise
    except Exception as error:
        raise SamplerError(f"vLLM could not {do}: {error}") from error


@contextmanager
def _generators_untouched() -> Iterator[None]:
    """VLLM seeds every global generator of the process that it starts in; they are none of its business."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
    random.setstate(python)
    np.random.set_state(array)
