"""Log-probabilities of sampled tokens, at a fraction of the memory that all logits would take.

Two savings, neither of which changes a number. The output head sees only the positions that predict a sampled token;
in episodes with tools most tokens are context. And it sees them in chunks that are computed again in the backward
pass, so that the logits of one chunk alone are held at a time; chunks without that would save nothing, since autograd
would keep them all.

A third belongs to the rows: they are packed into one, where the model can take that (``agents.packing``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from agents.batch import TokenTensors
from agents.packing import Packing, can_pack, packed_states
from agents.recompute import recomputing
from agents.sharding import through
from toolenv.errors import ConfigError

CHUNK_LOGITS = 2**22
"""How many logits are held at a time, but for vocabularies so large that this would be fewer than ..."""

CHUNK_TOKENS = 256
"""... tokens: each chunk adds a gradient as large as the head, and many small ones would only do that."""


def action_logprobs(
    model: Any,
    tokens: TokenTensors,
    temperature: float = 1.0,
    *,
    entropy: bool = False,
    packing: Packing = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities of the sampled tokens under ``model``.

    Args:
        model: A transformers causal language model, also under PEFT.
        tokens: B packed rollouts of at most L tokens, on the model's device.
        temperature: Divides the logits, as it did when they were sampled.
        entropy: Whether to return entropies too.
        packing: As for ``predicting_states``.

    Returns:
        Log-probabilities ``(B, L)`` float32, each at the position of its token, 0 elsewhere; and the entropy of the
        distribution that each came from, in nats, of the same shape, or ``None``.

    Raises:
        ConfigError: A model that changes its logits after the head, or that cannot do what is asked for; an action at
            the very start of a row.
    """
    if bool(tokens.action_mask[:, 0].any()):
        raise ConfigError("a row starts with a sampled token, which nothing predicts; a history starts with context")
    inner = _without_peft(model)
    head = _plain_head(inner)
    logprobs, entropies = through(model, _scores, inner, head, tokens, temperature, entropy, packing)
    return _scatter(logprobs, tokens), _scatter(entropies, tokens) if entropy else None


def predicting_states(
    model: Any, tokens: TokenTensors, positions: torch.Tensor, *, packing: Packing = "auto"
) -> torch.Tensor:
    """Last hidden states at some positions: what the head makes the next token's distribution from.

    Args:
        model: A transformers causal language model, also under PEFT.
        tokens: B packed rollouts of at most L tokens, on the model's device.
        positions: ``(B, L)`` bool, the positions that are wanted, none of them padding.
        packing: Whether the rows run as one without padding; ``"auto"``: where the model can.

    Returns:
        ``(n, D)``: row after row, from left to right.

    Raises:
        ConfigError: A model that cannot take packed rows, where they are asked for, or one with a learned prompt.
    """
    return through(model, _states, _without_peft(model), tokens, positions, packing)


def _states(model: Any, tokens: TokenTensors, positions: torch.Tensor, packing: Packing) -> torch.Tensor:
    with recomputing(model):
        if packing if packing != "auto" else can_pack(model):
            states, wanted = packed_states(model, tokens), positions[tokens.attention_mask.bool()]
        else:
            decoder = model.get_decoder()
            output = decoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, use_cache=False)
            states, wanted = output.last_hidden_state.flatten(0, 1), positions.flatten()
    # index_select: the gradient of a boolean mask is far slower on a CPU.
    return states.index_select(0, wanted.nonzero().squeeze(1))


def _without_peft(model: Any) -> Any:
    """The transformers model, with the layers that PEFT put into it."""
    if not hasattr(model, "get_base_model"):
        return model
    if model.active_peft_config.is_prompt_learning:
        raise ConfigError(
            f"PEFT's {model.active_peft_config.peft_type} learns a prompt, which stands before the tokens where "
            "log-probabilities are not taken; use LoRA"
        )
    return model.get_base_model()


def _scores(
    model: Any, head: Any, tokens: TokenTensors, temperature: float, entropy: bool, packing: Packing
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy, ``(n,)`` each, of the n sampled tokens; without ``entropy`` the latter is empty."""
    states = _states(model, tokens, tokens.action_mask.roll(-1, dims=1), packing)
    targets = tokens.input_ids[tokens.action_mask]
    size = max(CHUNK_TOKENS, CHUNK_LOGITS // head.weight.shape[0])
    parts = [
        checkpoint(_score, head, chunk, ids, temperature, entropy, use_reentrant=False)
        for chunk, ids in zip(torch.split(states, size), torch.split(targets, size), strict=True)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _score(
    head: torch.nn.Module, states: torch.Tensor, ids: torch.Tensor, temperature: float, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for hidden states ``(n, D)``."""
    spread = (head(states).float() / temperature).log_softmax(dim=-1)
    logprobs = spread.gather(1, ids[:, None]).squeeze(1)
    return logprobs, -(spread.exp() * spread).sum(dim=-1) if entropy else logprobs.new_zeros(0)


def _scatter(values: torch.Tensor, tokens: TokenTensors) -> torch.Tensor:
    """Put the values back where their tokens stand."""
    grid = torch.zeros(tokens.input_ids.shape, dtype=torch.float32, device=values.device)
    return grid.masked_scatter(tokens.action_mask, values)


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
