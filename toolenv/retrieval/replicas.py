"""One index on several servers: the load is spread, and a dead server is passed over."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from toolenv.errors import ConfigError, RetrieverError
from toolenv.retrieval.base import Hit, Passage, Retriever, check_k
from toolenv.retrieval.client import RemoteRetriever, RequestRefusedError, ServerFullError

PROBE_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """How a replica is doing.

    Attributes:
        name: The replica.
        alive: Whether it is asked; a dead one is tried again after a while. One that is full is alive.
        reason: Why it is dead; empty where it is alive.
        in_flight: Searches that it is answering.
        answered: Searches that it has answered.
        failed: Searches that it has not.
    """

    name: str
    alive: bool
    reason: str
    in_flight: int
    answered: int
    failed: int


@dataclass(eq=False, slots=True)
class _Replica:
    retriever: Retriever
    reason: str = ""
    is_refused: bool = False
    died_s: float = 0.0
    again_s: float = 0.0
    full: str = ""
    free_s: float = 0.0
    in_flight: int = 0
    answered: int = 0
    failed: int = 0


class ReplicatedRetriever:
    """Several retrievers over one index: each search goes to the one that has the fewest under way.

    One that fails is passed over at once: the same search goes to the next, and a warning is given. After ``again_s``
    seconds it is looked at again. One that is full (429) is left alone as long as it asks, and is not dead. Where all
    fail or are full, all are asked once more, ``retries`` times. Replicas that say that they have another index are
    refused, now or when they answer, as long as they have it. Threads may share it.

    Args:
        replicas: Retrievers, or addresses as for ``RemoteRetriever``.
        api_key_env: As for ``RemoteRetriever``, for addresses, like ``timeout_s``.
        timeout_s: Longest wait for one replica's answer.
        again_s: How long a dead replica is left alone, in seconds.
        retries: How often all are asked once more.
        backoff_s: Wait before that, at least; it doubles each time.

    Raises:
        ConfigError: No replica, numbers out of range, or replicas with different indexes.

    Example:
        >>> from toolenv.retrieval import make_retriever
        >>> bm25 = make_retriever("bm25", [Passage("a", "Lyon", "A city."), Passage("b", "Rhone", "A river.")])
        >>> ReplicatedRetriever([bm25, bm25]).search(["river"], 1)[0][0].id
        'b'
    """

    def __init__(
        self,
        replicas: Sequence[str | Retriever],
        *,
        api_key_env: str | None = None,
        timeout_s: float = 60.0,
        again_s: float = 15.0,
        retries: int = 3,
        backoff_s: float = 0.5,
    ) -> None:
        if not replicas or isinstance(replicas, str) or again_s < 0 or retries < 0 or backoff_s < 0:
            raise ConfigError(
                "replicas must be a list of at least one, and again_s, retries and backoff_s at least 0; "
                f"got {replicas!r}, {again_s!r}, {retries!r} and {backoff_s!r}"
            )
        self._replicas = [
            _Replica(_remote(one, api_key_env, timeout_s) if isinstance(one, str) else one) for one in replicas
        ]
        self.again_s, self.retries, self.backoff_s = again_s, retries, backoff_s
        self._identity = ""
        self._turn = 0
        self._lock = threading.Lock()
        for replica in self._replicas:
            self._look_at(replica)
            if replica.is_refused:
                raise ConfigError(f"{replica.retriever!r} {replica.reason}; replicas must have one index")

    @property
    def scores(self) -> str:
        """What a score is; ``""`` where no replica says."""
        return next((s for r in self._replicas if (s := getattr(r.retriever, "scores", ""))), "")

    @property
    def identity(self) -> str:
        """What names the index; ``""`` where no replica says."""
        return self._identity

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Find passages; see ``Retriever``.

        Raises:
            RetrieverError: No replica answers; it names each, and why.
        """
        check_k(k)
        return self._with_any(lambda retriever: retriever.search(queries, k))

    def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Find passages with their scores; see ``ScoredRetriever``.

        Raises:
            RetrieverError: No replica answers; it names each, and why.
        """
        check_k(k)

        def search(retriever: Retriever) -> list[list[Hit]]:
            if not hasattr(retriever, "search_scored"):
                raise RetrieverError(f"{retriever!r} gives no scores; use search")
            hits: list[list[Hit]] = retriever.search_scored(queries, k)
            return hits

        return self._with_any(search)

    def status(self) -> list[ReplicaStatus]:
        """How each replica is doing, in their order."""
        with self._lock:
            return [
                ReplicaStatus(repr(r.retriever), not r.reason, r.reason, r.in_flight, r.answered, r.failed)
                for r in self._replicas
            ]

    def _with_any(self, search: Callable[[Retriever], T]) -> T:
        wait_s = self.backoff_s
        for attempt in range(1 + self.retries):
            if attempt:
                time.sleep(max(wait_s, self._until_one_is_free()))
                wait_s *= 2
            asked: set[int] = set()
            while (replica := self._next(asked)) is not None:
                started_s = time.monotonic()
                try:
                    if replica.reason:  # a dead one, as no other is left: it may have come back with another index
                        self._look_at(replica)
                        if replica.reason:
                            continue
                    found = search(replica.retriever)
                except RequestRefusedError:
                    raise  # the next one would say the same
                except ServerFullError as full:
                    self._note_full(replica, full)
                except RetrieverError as error:
                    self._bury(replica, str(error))
                else:
                    self._note_answer(replica, started_s)
                    return found
                finally:
                    with self._lock:
                        replica.in_flight -= 1
        reasons = "; ".join(f"{replica.retriever!r}: {replica.reason or replica.full}" for replica in self._replicas)
        raise RetrieverError(
            f"none of {len(self._replicas)} replicas answers, asked {1 + self.retries} times: {reasons}"
        )

    def _next(self, asked: set[int]) -> _Replica | None:
        """The replica with the fewest searches under way that was not asked yet; where all such are dead, one of those.

        A dead one that may be tried again is looked at first, by one thread. Where one is only full, no dead ones are
        asked in its place.
        """
        for replica in self._due(asked):
            self._look_at(replica)
        now = time.monotonic()
        with self._lock:
            left = [
                (bool(replica.reason), replica.in_flight, (place - self._turn) % len(self._replicas), place)
                for place, replica in enumerate(self._replicas)
                if place not in asked and not replica.is_refused and replica.free_s <= now
            ]
            if not left or (min(left)[0] and any(r.free_s > now and not r.reason for r in self._replicas)):
                return None
            place = min(left)[-1]
            asked.add(place)
            self._turn = place + 1
            self._replicas[place].in_flight += 1
            return self._replicas[place]

    def _due(self, asked: set[int]) -> list[_Replica]:
        """Dead replicas that may be looked at again; no other thread is given the same ones."""
        now = time.monotonic()
        with self._lock:
            due = [
                replica
                for place, replica in enumerate(self._replicas)
                if place not in asked and replica.reason and replica.again_s <= now
            ]
            for replica in due:
                replica.again_s = now + self.again_s
        return due

    def _look_at(self, replica: _Replica) -> None:
        """Ask a replica what it has, where it can be asked: it is alive, dead, or refused until it has that index."""
        try:
            identity = _identity_of(replica.retriever)
        except RetrieverError as error:
            self._bury(replica, str(error), counts=False)
            return
        with self._lock:
            self._identity = self._identity or identity
            replica.is_refused = bool(identity) and identity != self._identity
            replica.reason = f"has another index: {identity}, not {self._identity}" if replica.is_refused else ""

    def _until_one_is_free(self) -> float:
        """Seconds until a replica that is alive and full may be asked; 0 where there is none."""
        now = time.monotonic()
        with self._lock:
            return min((r.free_s - now for r in self._replicas if r.free_s > now and not r.reason), default=0.0)

    def _note_full(self, replica: _Replica, full: ServerFullError) -> None:
        with self._lock:
            replica.full = str(full)
            replica.free_s = time.monotonic() + full.retry_after_s

    def _note_answer(self, replica: _Replica, started_s: float) -> None:
        with self._lock:
            replica.answered += 1
            if started_s >= replica.died_s and not replica.is_refused:  # an answer from before its death is no life
                replica.reason = ""

    def _bury(self, replica: _Replica, reason: str, counts: bool = True) -> None:
        with self._lock:
            is_news = not replica.reason
            replica.failed += counts
            replica.reason = reason
            replica.died_s = time.monotonic()
            replica.again_s = replica.died_s + self.again_s
        if is_news:
            warnings.warn(
                f"passing over the replica {replica.retriever!r} for {self.again_s:g} s: {reason}",
                RuntimeWarning,
                stacklevel=5,
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplicatedRetriever:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
        self._replicas = [_Replica(one.retriever, one.reason, one.is_refused) for one in self._replicas]

    def __repr__(self) -> str:
        return f"ReplicatedRetriever([{', '.join(repr(replica.retriever) for replica in self._replicas)}])"


def _remote(url: str, api_key_env: str | None, timeout_s: float) -> RemoteRetriever:
    """Asks once more at once: a connection that was kept may have been closed just then, which is no death.

    What waits for a server that is full or broken is the search in the others.
    """
    return RemoteRetriever(
        url, api_key_env=api_key_env, timeout_s=timeout_s, deadline_s=timeout_s, retries=1, backoff_s=0.0, waits=False
    )


def _identity_of(retriever: Retriever) -> str:
    """What names the index of a replica; ``""`` where nobody says.

    Raises:
        RetrieverError: Its server does not answer, or is not ready.
    """
    if not isinstance(retriever, RemoteRetriever):
        return str(getattr(retriever, "identity", ""))
    info = retriever.info(PROBE_S)
    if info.not_ready:
        raise RetrieverError(f"{retriever.url} is not ready: {info.not_ready}")
    return info.identity
