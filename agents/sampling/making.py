"""Make the sampler that a run's settings name."""

from __future__ import annotations

import copy
import inspect
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from agents.sampling.base import SamplingParams, SyncedSampler
from agents.sampling.hf import HFSampler, configured_ends
from agents.sampling.weights import plain
from toolenv.errors import ConfigError

SamplerKind = Literal["hf", "vllm", "vllm-server"]
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Room for adapters that vLLM can make."""


def make_sampler(
    kind: SamplerKind,
    model: Any,
    tokenizer: Any,
    params: SamplingParams,
    *,
    version: int = 0,
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
        urls: Addresses of vLLM servers.
        options: Further settings of ``HFSampler``, ``VLLMSampler`` or ``VLLMServerSampler``. For the latter two
            ``{"adapter": NAME}`` has a PEFT model's LoRA adapter travel alone; otherwise it is merged.

    Raises:
        ConfigError: Settings that do not fit together.
        MissingExtraError: vLLM is not installed.
        SamplerError: A server does not answer, or could not take the weights over.

    Example:
        >>> make_sampler("hf", model, tokenizer, SamplingParams())  # doctest: +SKIP
    """
    given = dict(options or {})
    check_urls(kind, urls)
    if kind == "hf":
        _check_options(HFSampler, given)
        return HFSampler(model, tokenizer, params, version, **given)
    ends = configured_ends(plain(model))
    sampler: SyncedSampler
    if kind == "vllm-server":
        from agents.sampling.vllm_server import VLLMServerSampler

        sampler = VLLMServerSampler(urls, tokenizer, params, version, ends=ends, **given)
    elif kind == "vllm":
        sampler = _engine(model, tokenizer, params, version, ends, given)
    else:
        raise ConfigError(f"sampler must be 'hf', 'vllm' or 'vllm-server', not {kind!r}")
    with ExitStack() as failing:  # an engine that nobody gets must not keep its memory
        failing.callback(sampler.close)
        sampler.sync(model, version)
        failing.pop_all()
    return sampler


def check_urls(kind: str, urls: Sequence[str]) -> None:
    """Check that there are addresses where, and only where, there are servers.

    Raises:
        ConfigError: There are too many, or none.
    """
    if urls and kind != "vllm-server":
        raise ConfigError(f"sampler_urls are for the sampler 'vllm-server', not for {kind!r}")
    if kind == "vllm-server" and not urls:
        raise ConfigError("the sampler 'vllm-server' needs sampler_urls, such as http://127.0.0.1:8000")


def _check_options(sampler: type[HFSampler], options: Mapping[str, Any]) -> None:
    """Refuse settings that a sampler in this process does not take."""
    parameters = inspect.signature(sampler).parameters.values()
    taken = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for name in sorted(set(options) - set(taken)):
        raise ConfigError(
            f"{sampler.__name__} takes no {name!r} in sampler_kwargs; it takes {', '.join(taken)}. What cuts or bends "
            "the distribution (top_p, top_k, a penalty) is left out on purpose: it would bias the importance ratio"
        )


def _engine(
    model: Any, tokenizer: Any, params: SamplingParams, version: int, ends: frozenset[int], options: dict[str, Any]
) -> SyncedSampler:
    """An engine in this process, which starts without weights; those of a base model come here."""
    from agents.sampling.vllm import VLLMSampler

    inner = plain(model)
    options = {"dtype": str(inner.dtype).removeprefix("torch."), "load_format": "dummy", **options}
    adapted = options.get("adapter") is not None
    if adapted:
        options = {"max_lora_rank": _room_for_rank(model), **options}
    with tempfile.TemporaryDirectory(prefix="toolenv-config-") as folder:
        config = copy.deepcopy(inner.config)
        config.architectures = config.architectures or [type(inner).__name__]
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        sampler = VLLMSampler(folder, tokenizer, params, version, ends=ends, **options)
    if adapted:
        sampler.take_base(model)
    return sampler


def _room_for_rank(model: Any) -> int:
    """The smallest size that vLLM has for the rank of a model's adapters."""
    if not hasattr(model, "peft_config"):
        raise ConfigError(
            f"the sampler shall take adapters, and {type(model).__name__} has none; wrap it by PEFT first"
        )
    rank = max(adapter.r for adapter in model.peft_config.values())
    return next((size for size in LORA_RANKS if size >= rank), rank)
