"""A model that is spread over ranks by FSDP2: each holds a part of every weight, and of the optimiser's state.

The weights of a layer come together while the layer runs, and its gradients are summed over ranks as they are made.
Nothing else about a model changes: it is called, clipped and stepped as before, with four rules. Make the optimiser
after ``shard``. Call parts of a model, such as its decoder, within ``through``. Let every rank do the same number of
passes, or none, within ``whole``. And read weights, and an optimiser's state, as full tensors, with the functions at
the end; weights are loaded before ``shard``, an optimiser's state after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor

from agents.distributed import Ranks
from toolenv.errors import ConfigError

T = TypeVar("T")

_THROUGH = "_agents_through"


def shard(model: Any, ranks: Ranks) -> None:
    """Spread a model over ranks, in place: each decoder layer for itself, and then what is left.

    All start from rank 0's weights, so that what was drawn at random, as adapters are, is one model and not several.
    Gradients are *summed* over ranks, not averaged, so that losses that divide by global counts add up to the loss of
    the whole batch. With one rank there is nothing to do.

    Args:
        model: A transformers model, also under PEFT, or a module around one; on every rank one of the same shape.
        ranks: Who trains it.

    Raises:
        ConfigError: A torch that cannot sum gradients over ranks.
    """
    if ranks.world == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise ConfigError(f"torch {torch.__version__} cannot sum gradients over ranks; install torch 2.13 or later")
    for tensor in (*model.parameters(), *model.buffers()):
        torch.distributed.broadcast(tensor.detach(), src=0)
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for module in [*_layers(model), *_untied_decoder(model), model]:
        # Weights go after each pass, also those of the root, so that none can be read that an old step has left.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        module.set_gradient_divide_factor(1.0)  # the sum over ranks, not their mean
        module.set_force_sum_reduction_for_comms(True)  # gloo has no reduction that scales as it sums
    setattr(model, _THROUGH, MethodType(_call, model))
    register_fsdp_forward_method(model, _THROUGH)
    through(model, lambda: None)  # who is the root is settled by the first pass


def _call(model: Any, function: Callable[..., T], *args: Any) -> T:
    return function(*args)


def through(model: Any, function: Callable[..., T], *args: Any) -> T:
    """Call a function that runs parts of ``model``, as one forward pass of a sharded model; else simply call it.

    Parts of a sharded model have their weights only while the model runs.

    Args:
        model: The model, sharded or not.
        function: What to call; it returns tensors, or a tuple of them.
        args: Its arguments.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> through(layer, lambda states: torch.nn.functional.linear(states, layer.weight).shape, torch.ones(3, 2))
        torch.Size([3, 1])
    """
    inside = getattr(model, _THROUGH, None)
    return function(*args) if inside is None else inside(function, *args)


@contextmanager
def whole(model: Any) -> Iterator[None]:
    """Put the whole model onto every rank for a while: passes within need no other rank, so each may do its own number.

    That is how a rank samples from the model that is trained. It takes the memory of all weights; a sampler with
    weights of its own, such as vLLM's, does without. Every rank enters and leaves it.

    Args:
        model: The model, sharded or not.
    """
    parts = _sharded(model)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale gradients, sharded or not, so that their norm over all ranks is at most ``max_norm``.

    Args:
        parameters: What is trained.
        max_norm: Largest norm.

    Returns:
        The norm before, the same on every rank.

    Raises:
        RuntimeError: It is not finite.
    """
    norm = full(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
    if not bool(norm.isfinite()):
        raise RuntimeError(f"the norm of the gradient is {float(norm)}; a loss or a weight is not finite")
    return float(norm)


# Weights as full tensors ---------------------------------------------------------------------------------------------


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which each rank holds a part; any other tensor as it is. Every rank calls it."""
    gathered: Tensor = tensor.full_tensor() if _is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return gathered


def full_state_dict(model: torch.nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """A model's state as full tensors on the CPU. Every rank calls it.

    Tied weights stay one tensor, as ``save_pretrained(..., state_dict=...)`` wants them.

    Args:
        model: The model, sharded or not.
        keep: Whether this rank needs the tensors, such as ``ranks.main``; else it only hands in its parts.

    Returns:
        The state, of which each tensor is a copy; empty without ``keep``.
    """
    tensors: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in tensors:
            gathered = full(tensor.detach())
            tensors[id(tensor)] = gathered.cpu().clone() if keep else gathered.new_empty(0)
        state[name] = tensors[id(tensor)]
    return state if keep else {}


def full_optimizer_state(optimizer: torch.optim.Optimizer, *, keep: bool = True) -> dict[str, Any]:
    """An optimiser's ``state_dict`` with full tensors on the CPU. Every rank calls it.

    It is the state that the optimiser of a single process would have, and is loaded by any number of ranks.

    Args:
        optimizer: The optimiser.
        keep: Whether this rank needs the state; else it only hands in its parts.

    Returns:
        The state; empty without ``keep``.
    """
    state = optimizer.state_dict()
    moments = {
        index: {name: _on_cpu(value, keep) for name, value in entries.items()}
        for index, entries in state["state"].items()
    }
    return {**state, "state": moments} if keep else {}


def load_full_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load what ``full_optimizer_state`` gave, also of another number of ranks. Every rank calls it.

    Args:
        optimizer: The optimiser of the same parameters, sharded or not.
        state: The state, the same on every rank.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        index: {name: _spread(value, parameters[index]) for name, value in entries.items()}
        for index, entries in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})


def _on_cpu(value: Any, keep: bool) -> Any:
    if not isinstance(value, Tensor):
        return value
    gathered = full(value)
    return gathered.cpu().clone() if keep else None


def _spread(value: Any, like: Tensor) -> Any:
    """This rank's part of a tensor that is spread as ``like`` is; of all else, such as a count of steps, a copy."""
    if not _is_sharded(like) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value.clone() if isinstance(value, Tensor) else value  # an optimiser writes into what it was given
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)  # type: ignore[attr-defined]


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def _sharded(model: Any) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "unshard")]


def _layers(model: torch.nn.Module) -> list[Any]:
    """The layers of the decoder: what transformers itself would not split."""
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return [module for module in model.modules() if type(module).__name__ in names]


def _untied_decoder(model: Any) -> list[Any]:
    """The decoder, where it shares no weight with the head: it may then have a precision of its own."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = []
    for child in inner.children():
        own = {id(parameter) for parameter in child.parameters()}
        others = {id(p) for other in inner.children() if other is not child for p in other.parameters()}
        if hasattr(child, "_no_split_modules") and not own & others:
            found.append(child)
    return found
