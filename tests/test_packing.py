"""Rows that run as one are the rows that ran alone: the same numbers and gradients, and none sees another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from agents_fixtures import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from agents.batch import TokenTensors
from agents.logprobs import action_logprobs, predicting_states
from agents.packing import PACKED, can_pack, packed_attention, packed_states
from toolenv.errors import ConfigError

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.3}
WINDOW = 5


def made(name: str, **settings: Any) -> Callable[[], Any]:
    """What makes a model of transformers with drawn weights."""

    def make() -> Any:
        config = getattr(transformers, f"{name}Config")(**settings)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            kind = "Gemma3ForCausalLM" if name == "Gemma3Text" else f"{name}ForCausalLM"
            return getattr(transformers, kind if name != "GPT2" else "GPT2LMHeadModel")(config).eval()

    return make


ARCHITECTURES = {
    "qwen2": made("Qwen2", **SHAPE),
    "qwen2, half of it windowed": made(
        "Qwen2", **SHAPE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "llama": made("Llama", **SHAPE),
    "mistral, windowed": made("Mistral", **SHAPE, sliding_window=WINDOW),
    "gemma3, two rotations": made(
        "Gemma3Text", **SHAPE, head_dim=8, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"]
    ),
    "gpt2, learned positions": made("GPT2", **GPT2),
}
LFM2 = made("Lfm2", **SHAPE, layer_types=["conv", "full_attention"])


def batch(lengths: list[int], seed: int = 0) -> TokenTensors:
    """Rows of the given lengths, of which half the tokens were sampled."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    attention = (torch.arange(shape[1])[None] < torch.tensor(lengths)[:, None]).long()
    mask = (torch.rand(shape, generator=generator) < 0.5) & attention.bool()
    mask[:, 0] = False
    ids = torch.randint(1, 60, shape, generator=generator) * attention
    return TokenTensors(ids, attention, mask.long() - 1, mask, torch.zeros(shape))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_rows_are_padded_rows(name: str) -> None:
    model = ARCHITECTURES[name]()
    weights = [p for p in model.parameters() if p.requires_grad]

    @settings(max_examples=5)
    @given(st.lists(st.integers(2, 14), min_size=1, max_size=5), st.integers(0, 99))
    def check(lengths: list[int], seed: int) -> None:
        tokens = batch(lengths, seed)
        factor = torch.randn(tokens.input_ids.shape, generator=torch.Generator().manual_seed(seed))
        found = []
        for packing in (False, True):
            logprobs, entropy = action_logprobs(model, tokens, 0.8, entropy=True, packing=packing)
            assert entropy is not None
            loss = (factor * logprobs).sum() + entropy.sum()
            found.append((logprobs, torch.autograd.grad(loss, weights, allow_unused=True)))
        (padded, padded_gradients), (packed, packed_gradients) = found
        assert (padded - packed).abs().max() < 1e-5
        for ours, theirs in zip(packed_gradients, padded_gradients, strict=True):
            if theirs is not None:
                assert ours is not None
                assert float((ours - theirs).norm()) <= 1e-5 * max(1.0, float(theirs.norm()))

    check()
    assert model.config._attn_implementation == PACKED


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_episode_sees_another(name: str) -> None:
    model = ARCHITECTURES[name]()
    tokens = batch([9, 12, 7])
    other = TokenTensors(tokens.input_ids.clone(), *(getattr(tokens, f) for f in tokens.__slots__[1:]))
    other.input_ids[1, :12] = tokens.input_ids[1, :12].roll(1)
    before, after = (packed_states(model, t).split([9, 12, 7]) for t in (tokens, other))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])
    assert not torch.allclose(before[1], after[1], atol=1e-2)


def test_states_of_chosen_positions_come_row_by_row() -> None:
    model, tokens = make_model(), batch([6, 9])
    chosen = torch.zeros(2, 9, dtype=torch.bool)
    chosen[0, 5] = chosen[1, 2] = chosen[1, 8] = True
    rows = [
        model.get_decoder()(tokens.input_ids[row : row + 1, :n]).last_hidden_state[0] for row, n in ((0, 6), (1, 9))
    ]
    wanted = torch.stack([rows[0][5], rows[1][2], rows[1][8]])
    for packing in (True, False, "auto"):
        assert (predicting_states(model, tokens, chosen, packing=packing) - wanted).abs().max() < 1e-5
        # A critic has a decoder and no head.
        assert (predicting_states(model.get_decoder(), tokens, chosen, packing=packing) - wanted).abs().max() < 1e-5


def test_other_calls_of_a_packed_model_are_as_before() -> None:
    model, tokens = make_model(), batch([6, 9])
    before = model(tokens.input_ids, attention_mask=tokens.attention_mask).logits
    packed_states(model, tokens)
    after = model(tokens.input_ids, attention_mask=tokens.attention_mask).logits
    assert torch.equal(before, after)
    generated = model.generate(tokens.input_ids[:1, :6], max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert torch.equal(generated, make_model().generate(tokens.input_ids[:1, :6], max_new_tokens=4, do_sample=False))
    assert "packed" not in model.config.to_json_string()


def test_flash_attention_is_told_where_episodes_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no flash attention on a CPU: one that keeps its promise stands in for it."""
    seen = []

    def flash(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **settings: Any) -> Any:
        assert attention_mask is None
        seen.append((settings["cu_seq_lens_k"].tolist(), settings["max_length_q"], settings["max_length_k"]))
        lengths = settings["cu_seq_lens_q"].diff()[None, None, None].long()
        return packed_attention(module, query, key, value, lengths, **settings)

    model, tokens = make_model(), batch([6, 9])
    wanted, _ = action_logprobs(model, tokens, packing=False)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", flash)
    model.config._attn_implementation_internal = "flash_attention_2"
    found, _ = action_logprobs(model, tokens, packing=True)
    assert (found - wanted).abs().max() < 1e-5
    assert seen == [([0, 6, 15], 9, 9)] * 2
    assert model.config._attn_implementation == "flash_attention_2"


def test_a_model_that_cannot_take_packed_rows_says_why() -> None:
    tokens = batch([6, 9])
    model = LFM2()
    assert not can_pack(model)
    with pytest.raises(ConfigError, match=r"'lfm2' cannot take packed rows: .* conv; give packing=False"):
        action_logprobs(model, tokens, packing=True)
    padded, _ = action_logprobs(model, tokens, packing=False)
    assert torch.equal(action_logprobs(model, tokens)[0], padded)
    chosen_by_hand = make_model()
    chosen_by_hand.set_attn_implementation("eager")
    assert not can_pack(chosen_by_hand)
    with pytest.raises(ConfigError, match="its attention is 'eager'"):
        action_logprobs(chosen_by_hand, tokens, packing=True)
