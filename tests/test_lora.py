"""LoRA: what is trained is small, what is frozen is the reference, and what is saved can be had back, also as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from agents_fixtures import make_model, make_tokenizer
from test_logprobs import make_tokens
from transformers import AutoModelForCausalLM

from agents.checkpoint import load_checkpoint, save_checkpoint
from agents.logprobs import action_logprobs
from agents.lora import add_lora, base_of, has_lora, save_merged, without_lora
from agents.models import load_model
from toolenv.errors import ConfigError


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A bare model on the disk."""
    folder = tmp_path / "base"
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def load(folder: str | Path) -> Any:
    return load_model(folder, device="cpu", precision="float32")[0]


def trained(base: str, seed: int = 0) -> Any:
    """A model whose LoRA has learned something."""
    model = add_lora(load(base), rank=2, seed=seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        action_logprobs(model, make_tokens())[0].sum().backward()
        optimizer.step()
    return model


def logprobs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return action_logprobs(model, make_tokens())[0]


def test_at_first_it_changes_nothing_and_the_seed_draws_it(base: str) -> None:
    state = torch.get_rng_state()
    first, again, other = (add_lora(load(base), rank=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logprobs(first), logprobs(load(base)))
    drawn = [{n: p for n, p in m.named_parameters() if "lora_A" in n} for m in (first, again, other)]
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not any(torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])


def test_only_the_matrices_are_trained_and_alpha_is_twice_the_rank(base: str) -> None:
    model = add_lora(load(base), rank=3, target_modules=["q_proj", "v_proj"])
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(learned) == 2 * 2 * 2  # layers, modules, A and B
    assert all("lora_" in name and ("q_proj" in name or "v_proj" in name) for name in learned)
    assert (model.peft_config["default"].lora_alpha, model.peft_config["default"].r) == (6, 3)
    assert add_lora(load(base), 3, alpha=1.5).peft_config["default"].lora_alpha == 1.5
    # Every linear layer but the head, by default.
    adapted = {
        n.rsplit(".lora_A", 1)[0].rsplit(".", 1)[1]
        for n, _ in add_lora(load(base), 3).named_parameters()
        if "lora_A" in n
    }
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_switched_off_it_is_the_model_that_it_was(base: str) -> None:
    bare, model = logprobs(load(base)), trained(base)
    assert (logprobs(model) - bare).abs().max() > 0.1
    with without_lora(model):
        assert torch.equal(logprobs(model), bare)
    assert (logprobs(model) - bare).abs().max() > 0.1
    assert has_lora(model)
    assert not has_lora(load(base))
    with pytest.raises(ConfigError, match="no LoRA that could be switched off"), without_lora(load(base)):
        pass


def test_a_checkpoint_is_small_and_holds_what_was_learned(base: str, tmp_path: Path) -> None:
    model = trained(base)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    saved = save_checkpoint(
        tmp_path / "run", 1, model=model, tokenizer=make_tokenizer(), parts={"optimizer": optimizer}
    )
    assert not (saved / "model.safetensors").exists()
    fresh = add_lora(load(base), rank=2, seed=5)
    assert load_checkpoint(saved, model=fresh)["update"] == 1
    assert torch.equal(logprobs(fresh), logprobs(model))
    # As a plain model, by our loader and by transformers' own.
    assert base_of(saved) == base
    whole = load(saved)
    assert not has_lora(whole)
    assert (logprobs(whole) - logprobs(model)).abs().max() < 1e-4
    assert (logprobs(AutoModelForCausalLM.from_pretrained(saved).eval()) - logprobs(model)).abs().max() < 1e-5


def test_a_merged_model_is_a_plain_one_and_leaves_the_first_as_it_is(base: str, tmp_path: Path) -> None:
    model = trained(base)
    before = logprobs(model)
    folder = save_merged(model, make_tokenizer(), tmp_path / "merged")
    assert torch.equal(logprobs(model), before)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(plain).__name__ == "Qwen2ForCausalLM"
    assert not any("lora" in name for name, _ in plain.named_parameters())
    assert (logprobs(plain) - before).abs().max() < 1e-4
    with without_lora(model):
        assert (logprobs(plain) - logprobs(model)).abs().max() > 0.1
    save_merged(plain, make_tokenizer(), tmp_path / "again")
    assert torch.equal(logprobs(load(tmp_path / "again")), logprobs(load(folder)))


def test_what_cannot_be_is_refused(base: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be at least 1, not 0"):
        add_lora(load(base), rank=0)
    with pytest.raises(ConfigError, match="has LoRA already"):
        add_lora(add_lora(load(base), rank=2), rank=2)
    with pytest.raises(ConfigError, match="LoRA cannot be added to 'nothing' of Qwen2ForCausalLM"):
        add_lora(load(base), rank=2, target_modules="nothing")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="does not say which model"):
        load(tmp_path)
