"""Gradient checkpointing: a layer's activations are made again in the backward pass instead of being kept.

What is kept is the input of each layer. It costs a second forward pass, about a third more time, and changes no
number. transformers has the switch and flips it per layer, but obeys it in training mode alone; a policy is trained
in evaluation mode, without dropout, and so would silently keep everything. ``recomputing`` obeys it in either mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from toolenv.errors import ConfigError


def enable_gradient_checkpointing(model: Any) -> None:
    """Switch gradient checkpointing on, for training mode and for what ``agents.logprobs`` computes in any mode.

    Args:
        model: A transformers model, also under PEFT.

    Raises:
        ConfigError: The model has no layers that can be recomputed.
    """
    if not any(isinstance(module, GradientCheckpointingLayer) for module in model.modules()):
        raise ConfigError(
            f"{model.config.model_type!r} has no layers that transformers can recompute; leave gradient checkpointing "
            "off and make the micro-batches smaller"
        )
    # transformers 5.23 renamed the switch.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


@contextmanager
def recomputing(model: torch.nn.Module) -> Iterator[None]:
    """Obey the switch of each layer while the model runs forward, also in evaluation mode.

    The layers' ``forward`` is replaced only for that long: a copy of the model must not call the layers of the first.

    Args:
        model: The model, or a part of it, whose switches count.
    """
    layers = [layer for layer in model.modules() if _is_on(layer)] if torch.is_grad_enabled() else []
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_on(layer: torch.nn.Module) -> bool:
    """Whether a layer is switched on, and transformers does not see to it itself."""
    return isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing and not layer.training
