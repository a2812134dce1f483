"""A model that two processes share is sent whole, once, by one of them: all weights, or its adapter alone.

This file is also the program that the two processes run: ``python test_transfer.py FOLDER``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from agents_fixtures import make_model
from ranks import two_ranks
from safetensors.torch import load_file, save_file

from agents.distributed import open_ranks
from agents.sampling.adapters import AdapterShelf
from agents.sampling.transfer import FileTransfer
from agents.sampling.weights import named_weights, weight_facts
from agents.sharding import shard
from toolenv.errors import ConfigError


def adapted(model: Any | None = None) -> Any:
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return peft.get_peft_model(model or make_model(), config)


class Receiver:
    """Keeps what it is sent, as vLLM would."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.weights: dict[str, torch.Tensor] = {}

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.calls.append("init")

    def start_weight_update(self) -> None:
        self.calls.append("start")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.calls.append("update")
        loaded = load_file(update_info["path"])
        assert not loaded.keys() & self.weights.keys()
        self.weights.update(loaded)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.calls.append("finish")


def program(folder: Path) -> None:
    """What each of the two processes does."""
    ranks = open_ranks("cpu")
    for name, make in (("plain", make_model), ("adapted", adapted)):
        model = make()
        shard(model, ranks)
        receiver = Receiver()
        transfer = FileTransfer(receiver, folder, chunk_bytes=20_000)
        transfer.send(model)
        save_file(receiver.weights, folder / f"{name}-{ranks.rank}.safetensors")
    shelf = AdapterShelf("a", 0, folder)
    adapter = shelf.add(model, 1)
    ranks.barrier()
    if ranks.main:
        save_file(load_file(adapter.folder / "adapter_model.safetensors"), folder / "adapter.safetensors")
    shelf.add(model, 2)
    assert [old.name for old in shelf.drop_old()] == ["a-v1"]
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have left what they sent."""
    folder = tmp_path_factory.mktemp("sent")
    with two_ranks(__file__, folder):
        pass
    return folder


@pytest.mark.parametrize(("name", "make"), [("plain", make_model), ("adapted", adapted)])
def test_one_process_sends_what_both_hold_parts_of(sent: Path, name: str, make: Any) -> None:
    received = load_file(sent / f"{name}-0.safetensors")
    whole = dict(named_weights(make()))
    assert received.keys() == whole.keys()
    for key, weight in whole.items():
        torch.testing.assert_close(received[key], weight, atol=1e-6, rtol=0)
    assert load_file(sent / f"{name}-1.safetensors") == {}
    assert not list(sent.glob("toolenv-weights-*"))


def test_an_adapter_is_gathered_too(sent: Path) -> None:
    received = load_file(sent / "adapter.safetensors")
    own = {n.replace(".default", ""): p for n, p in adapted().named_parameters() if "lora_" in n}
    assert received.keys() == own.keys()
    assert all(torch.equal(received[name], parameter) for name, parameter in own.items())


def test_files_come_in_order_and_are_of_the_size_asked_for(tmp_path: Path) -> None:
    receiver = Receiver()
    FileTransfer(receiver, tmp_path, chunk_bytes=20_000).send(make_model())
    assert receiver.calls[:2] == ["init", "start"]
    assert receiver.calls[-1] == "finish"
    assert receiver.calls[2:-1] == ["update"] * receiver.calls.count("update")
    assert receiver.calls.count("update") > 2
    assert list(tmp_path.iterdir()) == []


def test_facts_are_those_of_the_weights() -> None:
    for model in (make_model(), adapted()):
        facts = [(fact.name, fact.dtype, fact.shape) for fact in weight_facts(model)]
        assert facts == [(name, weight.dtype, tuple(weight.shape)) for name, weight in named_weights(model)]


def test_a_version_that_comes_again_gets_a_name_of_its_own(tmp_path: Path) -> None:
    shelf = AdapterShelf("a", 1, tmp_path)
    model = adapted()
    names = [shelf.add(model, version).name for version in (3, 3, 4)]
    assert names == ["a-v3", "a-v3-2", "a-v4"]
    assert [old.name for old in shelf.drop_old()] == ["a-v3"]
    assert [held.number for held in shelf.held] == [2, 3]
    shelf.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="at least 0"):
        AdapterShelf("a", -1)


if __name__ == "__main__":
    program(Path(sys.argv[1]))
