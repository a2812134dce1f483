"""The weights of a trained model, named as its checkpoint names them: what a sampler with a copy of its own is sent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from agents.sharding import full
from toolenv.errors import ConfigError


def plain(model: Any) -> Any:
    """The transformers model under a PEFT model, and any other model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """What is known of a weight without gathering it.

    Attributes:
        name: As in a checkpoint.
        dtype: Its type.
        shape: Its whole shape.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@torch.no_grad()
def named_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter once, whole and detached: adapters are merged into what they adapt, shards are gathered.

    Tied weights come under their first name, as in a checkpoint. Only parameters come: nothing else is trained. One
    whole tensor is held at a time.

    Args:
        model: A transformers model, also under PEFT, also sharded by FSDP2 (then every rank has to go through all).

    Yields:
        Name and tensor. The tensor may be the parameter's own memory: copy what is to be kept.

    Raises:
        ConfigError: An adapter that cannot be merged layer by layer: not LoRA, or on tied embeddings.

    Example:
        >>> [name for name, _ in named_weights(torch.nn.Linear(2, 1))]
        ['weight', 'bias']
    """
    for name, parameter, layer in _parameters(model):
        weight = full(parameter.detach())
        yield name, weight if layer is None or not name.endswith(".weight") else _merged(layer, weight)


def weight_facts(model: Any) -> list[WeightFacts]:
    """What ``named_weights`` is going to yield, in its order, with nothing gathered or merged."""
    return [WeightFacts(name, parameter.dtype, tuple(parameter.shape)) for name, parameter, _ in _parameters(model)]


def _parameters(model: Any) -> Iterator[tuple[str, torch.Tensor, Any]]:
    """Parameters of the plain model under its names, each with the adapted layer that it belongs to, if any."""
    layers = _adapted_layers(model)
    for name, parameter in plain(model).named_parameters():
        owner, _, kind = name.rpartition(".")
        adapted = owner.removesuffix(".base_layer")
        if adapted != owner and adapted in layers:
            yield f"{adapted}.{kind}", parameter, layers[adapted]
        elif not any(name.startswith(f"{layer}.") for layer in layers):
            yield name, parameter, None


@torch.no_grad()
def copy_weights(source: Any, target: Any) -> None:
    """Write the weights of one model into another of the same shape, in place.

    Args:
        source: As for ``named_weights``.
        target: A transformers model; a PEFT model takes those of another with the same adapters.

    Raises:
        ConfigError: The two do not have the same parameters.
    """
    own = dict(target.named_parameters())
    alike = own.keys() == dict(source.named_parameters()).keys()
    weights = ((n, full(p.detach())) for n, p in source.named_parameters()) if alike else named_weights(source)
    missing = set(own)
    for name, weight in weights:
        if name not in own or own[name].shape != weight.shape:
            raise ConfigError(f"the sampler's model has no parameter {name!r} of shape {tuple(weight.shape)}")
        own[name].copy_(weight)
        missing.discard(name)
    if missing:
        raise ConfigError(f"the sampler's model has parameters that the trained one lacks, such as {min(missing)!r}")


def _adapted_layers(model: Any) -> dict[str, Any]:
    """The layers that PEFT has wrapped, by name, where each can be merged for itself."""
    if "peft" not in sys.modules:  # whoever has a PEFT model has imported it
        return {}
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    inner, layers = plain(model), {}
    for name, module in inner.named_modules():
        if isinstance(module, BaseTunerLayer):
            layers[name] = module
        plainly_lora = isinstance(module, LoraLayer) and not any(module.use_dora.values())
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and not plainly_lora:
            raise ConfigError(
                f"{name} is adapted by {type(module).__name__}, which cannot be merged layer by layer; take LoRA "
                "without DoRA and without modules_to_save"
            )
    ends = [inner.get_input_embeddings(), inner.get_output_embeddings()] if layers else []
    if len({id(end.weight) for end in ends}) < len(ends) and any(isinstance(end, BaseTunerLayer) for end in ends):
        raise ConfigError(
            "an adapter on tied embeddings cannot be merged: it changes one of the two; leave embed_tokens and lm_head "
            "out of target_modules"
        )
    return layers


def _merged(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """A base weight with its active adapters."""
    if layer.disable_adapters or layer.merged:
        return weight
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A or adapter in layer.lora_embedding_A:
            weight = weight + full(layer.get_delta_weight(adapter)).to(weight.dtype)
    return weight
