"""Selected, chunked and recomputed log-probabilities are the plain ones, at less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from agents_fixtures import make_model
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from agents import logprobs as module
from agents.batch import TokenTensors
from agents.logprobs import action_logprobs
from toolenv.errors import ConfigError


def make_tokens(vocab: int = 300, length: int = 24, share: float = 0.4) -> TokenTensors:
    """Three rows of 24, 23 and 15 tokens, of which some were sampled."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocab, (3, length), generator=generator)
    attention = (torch.arange(length)[None] < torch.tensor([length, length - 1, 15])[:, None]).long()
    mask = (torch.rand(3, length, generator=generator) < share) & attention.bool()
    mask[:, 0] = False
    return TokenTensors(ids * attention, attention, mask.long() - 1, mask, torch.zeros(3, length))


def plain(model: Any, tokens: TokenTensors, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """All logits at once, each row alone and without padding."""
    logprobs, entropy = torch.zeros(tokens.input_ids.shape), torch.zeros(tokens.input_ids.shape)
    for row, length in enumerate(tokens.attention_mask.sum(1).tolist()):
        logits = model(input_ids=tokens.input_ids[row : row + 1, :length]).logits[0]
        spread = torch.distributions.Categorical(logits=logits.float() / temperature)
        for position in tokens.action_mask[row].nonzero().squeeze(1).tolist():
            at = torch.distributions.Categorical(logits=spread.logits[position - 1])
            logprobs[row, position] = at.log_prob(tokens.input_ids[row, position])
            entropy[row, position] = at.entropy()
    return logprobs, entropy


def gradients(model: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(loss, parameters))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk", [256, 4])
def test_values_and_gradients_are_the_plain_ones(
    monkeypatch: pytest.MonkeyPatch, temperature: float, chunk: int
) -> None:
    monkeypatch.setattr(module, "CHUNK_LOGITS", 0)
    monkeypatch.setattr(module, "CHUNK_TOKENS", chunk)
    model, tokens = make_model(spread=0.1), make_tokens()
    weights = torch.randn(tokens.input_ids.shape, generator=torch.Generator().manual_seed(1))
    ours, our_entropy = action_logprobs(model, tokens, temperature, entropy=True)
    theirs, their_entropy = plain(model, tokens, temperature)
    assert our_entropy is not None
    assert (ours - theirs).abs().max() < 1e-5
    assert (our_entropy - their_entropy).abs().max() < 1e-5
    assert torch.equal(ours != 0, tokens.action_mask)
    our_gradients = gradients(model, (weights * ours).mean() + our_entropy.mean())
    their_gradients = gradients(model, (weights * theirs).mean() + their_entropy.mean())
    assert max(float(g.abs().max()) for g in their_gradients) > 1e-3
    for a, b in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_entropy_only_on_demand_and_no_action_is_no_trouble() -> None:
    tokens = make_tokens(share=0.0)
    logprobs, entropy = action_logprobs(make_model(), tokens)
    assert entropy is None
    assert not logprobs.any()


def saved_bytes(model: Any, run: Any) -> int:
    """Bytes of activations that the backward pass of ``run`` holds on to."""
    storages: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()  # held until its tensors are counted, so that no address is used twice
    assert result is not None
    return sum(storages.values())


@pytest.mark.parametrize("entropy", [False, True])
def test_a_tenth_of_the_memory(entropy: bool) -> None:
    """What the head leaves behind for the backward pass, with a vocabulary as they are and mostly observations."""
    config = Qwen2Config(
        vocab_size=32_000,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    model = Qwen2ForCausalLM(config)
    tokens = make_tokens(vocab=32_000, length=64, share=0.2)

    def all_logits() -> torch.Tensor:
        spread = model(input_ids=tokens.input_ids).logits.log_softmax(-1)
        return spread[:, :-1].gather(2, tokens.input_ids[:, 1:, None])

    decoder_alone = saved_bytes(model, lambda: model.get_decoder()(input_ids=tokens.input_ids))
    ours = saved_bytes(model, lambda: action_logprobs(model, tokens, entropy=entropy, packing=False)) - decoder_alone
    plainly = saved_bytes(model, all_logits) - decoder_alone
    assert plainly > tokens.input_ids.numel() * 32_000 * 4
    assert 0 <= ours < plainly / 10


def test_a_lora_model_is_read_with_its_adapter() -> None:
    model = get_peft_model(make_model(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    tokens = make_tokens()
    with torch.no_grad():
        adapted, _ = action_logprobs(model, tokens)
        assert (adapted - plain(model, tokens, 1.0)[0]).abs().max() < 1e-5
        with model.disable_adapter():
            assert (adapted - action_logprobs(model, tokens)[0]).abs().max() > 1e-3


def test_what_cannot_be_right_is_refused() -> None:
    tokens, model = make_tokens(), make_model()
    tokens.action_mask[0, 0] = True
    with pytest.raises(ConfigError, match="starts with a sampled token"):
        action_logprobs(model, tokens)
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ConfigError, match="final_logit_softcapping"):
        action_logprobs(model, make_tokens())
