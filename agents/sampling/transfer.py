"""How a trained model's weights reach vLLM: its own weight-transfer protocol, over files or NCCL.

The protocol is start, update (as often as needed), finish; a ``WeightClient`` speaks it to an engine in this process or
to servers. Files lie in shared memory where there is one, so they never touch a disk; that works on every machine, and
needs ``agents.sampling.vllm_worker`` in vLLM. NCCL needs a GPU of its own for the trainer, and vLLM in its process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from agents.sampling.weights import WeightFacts, named_weights, weight_facts
from toolenv.errors import ConfigError
from toolenv.extras import require

CHUNK_BYTES = 2**30
"""Bytes of weights that lie in files at a time."""


class WeightClient(Protocol):
    """Speaks vLLM's protocol; the four methods are those of its ``VLLMWeightSyncClient``."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Open the transfer; once."""
        ...

    def start_weight_update(self) -> None:
        """Begin to take weights over."""
        ...

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Take some over."""
        ...

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Put them in place."""
        ...


class WeightTransfer(Protocol):
    """Sends whole models."""

    def send(self, model: Any) -> None:
        """Hand the weights of a model over; every rank of a sharded model calls this, and rank 0 sends.

        Raises:
            SamplerError: vLLM could not take them.
        """
        ...


class FileTransfer:
    """Through safetensors files, which are gone afterwards.

    Args:
        client: Speaks to vLLM.
        directory: Where the files go, on the machine that vLLM runs on; ``None``: shared memory, else the system's
            folder for temporary files.
        chunk_bytes: Bytes of weights in files at a time.
    """

    def __init__(self, client: WeightClient, directory: Path | None = None, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.client = client
        self.directory = directory
        self.chunk_bytes = chunk_bytes
        if is_sender():
            client.init_weight_transfer_engine({})

    def send(self, model: Any) -> None:
        """See ``WeightTransfer``."""
        if not is_sender():
            for _ in named_weights(model):  # the gathering of shards is everybody's work
                pass
            return
        save_file = require("safetensors.torch", "train").save_file
        with tempfile.TemporaryDirectory(prefix="toolenv-weights-", dir=self.directory or shared_memory()) as folder:
            path = Path(folder) / "weights.safetensors"
            self.client.start_weight_update()
            for chunk in _chunks(model, self.chunk_bytes):
                save_file(chunk, path)
                self.client.update_weights({"path": str(path)})
                path.unlink()
            self.client.finish_weight_update()


class NCCLTransfer:
    """Through NCCL, from the trainer's GPU to those of vLLM: vLLM's own sender.

    Written to the protocol of vLLM 0.32; it has not run in this project's tests, which have no GPU.

    Args:
        client: Speaks to vLLM, started with ``--weight-transfer-config '{"backend": "nccl"}'``.
        model: The model whose weights are going to be sent, on a GPU.
        world_size: Workers of all vLLM engines together.
        address: Under which vLLM reaches this process.
        port: A free port of this machine.

    Raises:
        ConfigError: A model that is on no GPU.
        MissingExtraError: vLLM is not installed here.
    """

    def __init__(self, client: WeightClient, model: Any, world_size: int, address: str, port: int) -> None:
        if (device := next(iter(model.parameters())).device).type != "cuda":
            raise ConfigError(f"NCCL sends from a GPU, and the model is on {device}; take the backend 'files'")
        transfer = require("vllm.distributed.weight_transfer.factory", "vllm").WeightTransferTrainerFactory
        nccl = require("vllm.distributed.weight_transfer.nccl_engine", "vllm")
        self._source = _Source(model)
        meeting = nccl.NCCLTrainerInitInfo(
            rank=rank(), master_address=address, master_port=port, world_size=world_size + 1
        )
        self._engine = transfer.trainer_init(meeting, client=client, source=self._source)

    def send(self, model: Any) -> None:
        """See ``WeightTransfer``."""
        self._source.model = model
        self._engine.send_weights()


class _Source:
    """What vLLM's sender asks of a model: the facts first, then the weights, in one order."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def metadata(self) -> list[WeightFacts]:
        return weight_facts(self.model)

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return named_weights(self.model)


def _chunks(model: Any, limit: int) -> Iterator[Mapping[str, torch.Tensor]]:
    """The weights, on the CPU, some at a time."""
    chunk: dict[str, torch.Tensor] = {}
    size = 0
    for name, weight in named_weights(model):
        if chunk and size + weight.nbytes > limit:
            yield chunk
            chunk, size = {}, 0
        chunk[name] = weight.cpu().contiguous()
        size += weight.nbytes
    yield chunk


def is_sender() -> bool:
    """Whether this process speaks for all ranks of a model."""
    return rank() == 0


def rank() -> int:
    """Number of this training process."""
    return torch.distributed.get_rank() if _distributed() else 0


def world_size() -> int:
    """How many training processes there are."""
    return torch.distributed.get_world_size() if _distributed() else 1


def all_arrived() -> None:
    """Wait for the other training processes, where there are any."""
    if _distributed():
        torch.distributed.barrier()


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def shared_memory() -> Path | None:
    """The folder that is memory, where there is one that can be written to."""
    place = Path("/dev/shm")
    return place if place.is_dir() and os.access(place, os.W_OK) else None
