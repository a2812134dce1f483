"""Run the rows of a batch as one row of all their tokens, without padding.

Positions start again with each episode, and attention never crosses from one episode into another. Two ways lead
there. A model that runs on flash attention is told where episodes begin and end, which its kernels know how to use.
Any other model gets an attention of ours, ``PACKED``: transformers hands every attention layer to a function that is
looked up by name, and this one calls torch's attention once an episode. On a CPU, with rows of which 28 to 33 % was
padding, that took 0.61 to 0.67 of the time of padded rows (forward and backward of the nano policy and of
SmolLM2-135M); one block-diagonal mask over the whole row took up to 13 times as long as padding.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from agents.batch import TokenTensors
from toolenv.errors import ConfigError

PACKED = "toolenv_packed"
"""Name under which transformers finds the attention."""

Packing = bool | Literal["auto"]
"""Whether rows are packed; ``"auto"``: where the model can."""


def can_pack(model: Any) -> bool:
    """Whether the rows of a batch can run through a model as one.

    Args:
        model: A transformers model, without PEFT around it.
    """
    return obstacle(model) is None


def obstacle(model: Any) -> str | None:
    """Why a model cannot take packed rows; ``None``: it can.

    Args:
        model: A transformers model, without PEFT around it.
    """
    attention = model.config._attn_implementation
    if model._is_stateful:
        return "it carries a state from token to token, which would cross from one episode into the next"
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if kinds - {"full_attention", "sliding_attention"}:
        return f"it has layers of the kind {', '.join(sorted(kinds - {'full_attention', 'sliding_attention'}))}"
    if "position_ids" not in inspect.signature(model.get_decoder().forward).parameters:
        return "it does not take position_ids"
    if attention == PACKED or _is_flash(attention):
        return None
    if attention != "sdpa":
        return f"its attention is {attention!r}, not 'sdpa' or a flash attention"
    if not model._supports_attention_backend:
        return "its attention cannot be replaced by name"
    return None


def packed_states(model: Any, tokens: TokenTensors) -> torch.Tensor:
    """Last hidden states of all tokens of a batch, in one row.

    Args:
        model: A transformers causal language model, without PEFT around it. Unless it runs on flash attention, its
            attention becomes ``PACKED``, which for unpacked rows is torch's own, as before.
        tokens: B packed rollouts of at most L tokens.

    Returns:
        ``(N, D)``: the tokens row after row, without padding.

    Raises:
        ConfigError: A model that cannot take packed rows.
    """
    why_not = obstacle(model)
    if why_not is not None:
        raise ConfigError(f"{model.config.model_type!r} cannot take packed rows: {why_not}; give packing=False")
    real = tokens.attention_mask.bool()
    lengths = tokens.attention_mask.sum(dim=1)
    positions = (tokens.attention_mask.cumsum(dim=1) - 1)[real]
    if _is_flash(model.config._attn_implementation):
        where = _flash_arguments(lengths)
    else:
        model.set_attn_implementation(PACKED)
        # A mask of four dimensions reaches the attention as it is, past all code that makes masks.
        where = {"attention_mask": lengths.cpu()[None, None, None]}
    states: torch.Tensor = model.get_decoder()(
        input_ids=tokens.input_ids[real][None], position_ids=positions[None], use_cache=False, **where
    ).last_hidden_state
    return states.squeeze(0)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each episode of a packed row; torch's own on other rows.

    Args:
        module: The attention layer.
        query: ``(B, H, L, d)``, like ``key`` and ``value``; of a packed row, B is 1.
        key: See ``query``.
        value: See ``query``.
        attention_mask: Of a packed row the lengths of its episodes, ``(1, 1, 1, episodes)`` int64; else a mask as
            torch's attention takes it.
        settings: What else a layer says of its attention.

    Returns:
        ``(B, L, H, d)``, and no weights.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    lengths = attention_mask.flatten().tolist()
    episodes = zip(*(torch.split(states, lengths, dim=2) for states in (query, key, value)), strict=True)
    outputs = [
        sdpa_attention_forward(module, q, k, v, _window_mask(q, settings), **settings)[0] for q, k, v in episodes
    ]
    return torch.cat(outputs, dim=1), None


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)


def _window_mask(query: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor | None:
    """Mask ``(1, 1, n, n)`` of a sliding window that is shorter than the episode; ``None``: plainly causal."""
    length, window = query.shape[2], settings.get("sliding_window")
    if window is None or length <= window:
        return None
    at = torch.arange(length, device=query.device)
    behind = at[:, None] - at[None, :]
    mask: torch.Tensor = (behind >= 0) & (behind < window)
    return mask[None, None]


def _flash_arguments(lengths: torch.Tensor) -> dict[str, Any]:
    """Where episodes begin and end, as flash attention takes it."""
    ends = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    longest = int(lengths.max())
    return {
        "attention_mask": None,
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _is_flash(attention: str) -> bool:
    return "flash_attention" in attention or "flash-attn" in attention
