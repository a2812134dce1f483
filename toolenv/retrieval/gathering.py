"""Searches that many ask for at once, gathered: while one batch is searched, the next one comes together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueFull(Exception):
    """More queries wait than may."""


@dataclass(eq=False, slots=True)
class _Part(Generic[T]):
    """Queries of one request that go into one batch."""

    queries: Sequence[str]
    k: int
    is_gone: Callable[[], Awaitable[bool]]
    found: asyncio.Future[list[T]]


class Gatherer(Generic[T]):
    """Searches one batch at a time, in a thread; nobody waits while nothing is searched.

    A batch holds queries of one ``k`` alone: what a search finds may depend on it. Requests are served in their order,
    those with the ``k`` of the first one together.

    Args:
        search: Finds one result a query.
        max_batch: Most queries of a batch.
        max_waiting: Most queries that wait.
        on_batch: Told of each batch, how many queries it has.
    """

    def __init__(
        self,
        search: Callable[[Sequence[str], int], list[T]],
        *,
        max_batch: int,
        max_waiting: int,
        on_batch: Callable[[int], None],
    ) -> None:
        self._search, self._on_batch = search, on_batch
        self.max_batch, self.max_waiting = max_batch, max_waiting
        self.waiting = 0
        self._parts: deque[_Part[T]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="toolenv-search")
        self._working: asyncio.Task[None] | None = None

    async def find(self, queries: Sequence[str], k: int, is_gone: Callable[[], Awaitable[bool]]) -> list[T]:
        """One result a query.

        Args:
            queries: The queries.
            k: Most passages for one of them.
            is_gone: Whether nobody waits for it any more; what still waits then is not searched.

        Raises:
            QueueFull: There is no room for the queries.
            asyncio.CancelledError: Whoever asked is gone.
            Exception: What the search raised.
        """
        if self.waiting and self.waiting + len(queries) > self.max_waiting:
            raise QueueFull(f"{self.waiting} queries wait already, and at most {self.max_waiting} may")
        loop = asyncio.get_running_loop()
        parts = [
            _Part(queries[start : start + self.max_batch], k, is_gone, loop.create_future())
            for start in range(0, len(queries), self.max_batch)
        ]
        self._parts.extend(parts)
        self.waiting += len(queries)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        results = await asyncio.gather(*(part.found for part in parts), return_exceptions=True)
        for result in results:  # each part's, so that no failure is left that nobody looked at
            if isinstance(result, BaseException):
                raise result
        return [found for result in results if not isinstance(result, BaseException) for found in result]

    def close(self) -> None:
        """Let go of the thread, once its search is done."""
        self._thread.shutdown()

    async def _work(self) -> None:
        """Search batch after batch, until nobody waits."""
        while self._parts:
            batch = self._next_batch()
            for part in batch:
                if await part.is_gone():
                    part.found.cancel()
            batch = [part for part in batch if not part.found.cancelled()]
            if batch:
                await self._answer(batch)

    def _next_batch(self) -> list[_Part[T]]:
        """The first part that waits, and those with its ``k`` that have room beside it."""
        batch: list[_Part[T]] = []
        rest: deque[_Part[T]] = deque()
        room, k = self.max_batch, self._parts[0].k
        for part in self._parts:
            if part.k == k and len(part.queries) <= room:
                batch.append(part)
                room -= len(part.queries)
            else:
                rest.append(part)
        self._parts = rest
        self.waiting -= self.max_batch - room
        return batch

    async def _answer(self, batch: Sequence[_Part[T]]) -> None:
        queries = [query for part in batch for query in part.queries]
        self._on_batch(len(queries))
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._thread, self._search, queries, batch[0].k)
        except Exception as error:  # whatever it is, it is raised where the answer is waited for
            for part in batch:
                if not part.found.done():
                    part.found.set_exception(error)
            return
        start = 0
        for part in batch:
            if not part.found.done():
                part.found.set_result(found[start : start + len(part.queries)])
            start += len(part.queries)
