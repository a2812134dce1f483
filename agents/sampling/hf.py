"""Samples from a transformers model, in its own process: fast for small models on a CPU, and exact everywhere.

Written out instead of calling ``model.generate`` for four reasons: every row has its own random stream, so that what
is drawn does not depend on the batch; rows that have ended leave the batch; rows of one prompt share its forward pass;
and the keys and values of a turn serve the next turn of the episode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch

from agents.sampling.base import Generation, SamplingParams, action_text, check_prompts
from agents.sampling.kv import CachedRow, KVBatch
from agents.sampling.stops import StopStrings
from agents.sampling.weights import copy_weights, plain
from agents.tokens import TokenHistory, end_ids
from toolenv.errors import ConfigError, SamplerError

PREFILL_TOKENS = 4096
"""New tokens of prompts that one forward pass runs: what a processor's cache holds, and enough for a GPU."""


@dataclass(slots=True)
class _Row:
    """An action that is being sampled."""

    uniforms: torch.Tensor
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] | None = None


class HFSampler:
    """Samples from a transformers causal language model.

    Args:
        model: The model, with attention in every layer (sliding windows included).
        tokenizer: Its tokenizer.
        params: How to sample.
        version: Version of the weights, written into each generation; ``sync`` sets it.
        reuse: Keep keys and values from one turn of a history to the next. They are dropped where the weights have
            changed in between.

    Raises:
        ConfigError: A model without a key-value cache in every layer.

    Example:
        >>> HFSampler(model, tokenizer, SamplingParams(max_new_tokens=64))  # doctest: +SKIP
    """

    concurrent = False

    def __init__(
        self, model: Any, tokenizer: Any, params: SamplingParams, version: int = 0, *, reuse: bool = True
    ) -> None:
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if not kinds <= {"full_attention", "sliding_attention"}:
            raise ConfigError(f"HFSampler needs a key-value cache in every layer; {config.model_type!r} has {kinds}")
        self.model = model
        self.tokenizer = tokenizer
        self.params = params
        self.version = version
        # A sliding window counts columns, and a reused row has a hole between its old columns and its new ones.
        self.reuse = reuse and getattr(config, "sliding_window", None) is None
        self.end_ids = frozenset(end_ids(tokenizer)) | configured_ends(model)
        self._num_layers: int = config.num_hidden_layers
        self._stops = StopStrings(tokenizer, params.stop)
        self._cached: WeakKeyDictionary[TokenHistory, CachedRow] = WeakKeyDictionary()
        self._stamp: tuple[int, int] | None = None

    @torch.no_grad()
    def generate(self, prompts: Sequence[TokenHistory], *, seeds: Sequence[int]) -> list[Generation]:
        """Draw one action for each history; see ``Sampler``."""
        check_prompts(prompts, seeds)
        if not prompts:
            return []
        was_training = self.model.training
        self.model.eval()
        try:
            rows = [_Row(self._uniforms(seed)) for seed in seeds]
            self._decode(prompts, rows, *self._prefill(prompts))
        finally:
            self.model.train(was_training)
        return [self._generation(row) for row in rows]

    def sync(self, model: Any, version: int) -> None:
        """Take a version over; the weights are copied where this sampler's model is another than the trained one."""
        if plain(model) is not plain(self.model):
            copy_weights(model, self.model)
        self.version = version

    def close(self) -> None:
        """Forget keys and values; the model is its owner's."""
        self._cached.clear()

    # Inside --------------------------------------------------------------------------------------------------------

    def _prefill(self, prompts: Sequence[TokenHistory]) -> tuple[KVBatch, torch.Tensor]:
        """Run what is new in each prompt, once for equal prompts; returns the cache and logits ``(B, V)``."""
        self._forget_stale()
        distinct = {tuple(prompt.ids): prompt for prompt in prompts}
        cached = {ids: self._lookup(prompt) for ids, prompt in distinct.items()}
        self._cached.clear()
        rows: dict[tuple[int, ...], CachedRow] = {}
        logits: dict[tuple[int, ...], torch.Tensor] = {}
        for chunk in _chunks(cached):
            news = [list(ids[len(row.ids) if row else 0 :]) for ids, row in chunk]
            longest = max(map(len, news))
            batch = KVBatch.from_rows([row for _, row in chunk], self._num_layers, longest, self.model.device)
            padded = torch.tensor([[0] * (longest - len(new)) + new for new in news])
            mask = torch.tensor([[0] * (longest - len(new)) + [1] * len(new) for new in news])
            output = self._forward(batch, padded, mask)
            for place, (ids, _) in enumerate(chunk):
                rows[ids], logits[ids] = batch.row(place, list(ids)), output[place]
        keys = [tuple(prompt.ids) for prompt in prompts]
        room = self.params.max_new_tokens
        batch = KVBatch.from_rows([rows[ids] for ids in keys], self._num_layers, room, self.model.device)
        return batch, torch.stack([logits[ids] for ids in keys])

    def _forget_stale(self) -> None:
        """Drop what other weights computed; writes to a tensor in place are counted by the tensor."""
        stamp = (self.version, sum(parameter._version for parameter in self.model.parameters()))
        if stamp != self._stamp or not self.reuse:
            self._cached.clear()
        self._stamp = stamp

    def _decode(
        self, prompts: Sequence[TokenHistory], rows: Sequence[_Row], batch: KVBatch, logits: torch.Tensor
    ) -> None:
        """Draw tokens until every row has ended."""
        members = list(range(len(rows)))  # which row of the call stands in each row of the batch
        for step in range(self.params.max_new_tokens):
            uniforms = torch.stack([rows[i].uniforms[step] for i in members])
            chosen, logprobs = self._draw(logits, uniforms)
            for place, (i, token, logprob) in enumerate(zip(members, chosen.tolist(), logprobs.tolist(), strict=True)):
                if rows[i].finish_reason is None:
                    self._push(rows[i], token, logprob)
                    if rows[i].finish_reason is not None and self.reuse:
                        self._cached[prompts[i]] = batch.row(place, [*prompts[i].ids, *rows[i].ids[:-1]])
            alive = [place for place, i in enumerate(members) if rows[i].finish_reason is None]
            if not alive:
                return
            if 2 * len(alive) <= len(members):
                batch = batch.select(alive, self.params.max_new_tokens - step)
                members, chosen = [members[place] for place in alive], chosen[alive]
            logits = self._forward(batch, chosen[:, None], torch.ones(len(members), 1, dtype=torch.int64))

    def _forward(self, batch: KVBatch, ids: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Run new columns ``(B, n)``, padded on the left; returns the logits after the last one ``(B, V)``."""
        device = self.model.device
        first = batch.mask[:, : batch.width].sum(dim=1, keepdim=True)
        new = new.to(device)
        output = self.model(
            input_ids=ids.to(device),
            attention_mask=batch.extend(new),
            position_ids=(first + new.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=batch.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _draw(self, logits: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One token a row, ``(B,)``, by inverting the distribution function, and its log-probability."""
        logprobs = torch.log_softmax(logits.float() / self.params.temperature, dim=-1)
        if self.params.greedy:
            chosen = logprobs.argmax(dim=-1, keepdim=True)
        else:
            cumulated = logprobs.double().exp().cumsum(dim=-1)
            target = uniforms.to(cumulated.device)[:, None] * cumulated[:, -1:]
            chosen = torch.searchsorted(cumulated, target, right=True).clamp(max=logits.shape[-1] - 1)
        picked = logprobs.gather(1, chosen).squeeze(1)
        if not bool(picked.isfinite().all()):
            raise SamplerError("the model gave logits that are not numbers; the weights or the inputs are broken")
        return chosen.squeeze(1), picked

    def _push(self, row: _Row, token: int, logprob: float) -> None:
        row.ids.append(token)
        row.logprobs.append(logprob)
        if token in self.end_ids or self._stops.complete(row.ids):
            row.finish_reason = "stop"
        elif len(row.ids) == self.params.max_new_tokens:
            row.finish_reason = "length"

    def _lookup(self, prompt: TokenHistory) -> CachedRow | None:
        cached = self._cached.get(prompt)
        return cached if cached is not None and cached.prefix_of(prompt.ids) else None

    def _uniforms(self, seed: int) -> torch.Tensor:
        """The row's own random stream: one number a token."""
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(self.params.max_new_tokens, generator=generator, dtype=torch.float64)

    def _generation(self, row: _Row) -> Generation:
        assert row.finish_reason is not None
        text = action_text(self.tokenizer, row.ids, self.end_ids)
        return Generation(tuple(row.ids), tuple(row.logprobs), text, row.finish_reason, self.version)


def _chunks(
    cached: Mapping[tuple[int, ...], CachedRow | None],
) -> Iterator[list[tuple[tuple[int, ...], CachedRow | None]]]:
    """Prompts of similar length together, in chunks of some ``PREFILL_TOKENS`` new tokens."""

    def new_tokens(item: tuple[tuple[int, ...], CachedRow | None]) -> int:
        ids, row = item
        return len(ids) - (len(row.ids) if row else 0)

    chunk: list[tuple[tuple[int, ...], CachedRow | None]] = []
    for item in sorted(cached.items(), key=new_tokens):
        if chunk and (len(chunk) + 1) * new_tokens(item) > PREFILL_TOKENS:
            yield chunk
            chunk = []
        chunk.append(item)
    yield chunk


def configured_ends(model: Any) -> frozenset[int]:
    """End tokens that the model's generation settings name."""
    ends = getattr(model.generation_config, "eos_token_id", None) if hasattr(model, "generation_config") else None
    return frozenset([ends] if isinstance(ends, int) else ends or ())
