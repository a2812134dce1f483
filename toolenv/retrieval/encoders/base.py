"""What every encoder has in common: texts to unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Kind = Literal["query", "passage"]


@runtime_checkable
class Encoder(Protocol):
    """What a vector index needs of an encoder.

    Attributes:
        name: Names the encoder, weights and settings included: an index built with another name is not opened.
    """

    name: str

    @property
    def dimension(self) -> int:
        """Length D of a vector."""
        ...

    def encode(self, texts: Sequence[str], kind: Kind = "query") -> NDArray[np.float32]:
        """Vectors ``(N, D)``, float32, of length 1; the vector of a text does not depend on the other texts.

        Args:
            texts: Any strings.
            kind: What the texts are, for encoders that tell them apart.

        Raises:
            RetrieverError: The encoder could not run.
        """
        ...
