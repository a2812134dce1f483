"""Activations that are made again give the same gradients, and are not kept, in evaluation mode too."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from agents_fixtures import make_model
from test_logprobs import make_tokens, saved_bytes
from transformers import Qwen2Config, Qwen2ForCausalLM

from agents.logprobs import action_logprobs
from agents.lora import add_lora
from agents.recompute import enable_gradient_checkpointing
from toolenv.errors import ConfigError


def gradients(model: Any, packing: bool) -> list[torch.Tensor]:
    tokens = make_tokens()
    weights = torch.randn(tokens.input_ids.shape, generator=torch.Generator().manual_seed(1))
    loss = (weights * action_logprobs(model, tokens, packing=packing)[0]).sum()
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))


@pytest.mark.parametrize(
    ("packing", "training", "lora"), [(True, False, False), (False, True, False), (True, False, True)]
)
def test_the_same_gradients_for_less(packing: bool, training: bool, lora: bool) -> None:
    model = make_model(layers=4)
    if lora:
        model = add_lora(model, rank=2)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(weight, 0.1)
    model.train(training)
    kept_all = saved_bytes(model, lambda: action_logprobs(model, make_tokens(), packing=packing))
    before = gradients(model, packing)
    enable_gradient_checkpointing(model)
    kept = saved_bytes(model, lambda: action_logprobs(model, make_tokens(), packing=packing))
    assert kept < kept_all / 3
    for ours, theirs in zip(gradients(model, packing), before, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert max(float(g.abs().max()) for g in before) > 1e-2


def test_a_copy_runs_its_own_layers() -> None:
    model = make_model()
    enable_gradient_checkpointing(model)
    action_logprobs(model, make_tokens())
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    found = gradients(other, packing=True)
    assert max(float(g.abs().max()) for g in found) > 1e-2
    assert all(torch.equal(a, b) for a, b in zip(found, gradients(_checkpointed(), packing=True), strict=True))


def _checkpointed() -> Any:
    model = make_model()
    enable_gradient_checkpointing(model)
    return model


def test_a_failed_pass_leaves_the_layers_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _checkpointed()
    with pytest.raises(IndexError):
        action_logprobs(model, make_tokens(vocab=10_000))
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_a_model_without_such_layers_says_so() -> None:
    with pytest.raises(ConfigError, match="no layers that transformers can recompute"):
        enable_gradient_checkpointing(
            Qwen2ForCausalLM(
                Qwen2Config(
                    vocab_size=8, hidden_size=4, num_hidden_layers=0, num_attention_heads=1, num_key_value_heads=1
                )
            )
        )
