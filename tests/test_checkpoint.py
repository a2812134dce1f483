"""Checkpoints: whole or not there, loadable by transformers, bitwise the same."""

from __future__ import annotations

import peft
import pytest
import torch
from huggingface_hub import utils as hub
from peek import peek_model, peek_tokenizer
from transformers import AutoModelForCausalLM
from transformers import modeling_gguf_pytorch_utils as gguf_loading
from transformers.utils import logging as transformers_logging

from agents.checkpoint import checkpoints, latest, load_checkpoint, save_checkpoint
from agents.models import load_model, played_as
from toolenv.errors import DataError
from toolenv.quiet import without_transformers_bars


def trained(seed=0, steps=2):
    """A model and an optimiser with some history."""
    model = peek_model(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(steps):
        advance(model, optimizer, [2, 3 + step, 4, 5])
    return model, optimizer


def advance(model, optimizer, ids):
    ids = torch.tensor([ids])
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def save(directory, update, model, optimizer, **options):
    return save_checkpoint(
        directory, update, model=model, tokenizer=peek_tokenizer(), parts={"optimizer": optimizer}, **options
    )


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_is_loaded_goes_on_bitwise(tmp_path):
    model, optimizer = trained()
    path = save(tmp_path, 7, model, optimizer, state={"note": "x"})
    other, other_optimizer = trained(seed=1, steps=1)
    assert not same(model, other)
    assert load_checkpoint(path, model=other, parts={"optimizer": other_optimizer}) == {"note": "x", "update": 7}
    assert same(model, other)
    for each, its_optimizer in ((model, optimizer), (other, other_optimizer)):
        advance(each, its_optimizer, [2, 8, 9])
    assert same(model, other)


def test_transformers_loads_it_and_tied_weights_stay_tied(tmp_path):
    model, optimizer = trained()
    path = save(tmp_path, 1, model, optimizer)
    assert same(model, AutoModelForCausalLM.from_pretrained(path))
    other = peek_model(3)
    load_checkpoint(path, model=other)
    assert other.lm_head.weight is other.model.embed_tokens.weight


def test_an_adapter_goes_on_bitwise(tmp_path):
    def adapted(seed, steps):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
            model = peft.get_peft_model(peek_model(), config)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for step in range(steps):
            advance(model, optimizer, [2, 3 + step, 4])
        return model, optimizer

    model, optimizer = adapted(seed=0, steps=2)
    path = save(tmp_path, 3, model, optimizer)
    other, other_optimizer = adapted(seed=1, steps=1)
    assert not same(model, other)
    assert load_checkpoint(path, model=other, parts={"optimizer": other_optimizer})["update"] == 3
    assert same(model, other)
    advance(model, optimizer, [2, 8, 9])
    advance(other, other_optimizer, [2, 8, 9])
    assert same(model, other)


def test_a_checkpoint_remembers_what_it_is_played_as(tmp_path):
    model, optimizer = trained()
    assert played_as(save(tmp_path / "nano", 1, model, optimizer, played_as="nano")) == "nano"
    assert played_as(save(tmp_path / "other", 1, model, optimizer)) is None
    # The nano policy is float32 whatever is asked for, and what is trained from it too.
    loaded = load_model(latest(tmp_path / "nano"), device="cpu", precision="bfloat16")[0]
    assert (loaded.dtype, played_as(loaded.name_or_path)) == (torch.float32, "nano")
    assert load_model(latest(tmp_path / "other"), device="cpu", precision="bfloat16")[0].dtype == torch.bfloat16


def test_the_oldest_are_dropped(tmp_path):
    model, optimizer = trained()
    for update in (1, 2, 10, 9):
        save(tmp_path, update, model, optimizer, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["update-000009", "update-000010"]
    assert latest(tmp_path).name == "update-000010"


def test_saving_twice_replaces(tmp_path):
    save(tmp_path, 1, *trained(seed=0))
    model, optimizer = trained(seed=1)
    path = save(tmp_path, 1, model, optimizer)
    other = peek_model(2)
    load_checkpoint(path, model=other)
    assert same(model, other)


def test_dying_while_saving_leaves_the_last_one(tmp_path, monkeypatch):
    model, optimizer = trained()
    first = save(tmp_path, 1, model, optimizer)

    def die(*args, **kwargs):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", die)  # the weights are written by then, the optimiser is not
        with pytest.raises(OSError, match="no space"):
            save(tmp_path, 2, model, optimizer)
    assert len(list(tmp_path.iterdir())) == 2  # the half one is there, under its other name
    assert latest(tmp_path) == first
    assert save(tmp_path, 2, model, optimizer) == latest(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["update-000001", "update-000002"]


def test_nothing_there(tmp_path):
    assert latest(tmp_path / "no") is None
    with pytest.raises(DataError, match="not a checkpoint"):
        load_checkpoint(tmp_path, model=peek_model())


def bars_shown():
    """Whether transformers shows its own bars, and the hub its downloads'."""
    return transformers_logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()


@pytest.mark.parametrize(("switch", "hub_switch"), [("enable", "enable"), ("enable", "disable"), ("disable",) * 2])
def test_the_users_bars_come_back_after_a_failure_too(switch, hub_switch):
    before = bars_shown()
    try:
        getattr(transformers_logging, f"{switch}_progress_bar")()
        getattr(hub, f"{hub_switch}_progress_bars")()
        with without_transformers_bars():
            assert bars_shown() == (False, hub_switch == "enable")
        with pytest.raises(ZeroDivisionError), without_transformers_bars():
            raise ZeroDivisionError
        assert bars_shown() == (switch == "enable", hub_switch == "enable")
    finally:
        getattr(transformers_logging, "enable_progress_bar" if before[0] else "disable_progress_bar")()
        getattr(hub, "enable_progress_bars" if before[1] else "disable_progress_bars")()


def test_saving_and_loading_shows_no_bar(tmp_path, capsys):
    model, optimizer = trained()
    load_checkpoint(save(tmp_path, 1, model, optimizer), model=peek_model(3))
    assert capsys.readouterr().err == ""
    AutoModelForCausalLM.from_pretrained(latest(tmp_path))
    assert "Loading weights" in capsys.readouterr().err


def test_a_gguf_file_is_read_without_a_bar(capsys):
    with without_transformers_bars():
        assert list(gguf_loading.tqdm([1, 2], desc="Converting")) == [1, 2]
    assert capsys.readouterr().err == ""
    assert list(gguf_loading.tqdm([1, 2], desc="Converting")) == [1, 2]
    assert "Converting" in capsys.readouterr().err
