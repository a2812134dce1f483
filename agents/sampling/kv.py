"""Keys and values of a batch of histories, in buffers with room to grow, and reusable from turn to turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class GrowingLayer(CacheLayerMixin):
    """Keys and values of one layer, ``(B, heads, capacity, D)``, of which the first ``length`` columns are filled.

    transformers' own dynamic layer copies everything for each new token; this one writes into what it has.
    """

    is_sliding = False
    keys: Any  # tensors from the first update on; the base class says that they may be None before
    values: Any

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make the buffers; what is never written stays 0, so that masked columns hold no NaN."""
        rows, heads, _, _ = key_states.shape
        self.keys = key_states.new_zeros(rows, heads, self.capacity, key_states.shape[-1])
        self.values = value_states.new_zeros(rows, heads, self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new columns; return all that are filled."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.length = self.length, self.length + key_states.shape[-2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that a query of this length sees, and the first of them."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """How many columns are filled."""
        return self.length

    def get_max_length(self) -> int:
        """No limit of its own."""
        return -1

    def select(self, rows: torch.Tensor, capacity: int) -> GrowingLayer:
        """A copy of some rows (also repeated) with another capacity."""
        layer = GrowingLayer(capacity)
        layer.lazy_initialization(self.keys[rows, :, :0], self.values[rows, :, :0])
        layer.keys[:, :, : self.length] = self.keys[rows, :, : self.length]
        layer.values[:, :, : self.length] = self.values[rows, :, : self.length]
        layer.length = self.length
        return layer


@dataclass(frozen=True, slots=True)
class CachedRow:
    """One row of a batch whose keys and values may be used again.

    Attributes:
        ids: The tokens that they belong to.
        layers: The batch's layers.
        row: Which row.
        columns: ``(n,)``, where the row's tokens stand, in order.
    """

    ids: list[int]
    layers: Sequence[GrowingLayer]
    row: int
    columns: torch.Tensor

    def prefix_of(self, ids: Sequence[int]) -> bool:
        """Whether ``ids`` goes on from these tokens."""
        return len(self.ids) < len(ids) and ids[: len(self.ids)] == self.ids


class KVBatch:
    """Keys and values of B rows in all layers.

    Columns are shared, and rows have holes: ``mask`` says which columns a row uses.

    Attributes:
        layers: One a layer of the model.
        mask: ``(B, capacity)`` int64, 1 where a row has a token.
        width: How many columns are filled.
    """

    def __init__(self, layers: list[GrowingLayer], mask: torch.Tensor, width: int) -> None:
        self.layers = layers
        self.mask = mask
        self.width = width

    @classmethod
    def from_rows(cls, rows: Sequence[CachedRow | None], num_layers: int, room: int, device: torch.device) -> KVBatch:
        """A batch of rows, each cached before or empty (``None``), aligned on the right, with room to grow."""
        width = max((len(row.ids) for row in rows if row is not None), default=0)
        mask = torch.zeros(len(rows), width + room, dtype=torch.int64, device=device)
        layers = [GrowingLayer(width + room) for _ in range(num_layers)]
        for index, row in enumerate(rows):
            if row is not None:
                mask[index, width - len(row.ids) : width] = 1
        source = next((row for row in rows if row is not None), None)
        if source is None:
            return cls(layers, mask, width)
        for number, layer in enumerate(layers):
            like = source.layers[number]
            shape = (len(rows), like.keys.shape[1], 0)
            layer.lazy_initialization(
                like.keys.new_empty(*shape, like.keys.shape[-1]), like.values.new_empty(*shape, like.values.shape[-1])
            )
            layer.length = width
            for index, row in enumerate(rows):
                if row is not None:
                    start = width - len(row.ids)
                    layer.keys[index, :, start:width] = row.layers[number].keys[row.row][:, row.columns]
                    layer.values[index, :, start:width] = row.layers[number].values[row.row][:, row.columns]
        return cls(layers, mask, width)

    @property
    def cache(self) -> Cache:
        """What a model takes as ``past_key_values``; it writes into the buffers of this batch."""
        return Cache(layers=list(self.layers))

    def extend(self, new: torch.Tensor) -> torch.Tensor:
        """Mark the next columns; returns the attention mask ``(B, width)`` for them and all before.

        Args:
            new: ``(B, n)``, 1 where a row has a token.
        """
        self.mask[:, self.width : self.width + new.shape[1]] = new
        self.width += new.shape[1]
        return self.mask[:, : self.width]

    def select(self, rows: Sequence[int], room: int) -> KVBatch:
        """A copy of some rows (also repeated) with room for more columns."""
        index = torch.tensor(rows, device=self.mask.device)
        capacity = self.width + room
        mask = self.mask.new_zeros(len(rows), capacity)
        mask[:, : self.width] = self.mask[index, : self.width]
        return KVBatch([layer.select(index, capacity) for layer in self.layers], mask, self.width)

    def row(self, row: int, ids: list[int]) -> CachedRow:
        """A reference to one row as it is now, whose tokens are ``ids``."""
        columns = self.mask[row, : self.width].nonzero().squeeze(1)
        return CachedRow(ids, self.layers, row, columns)
