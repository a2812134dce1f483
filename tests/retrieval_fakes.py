"""What tests of retrieval share: a small corpus, queries, and an encoder that costs nothing."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from toolenv.retrieval.base import Passage
from toolenv.retrieval.bm25 import words
from toolenv.seeding import rng

TEXTS = {
    "Lyon": "A city in France where the Rhone meets the Saone.",
    "Paris": "The capital of France, on the Seine.",
    "Rhone": "A river that rises in a glacier and flows to the Mediterranean.",
    "Seine": "A river of northern France that flows to the Channel.",
    "Helium": "A noble gas with the symbol He and two protons.",
    "Neon": "A noble gas with the symbol Ne that glows red in lamps.",
    "Saturn": "A planet with rings and many moons.",
    "Titan": "The largest moon of Saturn, with lakes of methane.",
    "Zloty": "The currency of Poland, divided into one hundred grosz.",
    "Poland": "A country on the Baltic whose capital is Warsaw.",
}
CORPUS = [Passage(f"p{i}", title, text) for i, (title, text) in enumerate(TEXTS.items())]
QUERIES = [
    "noble gas in red lamps",
    "largest moon of a planet with rings",
    "What money do people use in Warsaw?",
    "river of northern France",
    "capital of France",
    "glacier",
    "a much longer query which says in many needless words that it wants the gas whose symbol is He",
]


class WordEncoder:
    """Sums of a random vector a word: fast, and similar where words are shared."""

    def __init__(self, name: str = "words", dimension: int = 32) -> None:
        self.name, self.spec, self.dimension = name, "", dimension
        self.batches: list[int] = []

    def encode(self, texts: Sequence[str], kind: str = "query") -> NDArray[np.float32]:
        self.batches.append(len(texts))
        rows = [sum((self._word(w) for w in words(t)), np.full(self.dimension, 1e-6)) for t in texts]
        matrix = np.array(rows).reshape(len(texts), self.dimension)
        return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)

    def _word(self, word: str) -> NDArray[np.float64]:
        return rng(zlib.crc32(word.encode())).normal(size=self.dimension)
