"""Two processes do the arithmetic of one: shares, exchanges, and a model that is spread over both.

This file is also the program that the two processes run: ``python test_distributed.py FOLDER``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from agents_fixtures import make_model
from peft import LoraConfig, get_peft_model
from ranks import two_ranks

from agents.batch import TokenTensors
from agents.critic import Critic
from agents.distributed import Ranks, idle, open_ranks
from agents.logprobs import action_logprobs
from agents.losses import masked_average, policy_loss, unit_count, value_loss
from agents.recompute import enable_gradient_checkpointing
from agents.sharding import (
    clip_gradients,
    full_optimizer_state,
    full_state_dict,
    load_full_optimizer_state,
    shard,
    through,
    whole,
)
from toolenv.errors import ConfigError

ROWS, LENGTH, MICRO = 5, 16, 2  # rank 0 has micro-batches of 2 and 1 rows, rank 1 has one of 2 and an idle pass
KINDS = ("tied", "untied", "lora", "critic")


def make(kind: str, rank: int = 0) -> Any:
    """A tiny model of a kind, drawn differently on each rank: what counts is what rank 0 has."""
    model = make_model(seed=rank, spread=0.1)
    match kind:
        case "untied":  # and with its layers computed again in the backward pass
            model.config.tie_word_embeddings = False
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().flip(0).clone())
            enable_gradient_checkpointing(model)
        case "lora":
            with torch.random.fork_rng():
                torch.manual_seed(rank)
                return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        case "critic":
            return Critic(model)
    return model


def make_batch() -> tuple[TokenTensors, torch.Tensor]:
    """Rows of 16 to 12 tokens with two turns each, and what a loss wants of them."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 300, (ROWS, LENGTH), generator=generator)
    attention = (torch.arange(LENGTH)[None] < torch.arange(LENGTH, LENGTH - ROWS, -1)[:, None]).long()
    turn_ids = torch.full((ROWS, LENGTH), -1)
    turn_ids[:, 3:6], turn_ids[:, 9:12] = 0, 1
    turn_ids[0, 12:] = 1
    tokens = TokenTensors(ids * attention, attention, turn_ids, turn_ids >= 0, torch.zeros(ROWS, LENGTH))
    return tokens, torch.randn(ROWS, LENGTH, generator=generator)


def loss_of(model: Any, tokens: TokenTensors, target: torch.Tensor, count: float) -> torch.Tensor:
    """A micro-batch's share of the batch's loss."""
    mask, turn_ids = tokens.action_mask, tokens.turn_ids
    if isinstance(model, Critic):
        values, _ = model(tokens)
        return value_loss(values, values.detach(), target, mask, clip=0.5, count=count).loss
    logprobs, entropy = action_logprobs(model, tokens, entropy=True)
    assert entropy is not None
    options = {"normalizer": "turn-mean", "turn_ids": turn_ids, "count": count}
    policy = policy_loss(logprobs, logprobs.detach() - 0.1 * target, target, mask, ratio="turn", **options)  # type: ignore[arg-type]
    return policy.loss - 0.01 * masked_average(entropy, mask, **options)  # type: ignore[arg-type]


class Training:
    """A model, sharded where there are ranks to share it with, and its optimiser; new, or where another stopped."""

    def __init__(self, kind: str, ranks: Ranks, state: Any = None, moments: Any = None) -> None:
        self.ranks = ranks
        self.model = make(kind, ranks.rank)
        if state is not None:
            self.model.load_state_dict(state)
        shard(self.model, ranks)
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-2)
        if moments is not None:
            load_full_optimizer_state(self.optimizer, moments)
        self.log: list[float] = []

    def steps(self, number: int) -> Training:
        """Take optimiser steps; the loss and the gradient's norm of each go into ``log``."""
        tokens, target = make_batch()
        normalizer = "token-mean" if isinstance(self.model, Critic) else "turn-mean"
        count = unit_count(tokens.action_mask, normalizer, tokens.turn_ids)
        for _ in range(number):
            total = 0.0
            for rows in self.ranks.parts(range(ROWS), MICRO):
                part = tokens.rows(rows) if rows else idle(tokens)
                loss = loss_of(self.model, part, target[rows or [0]][:, : part.input_ids.shape[1]], count)
                loss.backward()
                total += loss.item()
            self.log += [self.ranks.sum(total), clip_gradients(self.trained, 0.1)]
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return self

    @torch.no_grad()
    def logits(self, passes: int) -> torch.Tensor:
        """Logits of one row, after some passes that no other rank takes part in."""
        tokens, _ = make_batch()
        with whole(self.model):
            return [self.model(input_ids=tokens.input_ids[:1]).logits.clone() for _ in range(passes)][-1]


def work(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """What a process does, and what it found."""
    found: dict[str, Any] = {
        "gathered": ranks.gather([f"{ranks.rank}{i}" for i in range(2 - ranks.rank)]),
        "sum": ranks.sum(0.5 + ranks.rank),
        "tensor": ranks.sum_tensor(torch.tensor([1.0, float(ranks.rank)])),
        "told": ranks.broadcast({"from": ranks.rank}),
    }
    for kind in KINDS:
        training = Training(kind, ranks).steps(3)
        found[kind] = full_state_dict(training.model), training.log

    tied = Training("tied", ranks).steps(2)
    state, moments = full_state_dict(tied.model), full_optimizer_state(tied.optimizer)
    found["after two"] = state, moments
    found["kept"] = full_state_dict(tied.model, keep=ranks.main), full_optimizer_state(tied.optimizer, keep=ranks.main)
    found["logits"] = [tied.logits(1 + ranks.rank), tied.steps(1).logits(1 + ranks.rank)]
    found["resumed"] = full_state_dict(Training("tied", ranks, state, moments).steps(1).model)
    found["went on"] = full_state_dict(tied.model)
    if ranks.main:
        tied.model.save_pretrained(folder / "saved", state_dict=dict(found["went on"]))  # it empties what it is given
    ranks.barrier()
    return found


def main(folder: Path) -> None:
    """Run as one of the processes."""
    ranks = open_ranks("cpu")
    torch.save(work(ranks, folder), folder / f"{ranks.rank}.pt")


@dataclass
class Found:
    """What one process found alone, what each of two found, and the folder in which rank 0 of two saved its model."""

    alone: dict[str, Any]
    two: list[dict[str, Any]]
    folder: Path


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("ranks")
    torch.set_num_threads(1)  # as the two have: other sums are rounded in another order
    with two_ranks(__file__, folder):
        alone = work(Ranks(0, 1, torch.device("cpu")), folder / "alone")
    return Found(alone, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)], folder)


def distance(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference between two states of the same names."""
    assert state.keys() == other.keys()
    return max(float((state[name] - other[name]).abs().max()) for name in state)


# Two processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_as_one(found: Found, kind: str) -> None:
    (alone, log), (first, first_log), (second, second_log) = (each[kind] for each in (found.alone, *found.two))
    assert distance(first, second) == 0
    assert distance(first, alone) < 1e-5
    assert distance(alone, full_state_dict(make(kind))) > 1e-2
    assert first_log == second_log
    assert first_log == pytest.approx(log, rel=1e-4, abs=1e-6)


def test_what_the_ranks_tell_each_other(found: Found) -> None:
    assert found.alone["gathered"] == ["00", "01"]
    for rank in found.two:
        assert rank["gathered"] == ["00", "01", "10"]
        assert rank["sum"] == 2.0
        assert rank["tensor"].tolist() == [2.0, 1.0]
        assert rank["told"] == {"from": 0}


def test_a_resumed_run_is_the_run_that_went_on(found: Found) -> None:
    for each in (found.alone, *found.two):
        assert distance(each["resumed"], each["went on"]) == 0


def test_one_process_goes_on_where_two_stopped(found: Found) -> None:
    training = Training("tied", Ranks(0, 1, torch.device("cpu")), *found.two[0]["after two"])
    assert distance(full_state_dict(training.steps(1).model), found.alone["went on"]) < 1e-5


def test_only_who_keeps_a_state_has_it(found: Found) -> None:
    state, moments = found.two[0]["kept"]
    assert distance(state, found.two[0]["after two"][0]) == 0
    assert moments["state"].keys() == found.two[0]["after two"][1]["state"].keys()
    assert found.two[1]["kept"] == ({}, {})


def test_within_whole_a_rank_may_pass_as_often_as_it_likes(found: Found) -> None:
    for rank in found.two:
        for got, want in zip(rank["logits"], found.alone["logits"], strict=True):
            assert (got - want).abs().max() < 1e-4
    before, after = found.alone["logits"]
    assert (after - before).abs().max() > 1e-2  # what stood whole before the step is not what stands whole after it


def test_a_sharded_model_is_saved_as_a_plain_one(found: Found) -> None:
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(found.folder / "saved")
    assert type(saved).__name__ == "Qwen2ForCausalLM"
    assert distance(full_state_dict(saved), found.two[0]["went on"]) == 0


# One process ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 6, 20])
def test_shares_and_parts_cover_everything_once(world: int, n: int) -> None:
    ranks = [Ranks(rank, world, torch.device("cpu")) for rank in range(world)]
    shares = [list(range(n))[each.share(n)] for each in ranks]
    assert [item for share in shares for item in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for size in (1, 2, 3, 100):
        parts = [each.parts(range(n), size) for each in ranks]
        assert sorted(item for rank in parts for part in rank for item in part) == list(range(n))
        assert len({len(rank) for rank in parts}) == 1  # or the others would wait for ever
        assert all(len(part) <= size for rank in parts for part in rank)
        assert not any(rank and not any(rank) and n >= world for rank in parts)


def test_a_single_process_has_the_micro_batches_that_it_always_had() -> None:
    assert Ranks(0, 1, torch.device("cpu")).parts("abcde", 2) == [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize("kind", ["tied", "critic"])
def test_an_idle_pass_reaches_every_weight_with_nothing(kind: str) -> None:
    model, (tokens, target) = make(kind), make_batch()
    loss = loss_of(model, idle(tokens), target[:1, :2], 1.0)
    loss.backward()
    assert loss.item() == 0.0
    for name, parameter in model.named_parameters():
        # A weight without a gradient would leave its rank out of the sum over ranks.
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_alone_nothing_changes() -> None:
    model = make("tied")
    kind, parameters = type(model), list(model.parameters())
    ranks = open_ranks("cpu")
    shard(model, ranks)
    assert (ranks.main, ranks.world) == (True, 1)
    assert type(model) is kind
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    with whole(model):
        assert through(model, lambda *values: values, 1, 2) == (1, 2)
    ranks.barrier()


def test_a_full_state_is_a_copy_that_keeps_ties() -> None:
    model = make("tied")
    state = full_state_dict(model)
    assert state["lm_head.weight"] is state["model.embed_tokens.weight"]
    before = state["lm_head.weight"].clone()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert torch.equal(state["lm_head.weight"], before)


def test_gradients_that_are_not_finite_stop_the_run() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, float("inf")])
    with pytest.raises(RuntimeError, match="inf"):
        clip_gradients([parameter], 1.0)


def test_two_processes_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="at most 1"):
        open_ranks("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="'cuda:0'"):
        open_ranks("cuda:0")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
