"""Log-probabilities of sampled tokens, at a fraction of the memory that all logits would take.

Two savings, neither of which changes a number. The output head sees only the positions that predict a sampled token;
in episodes with tools most tokens are context. And it sees them in chunks that are computed again in the backward
pass, so that the logits of one chunk alone are held at a time; chunks without that would save nothing, since autograd
would keep them all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from agents.batch import TokenTensors
from toolenv.errors import ConfigError

CHUNK_LOGITS = 2**22
"""How many logits are held at a time."""


def action_logprobs(
    model: Any, tokens: TokenTensors, temperature: float = 1.0, *, entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities of the sampled tokens under ``model``.

    Args:
        model: A transformers causal language model, also under PEFT.
        tokens: B packed rollouts of at most L tokens, on the model's device.
        temperature: Divides the logits, as it did when they were sampled.
        entropy: Whether to return entropies too.

    Returns:
        Log-probabilities ``(B, L)`` float32, each at the position of its token, 0 elsewhere; and the entropy of the
        distribution that each came from, in nats, of the same shape, or ``None``.

    Raises:
        ConfigError: A model that changes its logits after the head, or an action at the very start of a row.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = _plain_head(inner)
    if bool(tokens.action_mask[:, 0].any()):
        raise ConfigError("a row starts with a sampled token, which nothing predicts; a history starts with context")
    hidden = inner.get_decoder()(
        input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, use_cache=False
    ).last_hidden_state
    predicting = hidden[:, :-1][tokens.action_mask[:, 1:]]
    targets = tokens.input_ids[tokens.action_mask]
    size = max(1, CHUNK_LOGITS // head.weight.shape[0])
    parts = [
        checkpoint(_score, head, states, ids, temperature, entropy, use_reentrant=False)
        for states, ids in zip(torch.split(predicting, size), torch.split(targets, size), strict=True)
    ]
    return _scatter(parts, 0, tokens), _scatter(parts, 1, tokens) if entropy else None


def _score(
    head: torch.nn.Module, states: torch.Tensor, ids: torch.Tensor, temperature: float, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy, ``(n,)`` each, of hidden states ``(n, D)``."""
    logits = head(states).float() / temperature
    total = logits.logsumexp(dim=-1)
    logprobs = logits.gather(1, ids[:, None]).squeeze(1) - total
    if not entropy:
        return logprobs, logprobs.new_zeros(0)
    return logprobs, total - ((logits - total[:, None]).exp() * logits).sum(dim=-1)


def _scatter(parts: list[tuple[torch.Tensor, torch.Tensor]], index: int, tokens: TokenTensors) -> torch.Tensor:
    """Put the values back where their tokens stand."""
    grid = torch.zeros(tokens.input_ids.shape, dtype=torch.float32, device=tokens.input_ids.device)
    if not parts:
        return grid
    return grid.masked_scatter(tokens.action_mask, torch.cat([part[index] for part in parts]))


def _plain_head(model: Any) -> Any:
    """The output head, where its output is the logits and nothing is done to them afterwards."""
    config = model.config.get_text_config()
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(config, name, None) not in (None, 1.0):
            raise ConfigError(
                f"{config.model_type!r} changes its logits after the head ({name}={getattr(config, name)!r}), which "
                "action_logprobs does not follow; use another model"
            )
    return model.get_output_embeddings()
