"""What every encoder has in common: texts to unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Kind = Literal["query", "passage"]
"""What a text is: many models want a prefix that says so."""

MAX_CHARS = 8_000
"""A text's characters that an encoder looks at."""


@runtime_checkable
class Encoder(Protocol):
    """What a vector index needs of an encoder."""

    @property
    def name(self) -> str:
        """Names the encoder, weights and settings included: an index built with another name is not opened."""
        ...

    @property
    def spec(self) -> str:
        """What ``make_encoder`` takes to make it again; ``""`` where it cannot."""
        ...

    @property
    def dimension(self) -> int:
        """Length D of a vector."""
        ...

    def encode(self, texts: Sequence[str], kind: Kind = "query") -> NDArray[np.float32]:
        """Vectors ``(N, D)``, float32, of length 1.

        A query's vector does not depend on the other queries. A passage's may by rounding, where that is faster.

        Args:
            texts: Any strings.
            kind: What the texts are, for encoders that tell them apart.

        Raises:
            RetrieverError: The encoder could not run.
        """
        ...


def unit_vectors(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors ``(N, D)`` brought to length 1; one without a direction gets the same coordinate everywhere.

    Example:
        >>> unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)).round(3).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.7070000171661377, 0.7070000171661377]]
    """
    wide = vectors.astype(np.float64)
    lengths = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    level = np.full_like(wide, wide.shape[1] ** -0.5 if wide.shape[1] else 0.0)
    np.divide(wide, lengths, out=level, where=lengths > 0)
    return level.astype(np.float32)
