"""Static embeddings: the mean of a vector for each token, thousands of texts a second on a CPU."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.data.assets import fetched
from toolenv.errors import RetrieverError
from toolenv.extras import require
from toolenv.retrieval.base import clean_text
from toolenv.retrieval.encoders.base import MAX_CHARS, Kind, unit_vectors
from toolenv.retrieval.encoders.fingerprint import fingerprint
from toolenv.retrieval.encoders.hub import model_folder, model_label

MAX_TOKENS = 512
CHUNK = 256  # a tenth faster than a thousand at once, and bounded in memory
TABLES = ("embeddings", "embedding.weight")
"""What model2vec and wordllama call the table of vectors."""


@dataclass(frozen=True, slots=True)
class _Model:
    """What is read from a model's files.

    Attributes:
        tokenizer: Of the package tokenizers.
        vectors: ``(V, D)``, one row a token.
        unknown: The token that stands for what the tokenizer does not know, and says nothing.
    """

    tokenizer: Any
    vectors: NDArray[np.float32]
    unknown: int | None


class StaticEncoder:
    """Mean of the tokens' vectors, then length 1: model2vec's models, and wordllama's.

    The files are read on first use. Threads may share an encoder.

    Args:
        name_or_path: Folder of a model2vec model (``model.safetensors``, ``tokenizer.json``); or its name on a model
            hub, which is then asked for it.

    Raises:
        ConfigError: No such folder or model.
        RetrieverError: The model hub cannot be asked.
    """

    def __init__(self, name_or_path: str | Path) -> None:
        folder = model_folder(name_or_path)
        self._set(folder / "model.safetensors", folder / "tokenizer.json", model_label(str(name_or_path), folder))
        self.spec = str(name_or_path)

    @classmethod
    def wordllama(cls) -> StaticEncoder:
        """WordLlama's 256 dimensions, from the files of its package that ``toolenv fetch wordllama`` brings.

        Raises:
            DataError: It was not fetched; names the command that does.
        """
        folder = fetched("wordllama")
        encoder = cls.__new__(cls)
        words = folder / "tokenizers" / "l2_supercat_tokenizer_config.json"
        encoder._set(folder / "weights" / "l2_supercat_256.safetensors", words, "wordllama-256")
        encoder.spec = "wordllama"
        return encoder

    def _set(self, weights: Path, words: Path, label: str) -> None:
        self._weights, self._words, self._label = weights, words, label
        self._reading = threading.Lock()
        self._read: _Model | None = None

    @cached_property
    def name(self) -> str:
        """The model's own name, and a hash of its vectors and tokenizer."""
        return f"{self._label}-{fingerprint([self._weights, self._words], {'max_tokens': MAX_TOKENS})}"

    @cached_property
    def dimension(self) -> int:
        """Length D of a vector."""
        return int(self._model().vectors.shape[1])

    def encode(self, texts: Sequence[str], kind: Kind = "query") -> NDArray[np.float32]:
        """Vectors ``(N, D)``, float32, of length 1; see ``Encoder``. Each text is summed by itself."""
        model = self._model()
        means = np.zeros((len(texts), self.dimension), np.float32)
        for start in range(0, len(texts), CHUNK):
            clean = [clean_text(text, MAX_CHARS) for text in texts[start : start + CHUNK]]
            encodings = model.tokenizer.encode_batch_fast(clean, add_special_tokens=False)
            for row, encoding in enumerate(encodings, start):
                ids = [number for number in encoding.ids if number != model.unknown][:MAX_TOKENS]
                if ids:
                    means[row] = model.vectors[ids].mean(axis=0)
        return unit_vectors(means)

    def _model(self) -> _Model:
        with self._reading:
            if self._read is None:
                self._read = _read_model(self._weights, self._words)
            return self._read

    def __deepcopy__(self, memo: dict[int, Any]) -> StaticEncoder:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process reads the files itself."""
        return (StaticEncoder.wordllama, ()) if self.spec == "wordllama" else (StaticEncoder, (self.spec,))

    def __repr__(self) -> str:
        return f"StaticEncoder({self.name!r})"


def is_static(folder: Path) -> bool:
    """Whether a folder holds a table of vectors for tokens, not a network."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return False
    safetensors = require("safetensors", "search")
    try:
        with safetensors.safe_open(weights, framework="numpy") as file:
            return TABLES[0] in file.keys()  # noqa: SIM118 - it has no __contains__
    except (OSError, safetensors.SafetensorError) as error:
        raise RetrieverError(f"cannot read {weights}: {error}") from error


def _read_model(weights: Path, words: Path) -> _Model:
    safetensors, numpy_files = require("safetensors", "search"), require("safetensors.numpy", "search")
    tokenizers = require("tokenizers", "search")
    try:
        tensors: dict[str, NDArray[Any]] = numpy_files.load_file(weights)
        tokenizer = tokenizers.Tokenizer.from_buffer(words.read_bytes())
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise RetrieverError(f"cannot read the static encoder {weights.parent}: {error}") from error
    table = next((tensors[name] for name in TABLES if name in tensors), None)
    if table is None or table.ndim != 2:
        raise RetrieverError(f"{weights} holds no table of vectors under {' or '.join(TABLES)}")
    vectors = table.astype(np.float32)
    if "mapping" in tensors:  # several tokens share a vector
        vectors = vectors[tensors["mapping"]]
    if "weights" in tensors:
        vectors = vectors * tensors["weights"].astype(np.float32)[:, None]
    if tokenizer.get_vocab_size() > len(vectors):
        raise RetrieverError(f"{words} has {tokenizer.get_vocab_size()} tokens, {weights} only {len(vectors)} vectors")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    unknown = getattr(tokenizer.model, "unk_token", None)
    return _Model(tokenizer, vectors, None if unknown is None else tokenizer.token_to_id(unknown))
