"""The vectors of the last queries, so that a query is encoded once though it is proposed for and scored."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


class VectorCache:
    """Keeps the vectors that were used last. Threads may share it.

    Args:
        size: How many vectors are kept.

    Example:
        >>> cache = VectorCache(2)
        >>> cache.get(["a", "bb", "a"], lambda new: np.array([[len(text)] for text in new], np.float32)).tolist()
        [[1.0], [2.0], [1.0]]
        >>> len(cache)
        2
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, texts: Sequence[str], encode: Callable[[list[str]], NDArray[np.float32]]) -> NDArray[np.float32]:
        """Vectors ``(N, D)`` of at least one text; ``encode`` is asked once for those that are not kept, if any."""
        with self._lock:
            vectors = {text: self._vectors[text] for text in texts if text in self._vectors}
        new = [text for text in dict.fromkeys(texts) if text not in vectors]
        if new:
            vectors.update((text, row.copy()) for text, row in zip(new, encode(new), strict=True))
        with self._lock:
            for text in texts:
                self._vectors[text] = vectors[text]
                self._vectors.move_to_end(text)
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)
        return np.stack([vectors[text] for text in texts])

    def __contains__(self, text: str) -> bool:
        with self._lock:
            return text in self._vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def __reduce__(self) -> tuple[type[VectorCache], tuple[int]]:
        return VectorCache, (self._size,)  # another process begins with none
