"""Make the sampler that a run's settings name."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from agents.sampling.base import SamplingParams, SyncedSampler
from agents.sampling.hf import HFSampler, configured_ends
from agents.sampling.weights import plain
from toolenv.errors import ConfigError

SamplerKind = Literal["hf", "vllm", "vllm-server"]


def make_sampler(
    kind: SamplerKind,
    model: Any,
    tokenizer: Any,
    params: SamplingParams,
    *,
    version: int = 0,
    model_path: str | Path | None = None,
    urls: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> SyncedSampler:
    """A sampler that holds the weights of a model, and follows them.

    Args:
        kind: ``"hf"``: the model itself; ``"vllm"``: an engine in this process; ``"vllm-server"``: servers at ``urls``.
        model: The trained model.
        tokenizer: Its tokenizer.
        params: How to sample.
        version: Version of its weights, which the sampler is given at once.
        model_path: Folder or name of the base model: where the option ``adapter`` names a LoRA adapter, the engine in
            this process loads it; elsewhere nothing is read from it.
        urls: Addresses of vLLM servers.
        options: Further settings of ``HFSampler``, ``VLLMSampler`` or ``VLLMServerSampler``.

    Raises:
        ConfigError: Settings that do not fit together.
        MissingExtraError: vLLM is not installed.
        SamplerError: A server does not answer, or could not take the weights over.

    Example:
        >>> make_sampler("hf", model, tokenizer, SamplingParams())  # doctest: +SKIP
    """
    given = dict(options or {})
    if urls and kind != "vllm-server":
        raise ConfigError(f"sampler_urls are for the sampler 'vllm-server', not for {kind!r}")
    if kind == "hf":
        return HFSampler(model, tokenizer, params, version, **given)
    ends = configured_ends(plain(model))
    sampler: SyncedSampler
    if kind == "vllm-server":
        if not urls:
            raise ConfigError("the sampler 'vllm-server' needs sampler_urls, such as http://127.0.0.1:8000")
        from agents.sampling.vllm_server import VLLMServerSampler

        sampler = VLLMServerSampler(urls, tokenizer, params, version, ends=ends, **given)
    elif kind == "vllm":
        sampler = _engine(model, tokenizer, params, version, ends, model_path, given)
    else:
        raise ConfigError(f"sampler must be 'hf', 'vllm' or 'vllm-server', not {kind!r}")
    sampler.sync(model, version)
    return sampler


def _engine(
    model: Any,
    tokenizer: Any,
    params: SamplingParams,
    version: int,
    ends: frozenset[int],
    model_path: str | Path | None,
    options: dict[str, Any],
) -> SyncedSampler:
    """An engine in this process: over the base model for adapters, else over weights that the first sync brings."""
    from agents.sampling.vllm import VLLMSampler

    inner = plain(model)
    options = {"dtype": str(inner.dtype).removeprefix("torch."), **options}
    if options.get("adapter") is not None:
        if model_path is None:
            raise ConfigError("a sampler with an adapter needs the base model's folder or name; give model_path")
        return VLLMSampler(model_path, tokenizer, params, version, ends=ends, **options)
    with tempfile.TemporaryDirectory(prefix="toolenv-config-") as folder:
        config = copy.deepcopy(inner.config)
        config.architectures = config.architectures or [type(inner).__name__]
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return VLLMSampler(folder, tokenizer, params, version, ends=ends, load_format="dummy", **options)
