"""Several processes that train one policy: who is who, and what they tell each other.

``torchrun`` starts the processes, or *ranks*. Each plays its share of the episodes; then all exchange what was played,
so that every rank holds the whole batch, computes the same advantages and the same global counts, and trains on its
share of each minibatch. Gradients are summed over ranks (``agents.sharding``). So any number of ranks does the
arithmetic of one, and the numbers differ only by the order of sums.

A rank that does one exchange, or one pass through a sharded model, more than the others waits for them for ever. That
is why ``Ranks.parts`` gives every rank the same number of micro-batches, some of them empty.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from agents.batch import TokenTensors
from agents.models import find_device
from toolenv.errors import ConfigError

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""How long a rank waits for the others: they may play long episodes. Where one dies, torchrun ends them all."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """One of the processes that train together; ``open_ranks`` makes it.

    Attributes:
        rank: Which one this is, from 0.
        world: How many there are.
        device: Where this one computes.

    Example:
        >>> first, second = (Ranks(rank, 2, torch.device("cpu")) for rank in range(2))
        >>> "abcde"[first.share(5)], "abcde"[second.share(5)]
        ('abc', 'de')
        >>> first.parts("abcde", 2), second.parts("abcde", 2)
        ([['a', 'c'], ['e']], [['b', 'd'], []])
    """

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this rank is the one that writes files and talks to the user."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Which of ``n`` items are this rank's: contiguous, in the order of ranks, sizes that differ by at most 1."""
        small, larger = divmod(n, self.world)
        start = self.rank * small + min(self.rank, larger)
        return slice(start, start + small + (self.rank < larger))

    def parts(self, items: Sequence[T], size: int) -> list[list[T]]:
        """This rank's items, in parts of at most ``size``: the same number of parts on every rank.

        Items are dealt out in turn, so that where they are sorted by length every rank gets short and long ones. A
        part may be empty: pass ``idle`` tokens through the model then, since the others are waiting for that pass.

        Args:
            items: All items, the same on every rank.
            size: Most items a part.
        """
        own = list(items[self.rank :: self.world])
        largest = -(-len(items) // self.world)  # rank 0's share, which no other exceeds
        return [own[start : start + size] for start in range(0, largest, size)]

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all ranks, in the order of ranks. Every rank calls it, each with as many as it has."""
        if self.world == 1:
            return list(items)
        gathered: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(gathered, list(items))
        return [item for part in gathered for item in part]

    def sum(self, value: float) -> float:
        """The sum of every rank's value. Every rank calls it."""
        return float(self.sum_tensor(torch.tensor(value, dtype=torch.float64)))

    def sum_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of every rank's tensor, all of one shape and on the CPU. Every rank calls it."""
        if self.world > 1:
            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor)
        return tensor

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank. Every rank calls it; what the others hand in is dropped."""
        if self.world == 1:
            return value
        box = [value if self.main else None]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sum(0.0)


def open_ranks(device: str = "auto") -> Ranks:
    """Find the other processes that ``torchrun`` started; without it, this one is alone.

    Args:
        device: As for ``agents.models.load_model``: ``"cpu"``, ``"cuda"``, ``"auto"``. Under ``torchrun`` each process
            of a machine takes a GPU of its own.

    Raises:
        ConfigError: A device that torch does not know or have, or one GPU for several processes.

    Example:
        >>> open_ranks("cpu")
        Ranks(rank=0, world=1, device=device(type='cpu'))
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = find_device(device)
    if world == 1:
        return Ranks(0, 1, torch.device(device))
    backend = "gloo"
    if device.startswith("cuda"):
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if device != "cuda" or local >= count:
            raise ConfigError(
                f"each process needs a GPU of its own; device is {device!r}, and process {local} of this machine has "
                f"{count} GPUs to choose from; give 'cuda', and torchrun --nproc-per-node at most {count}"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"  # weights and gradients go by NCCL; what is exchanged here lies on the CPU
    if not torch.distributed.is_initialized():  # a process may train several times
        torch.distributed.init_process_group(backend, timeout=TIMEOUT)
        atexit.register(_leave)
    return Ranks(torch.distributed.get_rank(), world, torch.device(device))


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def idle(tokens: TokenTensors) -> TokenTensors:
    """Two tokens of a batch without an action, ``(1, 2)``: a pass that every loss gives 0 and a gradient of 0.

    Args:
        tokens: Any packed rollouts.
    """
    corner = TokenTensors(*(grid[:1, :2] for grid in _grids(tokens)))
    return TokenTensors(
        corner.input_ids,
        torch.ones_like(corner.attention_mask),
        torch.full_like(corner.turn_ids, -1),
        torch.zeros_like(corner.action_mask),
        torch.zeros_like(corner.logprobs),
    )


def _grids(tokens: TokenTensors) -> list[torch.Tensor]:
    return [tokens.input_ids, tokens.attention_mask, tokens.turn_ids, tokens.action_mask, tokens.logprobs]
