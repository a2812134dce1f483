"""Re-ranking: a slower model reads the query and each passage together, and orders what a search found."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from toolenv.errors import ConfigError, RetrieverError
from toolenv.extras import require
from toolenv.quiet import without_transformers_bars
from toolenv.retrieval.base import DECIMALS, Hit, Passage, Retriever, check_k, clean_text
from toolenv.retrieval.encoders.base import MAX_CHARS
from toolenv.retrieval.encoders.batches import batches
from toolenv.retrieval.encoders.fingerprint import fingerprint
from toolenv.retrieval.encoders.hub import model_files, model_folder, model_label
from toolenv.retrieval.forks import one_thread_after_fork

BATCH = 32


@runtime_checkable
class Reranker(Protocol):
    """What ``RerankingRetriever`` needs of a model."""

    @property
    def name(self) -> str:
        """Names the model, weights and settings included."""
        ...

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """How well each passage answers its query, ``(N,)``; a pair's score depends on the others by rounding at most.

        Args:
            pairs: Query and passage.

        Raises:
            RetrieverError: The model could not run.
        """
        ...


class RerankingRetriever:
    """Lets a retriever find, and a re-ranker order what it found.

    Args:
        retriever: Finds the candidates.
        reranker: Scores them.
        depth: How many candidates are scored for a query.

    Attributes:
        scores: What a score is: the re-ranker's, so that shards with the same one can be merged.

    Raises:
        ConfigError: A depth below 1.

    Example:
        >>> from toolenv.retrieval import make_retriever
        >>> class Shortest:
        ...     name = "shortest"
        ...     def score(self, pairs):
        ...         return np.array([-float(len(passage)) for _, passage in pairs])
        >>> corpus = [Passage("a", "Lyon", "A city on the Rhone, in France."), Passage("b", "Rhone", "A river.")]
        >>> retriever = RerankingRetriever(make_retriever("bm25", corpus), Shortest())
        >>> [passage.id for passage in retriever.search(["Lyon on the Rhone"], k=2)[0]]
        ['b', 'a']
    """

    def __init__(self, retriever: Retriever, reranker: Reranker, depth: int = 50) -> None:
        check_k(depth)
        self.retriever, self.reranker, self.depth = retriever, reranker, depth
        self.scores = reranker.name

    @property
    def passages(self) -> Sequence[Passage]:
        """Those of the retriever; there is no such attribute where that has none."""
        inner: Any = self.retriever
        found: Sequence[Passage] = inner.passages
        return found

    @property
    def identity(self) -> str:
        """Two with the same one answer alike; empty where the retriever does not say."""
        inner = getattr(self.retriever, "identity", "")
        facts = f"{inner}|{self.reranker.name}|{self.depth}"
        return hashlib.sha256(facts.encode()).hexdigest() if inner else ""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Find passages; see ``Retriever``."""
        return [[hit.passage for hit in hits] for hits in self.search_scored(queries, k)]

    def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Find passages with the re-ranker's scores: one search and one scoring for all queries."""
        check_k(k)
        candidates = self.retriever.search(queries, max(k, self.depth)) if queries else []
        pairs = [
            (query, passage.contents) for query, found in zip(queries, candidates, strict=True) for passage in found
        ]
        scores = iter(self._score(pairs))
        hits = [[Hit(passage, next(scores)) for passage in found] for found in candidates]
        return [sorted(found, key=_place)[:k] for found in hits]

    def _score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Scores of pairs; two that are equal are scored once, and so tie."""
        distinct = list(dict.fromkeys(pairs))
        if not distinct:
            return []
        try:
            scores = np.asarray(self.reranker.score(distinct), np.float64)
        except RuntimeError as error:
            raise RetrieverError(f"the re-ranker failed on {len(distinct)} pairs: {error}") from error
        if scores.shape != (len(distinct),) or not np.isfinite(scores).all():
            raise RetrieverError(
                f"the re-ranker {self.reranker.name!r} must give {len(distinct)} finite scores; it gave the shape "
                f"{scores.shape}, of which {int(np.isfinite(scores).sum())} are finite"
            )
        known = dict(zip(distinct, scores.tolist(), strict=True))
        return [known[pair] for pair in pairs]

    def __deepcopy__(self, memo: dict[int, Any]) -> RerankingRetriever:
        return self

    def __repr__(self) -> str:
        return f"RerankingRetriever({self.retriever!r}, {self.reranker.name!r}, depth={self.depth})"


def _place(hit: Hit) -> tuple[float, str]:
    """Best first, ties by id."""
    return -round(hit.score, DECIMALS), hit.passage.id


class CrossEncoder:
    """A model of transformers that reads a query and a passage together and gives one number.

    Pairs are batched with others of exactly their own number of tokens. So none is padded, and a pair's score is the
    same, but for float32's rounding, whatever it is batched with. The model is loaded on first use. Threads may share
    it.

    Args:
        name_or_path: Folder of the model; or its name on a model hub, such as ``"BAAI/bge-reranker-base"``.
        max_tokens: Longest pair; the longer of the two texts is cut first.
        device: Torch device; ``None``: a GPU where there is one.

    Raises:
        ConfigError: No such folder or model.
        RetrieverError: The model hub cannot be asked.
    """

    def __init__(self, name_or_path: str | Path, *, max_tokens: int = 512, device: str | None = None) -> None:
        if max_tokens < 16:
            raise ConfigError(f"max_tokens must be at least 16, for a query and some of a passage; got {max_tokens!r}")
        self.source = str(name_or_path)
        self.max_tokens, self.device = max_tokens, device
        self._folder = model_folder(name_or_path)
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    @cached_property
    def name(self) -> str:
        """The model's own name, and a hash of its weights, tokenizer and settings."""
        settings = {"max_tokens": self.max_tokens}
        return f"{model_label(self.source, self._folder)}-{fingerprint(model_files(self._folder), settings)}"

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """The model's numbers, ``(N,)``, before any sigmoid; see ``Reranker``."""
        scores = np.empty(len(pairs), np.float64)
        if not pairs:
            return scores
        torch = require("torch", "search")
        with self._lock, torch.inference_mode():
            tokenizer, model = self._load()
            queries, passages = ([clean_text(text, MAX_CHARS) for text in side] for side in zip(*pairs, strict=True))
            tokens = tokenizer(queries, passages, truncation="longest_first", max_length=self.max_tokens)
            lengths = [len(ids) for ids in tokens["input_ids"]]
            for rows in batches(lengths, BATCH, one_length=True):
                inputs = {
                    key: torch.tensor([values[row] for row in rows], device=model.device)
                    for key, values in tokens.items()
                }
                scores[rows] = model(**inputs).logits[:, 0].double().cpu().numpy()
        return scores

    def _load(self) -> tuple[Any, Any]:
        """Tokeniser and model."""
        if self._loaded is None:
            torch, transformers = require("torch", "search"), require("transformers", "search")
            one_thread_after_fork(torch.set_num_threads)
            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            kind = transformers.AutoModelForSequenceClassification
            try:
                with without_transformers_bars():
                    tokenizer = transformers.AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
                    model = kind.from_pretrained(self._folder, local_files_only=True, dtype=torch.float32)
            except (OSError, ValueError) as error:
                raise RetrieverError(f"cannot load the re-ranker {self.source!r}: {error}") from error
            if model.config.num_labels != 1:
                raise ConfigError(
                    f"{self.source!r} gives {model.config.num_labels} numbers for a pair; a re-ranker gives one"
                )
            self._loaded = tokenizer, model.to(device=device).eval()
        return self._loaded

    def __deepcopy__(self, memo: dict[int, Any]) -> CrossEncoder:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process loads its own."""
        return partial(CrossEncoder, self.source, max_tokens=self.max_tokens, device=self.device), ()

    def __repr__(self) -> str:
        return f"CrossEncoder({self.source!r})"
