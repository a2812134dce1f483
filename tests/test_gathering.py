"""Searches of many requests, gathered: which come together, and what each gets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from search_servers import LONG_S

from toolenv.errors import RetrieverError
from toolenv.retrieval.gathering import Gatherer, QueueFull

pytestmark = pytest.mark.core


class SlowSearch:
    """Holds each search until it is let go; finds (query, k)."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[str], int]] = []
        self.go = threading.Semaphore(0)

    def __call__(self, queries: Sequence[str], k: int) -> list[tuple[str, int]]:
        self.batches.append((list(queries), k))
        assert self.go.acquire(timeout=LONG_S)
        if "bad" in queries:
            raise RetrieverError("a bad one")
        return [(query, k) for query in queries]


async def here() -> bool:
    return False


async def gone() -> bool:
    return True


async def gather_while_busy(search: SlowSearch, *requests: tuple[list[str], int], **settings: Any) -> list[Any]:
    """Requests that come while the search of ``["first"]`` is under way; their results, or errors."""
    settings = {"max_batch": 4, "max_waiting": 8, **settings}
    gatherer: Gatherer[tuple[str, int]] = Gatherer(search, on_batch=lambda size: None, **settings)
    first = asyncio.create_task(gatherer.find(["first"], 1, here))
    while not search.batches:
        await asyncio.sleep(0.001)
    others = [asyncio.create_task(gatherer.find(queries, k, here)) for queries, k in requests]
    await asyncio.sleep(0)
    for _ in range(20):
        search.go.release()
    results = await asyncio.gather(*others, return_exceptions=True)
    assert await first == [("first", 1)]
    assert gatherer.waiting == 0
    gatherer.close()
    return results


def test_what_comes_while_one_searches_is_searched_together() -> None:
    search = SlowSearch()
    requests = [(["a"], 3), (["b", "c"], 3), (["d"], 5), (["e"], 3), (["f"], 3)]
    results = asyncio.run(gather_while_busy(search, *requests))
    assert results == [[(query, k) for query in queries] for queries, k in requests]
    assert search.batches == [(["first"], 1), (["a", "b", "c", "e"], 3), (["d"], 5), (["f"], 3)]


def test_a_long_request_is_searched_in_parts() -> None:
    search = SlowSearch()
    queries = [str(i) for i in range(7)]
    assert asyncio.run(gather_while_busy(search, (queries, 2))) == [[(query, 2) for query in queries]]
    assert search.batches[1:] == [(queries[:4], 2), (queries[4:], 2)]


def test_beyond_the_queue_requests_are_refused_and_the_others_served() -> None:
    results = asyncio.run(gather_while_busy(SlowSearch(), (["a"] * 8, 1), (["b"], 1)))
    assert results[0] == [("a", 1)] * 8
    assert isinstance(results[1], QueueFull)


def test_a_failure_goes_to_all_of_its_batch_and_to_no_other() -> None:
    results = asyncio.run(gather_while_busy(SlowSearch(), (["bad"], 1), (["a"], 1), (["b"], 2)))
    assert [str(result) for result in results[:2]] == ["a bad one"] * 2
    assert results[2] == [("b", 2)]


def test_who_has_left_is_not_searched_for() -> None:
    async def play() -> None:
        search = SlowSearch()
        gatherer: Gatherer[tuple[str, int]] = Gatherer(search, max_batch=4, max_waiting=8, on_batch=lambda size: None)
        search.go.release(5)
        left = asyncio.create_task(gatherer.find(["left"], 1, gone))
        assert await gatherer.find(["stays"], 1, here) == [("stays", 1)]
        with pytest.raises(asyncio.CancelledError):
            await left
        assert search.batches == [(["stays"], 1)]
        gatherer.close()

    asyncio.run(play())
