"""Any server with OpenAI's ``/embeddings``: vLLM, TEI, Infinity, llama.cpp, Ollama, or a provider."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import ConfigError, RetrieverError
from toolenv.http import Endpoint
from toolenv.retrieval.base import clean_text
from toolenv.retrieval.encoders.base import MAX_CHARS, Kind, unit_vectors
from toolenv.retrieval.encoders.fingerprint import fingerprint
from toolenv.retrieval.encoders.model_settings import known_prefixes
from toolenv.retrieval.encoders.vector_cache import VectorCache

KEY_VARIABLE = "TOOLENV_EMBEDDINGS_KEY"
"""Where ``ServerEncoder.at`` looks for a key."""


class ServerEncoder:
    """Asks a server for vectors, several requests at a time; brings them to length 1 and keeps those of queries.

    What the server's weights are cannot be seen from here: an index is tied to the model's name. So let a name stand
    for one model.

    Args:
        url: Address up to ``/v1``.
        model: The model's name on the server.
        query_prefix: Put before queries; ``None``: what is known of a model of this name (E5, BGE), else nothing.
        passage_prefix: Put before passages; likewise.
        max_chars: Longest text; the rest is cut off here, so that no server refuses it.
        batch_size: Texts a request.
        concurrency: Most requests at a time.
        api_key_env: Name of the environment variable that holds the server's key; ``None``: no key.
        timeout_s: Longest wait for an answer.
        retries: How often a request is tried again.
        cache_size: How many query vectors are kept.

    Raises:
        ConfigError: No address, numbers out of range, or a variable that is not set.

    Example:
        >>> ServerEncoder("http://localhost:8000/v1", "intfloat/e5-base-v2").spec
        'http://localhost:8000/v1#intfloat/e5-base-v2'
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        max_chars: int = 2_000,
        batch_size: int = 64,
        concurrency: int = 8,
        api_key_env: str | None = None,
        timeout_s: float = 120.0,
        retries: int = 4,
        cache_size: int = 10_000,
    ) -> None:
        if not model:
            raise ConfigError(f"name the model of the server {url!r}, as in {url}#MODEL")
        if min(max_chars, batch_size, concurrency) < 1:
            raise ConfigError(
                "max_chars, batch_size and concurrency must be at least 1; "
                f"got {max_chars!r}, {batch_size!r} and {concurrency!r}"
            )
        self._server = Endpoint(
            url,
            error=RetrieverError,
            api_key_env=api_key_env,
            timeout_s=timeout_s,
            retries=retries,
            connections=concurrency,
        )
        self.model = model
        known = dict(zip(("query", "passage"), known_prefixes(model), strict=True))
        given = {"query": query_prefix, "passage": passage_prefix}
        self.prefixes = {kind: known[kind] if prefix is None else prefix for kind, prefix in given.items()}
        self._max_chars, self._batch_size, self._concurrency = min(max_chars, MAX_CHARS), batch_size, concurrency
        self.name = f"{model}-served-{fingerprint([], [self.prefixes, self._max_chars])}"
        # Whoever reads the spec of an index gives a key of their own, but other settings would be lost.
        is_plain = self.prefixes == known and max_chars == 2_000
        self.spec = f"{self._server.url}#{model}" if is_plain else ""
        self._queries = VectorCache(cache_size)

    @classmethod
    def at(cls, address: str) -> ServerEncoder:
        """The encoder at ``http://HOST/v1#MODEL``; with the key in ``TOOLENV_EMBEDDINGS_KEY``, where that is set.

        Raises:
            ConfigError: No such address.
        """
        url, _, model = address.partition("#")
        return cls(url, model, api_key_env=KEY_VARIABLE if os.environ.get(KEY_VARIABLE) else None)

    @cached_property
    def dimension(self) -> int:
        """Length D of a vector; the server is asked for one."""
        return int(self._ask(["dimension"]).shape[1])

    def encode(self, texts: Sequence[str], kind: Kind = "query") -> NDArray[np.float32]:
        """Vectors ``(N, D)``, float32, of length 1; see ``Encoder``."""
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        # Servers refuse empty texts.
        prefixed = [self.prefixes[kind] + (clean_text(text, self._max_chars) or " ") for text in texts]
        return self._queries.get(prefixed, self._fetch) if kind == "query" else self._fetch(prefixed)

    def _fetch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        parts = [texts[start : start + self._batch_size] for start in range(0, len(texts), self._batch_size)]
        with ThreadPoolExecutor(min(self._concurrency, len(parts))) as pool:
            answers = list(pool.map(self._ask, parts))
        if dimensions := {vectors.shape[1] for vectors in answers} - {self.dimension}:
            raise RetrieverError(
                f"{self._server.url} gave vectors of {dimensions.pop()} dimensions, and {self.dimension} before: "
                f"did its model {self.model!r} change?"
            )
        return unit_vectors(np.concatenate(answers))

    def _ask(self, texts: Sequence[str]) -> NDArray[np.float32]:
        body = {"model": self.model, "input": list(texts), "encoding_format": "float"}
        answer = self._server.post("/embeddings", body, repeat=True)
        try:
            return _vectors_in(answer, len(texts))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise RetrieverError(
                f"{self._server.url}/embeddings answered {len(texts)} texts with what are no embeddings ({reason}): "
                f"{str(answer)[:200]}"
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> ServerEncoder:
        return self

    def __repr__(self) -> str:
        return f"ServerEncoder({self._server.url!r}, {self.model!r})"


def _vectors_in(answer: Any, count: int) -> NDArray[np.float32]:
    """The vectors ``(count, D)`` of an answer, in the order of the texts.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: It is none.
    """
    items = answer["data"]
    if len(items) != count:
        raise ValueError(f"{len(items)} vectors for {count} texts")
    places = [item["index"] for item in items]
    if sorted(places) != list(range(count)):
        raise ValueError(f"the indexes {sorted(places)[:5]}..., not 0 to {count - 1}")
    rows = sorted(items, key=lambda item: item["index"])
    vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise ValueError(f"vectors of the shape {vectors.shape}")
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise ValueError("a vector with a value that is no number, or of zeros")
    return vectors
