"""A second task for extra layers: say how likely the model below found each token.

A wrong argument is seldom what a language model expected, and what it expected is in its last layer. Layers above can
compare that with what came, but one reward for a whole answer teaches them so slowly; this teaches it at every token.
What they have learned then serves the reward. The model's own log-probabilities are the truth, so no label is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LEAST = -12.0
"""Log-probabilities below this count as this: the tail of what was not expected would rule the loss."""
MOST = 256
"""Tokens of a pass that are compared, evenly spread over it: the whole vocabulary is scored at each."""


class Surprise(nn.Module):
    """Reads log-probabilities from the top of a backbone, and compares them with those of the layers below the top.

    Args:
        backbone: A decoder with extra layers above its own, and a norm above all, as ``make_classifier`` leaves it.
        vocabulary: The causal model's output embeddings.
        extra_layers: How many of the backbone's layers were added.
    """

    def __init__(self, backbone: Any, vocabulary: Any, extra_layers: int) -> None:
        super().__init__()
        self.read = nn.Linear(vocabulary.in_features, 1, device=vocabulary.weight.device)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)
        # Parts of another module that stay as they are: held, but not registered.
        self._parts = (backbone.layers[-extra_layers], copy.deepcopy(backbone.norm), vocabulary)
        self._below: Tensor | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keeps what the first extra layer is given while this is open: the last pass counts."""

        def keep(layer: Any, given: Any, named: Any) -> None:
            self._below = (given[0] if given else named["hidden_states"]).detach()

        handle = self._parts[0].register_forward_pre_hook(keep, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def loss(self, hidden: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """Share of the variance of the tokens' log-probabilities that is not told.

        Args:
            hidden: What the backbone gave for the watched pass, ``(A, L, D)``.
            ids: Its tokens ``(A, L)``, padded on the right.
            lengths: Tokens of each row ``(A,)``.

        Returns:
            0 where each log-probability is told exactly, about 1 where their mean is told.
        """
        rows, before = (torch.arange(1, ids.shape[1], device=ids.device) < lengths[:, None]).nonzero(as_tuple=True)
        step = -(-len(rows) // MOST)
        rows, before = rows[::step], before[::step]
        with torch.autocast(hidden.device.type, enabled=False):
            told = self.read(hidden[rows, before + 1].float()).squeeze(-1)
        truth = self._log_probabilities(rows, before, ids[rows, before + 1])
        untold: Tensor = ((told - truth) ** 2).mean() / truth.var().clamp(min=1e-3)
        return untold

    @torch.no_grad()
    def _log_probabilities(self, rows: Tensor, before: Tensor, came: Tensor) -> Tensor:
        """Of the tokens that came after such places, by the layers below: ``(N,)``."""
        _, norm, vocabulary = self._parts
        assert self._below is not None, "loss is asked after a pass under watching()"
        logits = vocabulary(norm(self._below[rows, before])).float()
        found: Tensor = logits.log_softmax(-1).gather(-1, came[:, None]).squeeze(-1).clamp(min=LEAST)
        return found
