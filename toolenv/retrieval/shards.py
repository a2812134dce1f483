"""One corpus on several servers: each searches its part, and what they find is merged by score."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from toolenv.errors import ConfigError, RetrieverError
from toolenv.retrieval.base import Hit, Passage, Retriever, ScoredRetriever, check_k
from toolenv.retrieval.client import RemoteRetriever
from toolenv.retrieval.replicas import ReplicaStatus, ReplicatedRetriever
from toolenv.retrieval.search_r1 import in_order_of_scores

__all__ = ["ReplicaStatus", "ReplicatedRetriever", "ShardedRetriever"]


class ShardedRetriever:
    """Several retrievers, each over a part of the corpus, as one.

    All are asked at once. Their passages are merged by score, ties in the order of ids; one that several shards have is
    given once. With inner products this finds what one index over everything finds. BM25 counts words in its own shard:
    scores of shards that were cut at random differ little, others more.

    Args:
        shards: Retrievers, addresses as for ``RemoteRetriever``, or lists of either, which are replicas of one shard.
            All must say the same ``scores``, and not ``""``.
        api_key_env: As for ``RemoteRetriever``, for addresses, like ``timeout_s``.
        timeout_s: Longest wait for an answer.
        on_dead: What to do where a shard does not answer: ``"raise"``, for a search that lacks passages is wrong; or
            ``"skip"``, search the others, warn, and say so in ``dead``. All have to answer once, at the start.

    Attributes:
        dead: Of the last search, each shard that did not answer, with its reason.

    Raises:
        ConfigError: No shard, or shards whose scores cannot be compared.
        RetrieverError: A server does not answer.

    Example:
        >>> from toolenv.retrieval import make_retriever
        >>> parts = [Passage("a", "Lyon", "A city.")], [Passage("b", "Rhone", "A river.")]
        >>> shards = ShardedRetriever([make_retriever("bm25", part) for part in parts])
        >>> shards.search(["a river"], 2)[0][0].id
        'b'
    """

    def __init__(
        self,
        shards: Sequence[str | Retriever | Sequence[str | Retriever]],
        *,
        api_key_env: str | None = None,
        timeout_s: float = 60.0,
        on_dead: Literal["raise", "skip"] = "raise",
    ) -> None:
        if not shards or isinstance(shards, str):
            raise ConfigError(f"shards must be a list of at least one; got {shards!r}")
        if on_dead not in ("raise", "skip"):
            raise ConfigError(f"on_dead must be 'raise' or 'skip'; got {on_dead!r}")
        self.shards = [_scored(_shard(one, api_key_env, timeout_s)) for one in shards]
        kinds = [shard.scores for shard in self.shards]
        if len(set(kinds)) > 1:
            raise ConfigError(f"shards must have one kind of scores; got {', '.join(map(repr, kinds))}")
        self.scores = kinds[0]
        self.on_dead = on_dead
        self.dead: dict[str, str] = {}

    @property
    def identity(self) -> str:
        """What names the index: the names of all shards; ``""`` where one does not say, or may be left out."""
        if self.on_dead == "skip":
            return ""
        names = [str(getattr(shard, "identity", "")) for shard in self.shards]
        return hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest() if all(names) else ""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Find passages; see ``Retriever``.

        Raises:
            RetrieverError: A shard does not answer; with ``on_dead="skip"``, all do not.
        """
        return [[hit.passage for hit in hits] for hits in self.search_scored(queries, k)]

    def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Find passages with their scores; see ``ScoredRetriever`` and ``search``."""
        check_k(k)
        if not queries:
            return []
        with ThreadPoolExecutor(len(self.shards), thread_name_prefix="toolenv-shard") as threads:
            answers = list(threads.map(lambda shard: _ask(shard, queries, k), self.shards))
        self._note_the_dead(answers)
        alive = [found for found in answers if not isinstance(found, RetrieverError)]
        return [_merged([found[place] for found in alive], k) for place in range(len(queries))]

    def _note_the_dead(self, answers: Sequence[list[list[Hit]] | RetrieverError]) -> None:
        pairs = zip(self.shards, answers, strict=True)
        dead = {repr(shard): str(answer) for shard, answer in pairs if isinstance(answer, RetrieverError)}
        news = [name for name in dead if name not in self.dead]
        self.dead = dead
        if not dead:
            return
        what = "; ".join(f"{name}: {reason}" for name, reason in dead.items())
        if self.on_dead == "raise" or len(dead) == len(self.shards):
            raise RetrieverError(f"{len(dead)} of {len(self.shards)} shards do not answer: {what}")
        if news:
            warnings.warn(f"searching without {len(dead)} of {len(self.shards)} shards: {what}", RuntimeWarning, 4)

    def __deepcopy__(self, memo: dict[int, Any]) -> ShardedRetriever:
        return self

    def __repr__(self) -> str:
        return f"ShardedRetriever([{', '.join(map(repr, self.shards))}])"


def _shard(one: str | Retriever | Sequence[str | Retriever], api_key_env: str | None, timeout_s: float) -> Retriever:
    if isinstance(one, str):
        return RemoteRetriever(one, api_key_env=api_key_env, timeout_s=timeout_s)
    if isinstance(one, Sequence):
        return ReplicatedRetriever(one, api_key_env=api_key_env, timeout_s=timeout_s)
    return one


def _scored(shard: Retriever) -> ScoredRetriever:
    """The shard, if its scores can be compared with those of others.

    Raises:
        ConfigError: It does not say what they are, or that they cannot be.
        RetrieverError: Its server does not answer.
    """
    if isinstance(shard, RemoteRetriever):
        shard.info()  # one that is not there says so
    if isinstance(shard, ReplicatedRetriever) and not any(status.alive for status in shard.status()):
        raise RetrieverError(f"no replica of a shard answers: {'; '.join(s.reason for s in shard.status())}")
    if isinstance(shard, ScoredRetriever) and shard.scores:
        return shard
    raise ConfigError(
        f"the scores of {shard!r} cannot be compared with those of another shard: it does not say what they are, or "
        "measures each query on a scale of its own, as a hybrid does. Serve the hybrid whole, on several replicas; or "
        "shard dense indexes. For Search-R1's server: RemoteRetriever(url, scores='inner product')"
    )


def _ask(shard: ScoredRetriever, queries: Sequence[str], k: int) -> list[list[Hit]] | RetrieverError:
    try:
        found = shard.search_scored(queries, k)
    except RetrieverError as error:
        return error
    if len(found) != len(queries):
        return RetrieverError(f"found {len(found)} lists for {len(queries)} queries")
    return found


def _merged(parts: Sequence[Sequence[Hit]], k: int) -> list[Hit]:
    hits: dict[str, Hit] = {}
    for hit in in_order_of_scores([hit for part in parts for hit in part]):
        hits.setdefault(hit.passage.id, hit)
    return list(hits.values())[:k]
