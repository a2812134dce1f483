"""The critic of PPO: what the rest of an episode is worth, seen from each token that the policy wrote."""

from __future__ import annotations

import copy
from typing import Any

import torch

from agents.batch import TokenTensors
from agents.logprobs import predicting_states
from agents.lora import has_lora


class Critic(torch.nn.Module):
    """A decoder of its own, which starts as the policy's, and one linear output, which starts at 0.

    Where the policy trains LoRA matrices alone, so does the critic's decoder, with matrices of its own.

    Args:
        model: The policy: a transformers causal language model.

    Example:
        >>> critic = Critic(model)  # doctest: +SKIP
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = copy.deepcopy(model.get_decoder())
        if not has_lora(model):
            self.decoder.requires_grad_(True)
        weight = next(self.decoder.parameters())
        self.head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1, device=weight.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, tokens: TokenTensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Values of B packed rollouts of at most L tokens.

        Returns:
            ``(B, L)`` float32, the value of the state before each action token, 0 elsewhere; and ``(B,)``, that of the
            state after a row's last token.
        """
        before = tokens.action_mask.roll(-1, dims=1)
        last = tokens.attention_mask.sum(dim=1, keepdim=True) - 1
        wanted = before.scatter(1, last, True)
        states = self.head(predicting_states(self.decoder, tokens, wanted).float()).squeeze(-1)
        grid = torch.zeros(wanted.shape, device=states.device).masked_scatter(wanted, states)
        return grid.roll(1, dims=1).masked_fill(~tokens.action_mask, 0.0), grid.gather(1, last).sum(
            dim=1
        )  # no view: FSDP wants none
