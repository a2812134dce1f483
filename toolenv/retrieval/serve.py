"""A search index for others: a server with Search-R1's interface, ``POST /retrieve``.

``GET /health`` says what is searched, and whether it can be; ``GET /metrics`` counts, as Prometheus reads it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from toolenv.errors import ConfigError, RetrieverError, ToolEnvError
from toolenv.extras import require
from toolenv.retrieval.base import Retriever, check_k
from toolenv.retrieval.client import MAX_QUERY_CHARS
from toolenv.retrieval.gathering import Gatherer, QueueFull
from toolenv.retrieval.search_r1 import IDENTITY_HEADER, Found, answer_of, asked_of
from toolenv.serving import Door, Refused, address_of, json_body, json_response, listen, run

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

DEFAULT_TOPK = 3
MAX_TOPK = 1_000
MAX_QUERIES = 10_000
MAX_BODY_BYTES = 32 << 20
STOP_S = 30


def serve(
    retriever: str | Path | Retriever,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    default_topk: int = DEFAULT_TOPK,
    max_batch: int = 512,
    max_waiting: int = 20_000,
) -> None:
    """Serve until Ctrl-C or SIGTERM; who is waiting for an answer then gets it.

    Args:
        retriever: What searches: a retriever, or an index as ``open_index`` takes it.
        host: Address to listen at. Beyond loopback a token is required.
        port: Port to listen at; 0: any free one.
        token: What clients have to send as a bearer token; ``None`` or empty: nothing, but they have to call the server
            ``localhost`` or by an address of loopback, which no page in a browser can.
        default_topk: Passages a query, where a request does not say.
        max_batch: Most queries of one search; those of requests that come together share one.
        max_waiting: How many queries may wait for a search; further ones are told to come again (429).

    Raises:
        ConfigError: No token beyond loopback, an address that cannot be listened at, or numbers that make no sense.
        DataError: There is no such index, or it is not whole.
        MissingExtraError: The extra ``serve``, or what the index needs, is not installed.
    """
    require("uvicorn", "serve")
    door = Door(token)
    door.check_host(
        host,
        "read what it searches",
        "toolenv index serve takes it from the environment variable TOOLENV_INDEX_TOKEN",
    )
    if isinstance(retriever, str | Path):
        from toolenv.retrieval.index import open_index

        retriever = open_index(retriever)
    app = make_app(retriever, token=token, default_topk=default_topk, max_batch=max_batch, max_waiting=max_waiting)
    listening = listen(host, port)
    try:
        print(f"serving {retriever!r} at {address_of(host, listening)}/retrieve", flush=True)
        run(app, listening, stop_s=STOP_S)
    except KeyboardInterrupt:
        pass  # how a server is stopped
    finally:
        listening.close()


def make_app(
    retriever: Retriever,
    *,
    token: str | None = None,
    default_topk: int = DEFAULT_TOPK,
    max_batch: int = 512,
    max_waiting: int = 20_000,
) -> Starlette:
    """The server as an ASGI application, for a server of your own.

    Args:
        retriever: What searches.
        token: As for ``serve``, like all that follows.
        default_topk: Passages a query, where a request does not say.
        max_batch: Most queries of one search.
        max_waiting: How many queries may wait.

    Raises:
        ConfigError: Numbers that make no sense.
        MissingExtraError: The extra ``serve`` is not installed.
    """
    check_k(default_topk)
    if default_topk > MAX_TOPK or max_batch < 1 or max_waiting < 1:
        raise ConfigError(
            f"default_topk must be at most {MAX_TOPK}, max_batch and max_waiting at least 1; "
            f"got {default_topk!r}, {max_batch!r} and {max_waiting!r}"
        )
    return _Service(retriever, Door(token), default_topk, max_batch, max_waiting).app()


class _Service:
    """The state of a server: what it searches, who waits, and what was counted."""

    def __init__(self, retriever: Retriever, door: Door, default_topk: int, max_batch: int, max_waiting: int) -> None:
        self.retriever, self.door, self.default_topk = retriever, door, default_topk
        self.gatherer = Gatherer(self._search, max_batch=max_batch, max_waiting=max_waiting, on_batch=self._count_batch)
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.search_s = 0.0
        self.failure: str | None = "the first search is under way"
        self.identity = ""  # of the index, as of the last search
        self.probing: asyncio.Task[None] | None = None

    def app(self) -> Starlette:
        route = require("starlette.routing", "serve").Route
        routes = [
            route("/retrieve", self.retrieve, methods=["POST"]),
            route("/health", self.health),
            route("/metrics", self.metrics),
        ]
        app: Starlette = require("starlette.applications", "serve").Starlette(routes=routes, lifespan=self.lifespan)
        return app

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Search once, so that what is loaded on first use is there when others ask."""
        self.probing = asyncio.create_task(self._probe())
        yield
        self.probing.cancel()
        await asyncio.to_thread(self.gatherer.close)

    async def retrieve(self, request: Request) -> Response:
        """Search; what the server refuses is said with a status of its own, and ``detail``."""
        try:
            response = await self._answer(request)
        except Refused as refused:
            response = refused.answer()
        self.statuses[response.status_code] += 1
        return response

    async def health(self, request: Request) -> Response:
        """Whether it can search, and what, for whom the door lets in.

        503 where the last search failed, which is tried again then.
        """
        failure = self.failure
        try:
            self.door.check(request)
            facts = await asyncio.to_thread(self._facts)  # a retriever that is a server itself may have to be asked
            facts |= {} if failure is None else {"detail": failure}
        except Refused as refused:
            facts = {"refused": refused.detail}
        if failure is None:
            return json_response({"status": "ok", **facts})
        if self.probing is None or self.probing.done():
            self.probing = asyncio.create_task(self._probe())
        return json_response({"status": "not ready", **facts}, 503, {"Retry-After": "1"})

    async def metrics(self, request: Request) -> Response:
        try:
            self.door.check(request)
        except Refused as refused:
            return refused.answer()
        text = "".join(self._metric_lines())
        response: Response = require("starlette.responses", "serve").PlainTextResponse(
            text, media_type="text/plain; version=0.0.4"
        )
        return response

    async def _answer(self, request: Request) -> Response:
        self.door.check(request)
        try:
            asked = asked_of(
                await json_body(request, MAX_BODY_BYTES),
                default_k=self.default_topk,
                max_queries=MAX_QUERIES,
                max_query_chars=MAX_QUERY_CHARS,
                max_k=MAX_TOPK,
            )
        except ValueError as error:
            raise Refused(422, str(error)) from None
        self.counts["queries"] += len(asked.queries)
        words = [query for query in asked.queries if query.strip()]
        try:
            found = iter(await self.gatherer.find(words, asked.k, request.is_disconnected))
            results = [next(found) if query.strip() else [] for query in asked.queries]
            headers = {IDENTITY_HEADER: quote(self.identity)} if self.identity else {}
            return json_response(answer_of(results, asked.with_scores), headers=headers)
        except QueueFull as full:
            raise Refused(429, f"{full}; come again in a second", retry_after_s=1) from None
        except asyncio.CancelledError:
            if await request.is_disconnected():
                raise Refused(499, "the client has left") from None
            raise
        except RetrieverError as error:
            self.failure = str(error)
            raise Refused(503, f"the search failed: {error}", retry_after_s=1) from error

    def _search(self, queries: Sequence[str], k: int) -> list[list[Found]]:
        """Search, in a thread; one list a query."""
        started = time.perf_counter()
        try:
            if hasattr(self.retriever, "search_scored"):
                hits = self.retriever.search_scored(queries, k)
                found = [[Found(hit.passage, hit.score) for hit in one] for one in hits]
            else:
                found = [[Found(passage) for passage in one] for one in self.retriever.search(queries, k)]
            if len(found) != len(queries):
                raise RetrieverError(f"{self.retriever!r} found {len(found)} lists for {len(queries)} queries")
            self.identity = self._identity()
        except Exception as error:
            self.counts["errors"] += 1
            self.failure = str(error) if isinstance(error, ToolEnvError) else repr(error)
            raise
        finally:
            self.search_s += time.perf_counter() - started
        self.failure = None
        return found

    async def _probe(self) -> None:
        async def never() -> bool:
            return False

        try:
            await self.gatherer.find(["Lyon"], 1, never)
        except Exception as error:  # /health says it, and looks again
            self.failure = str(error) if isinstance(error, ToolEnvError | QueueFull) else repr(error)

    def _count_batch(self, size: int) -> None:
        self.counts["batches"] += 1
        self.counts["searched"] += size

    def _facts(self) -> dict[str, Any]:
        """What is searched, as far as the retriever tells."""
        passages = getattr(self.retriever, "passages", None)
        encoder = getattr(self.retriever, "encoder", None)
        if encoder is None:  # a hybrid's is its dense part's
            encoder = getattr(getattr(self.retriever, "dense", None), "encoder", None)
        return {
            "retriever": type(self.retriever).__name__,
            "passages": None if passages is None else len(passages),
            "scores": getattr(self.retriever, "scores", ""),
            "encoder": getattr(encoder, "name", None),
            "identity": self._identity(),
        }

    def _identity(self) -> str:
        """What names the index; empty where nobody says."""
        try:
            return str(getattr(self.retriever, "identity", ""))
        except RetrieverError:  # a server behind this one that does not answer
            return ""

    def _metric_lines(self) -> list[str]:
        numbers: list[tuple[str, str, str, float]] = [
            ("queries_total", "counter", "Queries that were asked.", self.counts["queries"]),
            ("batches_total", "counter", "Searches of the index.", self.counts["batches"]),
            ("searched_total", "counter", "Queries of all searches.", self.counts["searched"]),
            ("errors_total", "counter", "Searches that failed.", self.counts["errors"]),
            ("search_seconds_total", "counter", "Time in searches.", self.search_s),
            ("queue_depth", "gauge", "Queries that wait for a search.", self.gatherer.waiting),
            ("ready", "gauge", "1 where the last search worked.", float(self.failure is None)),
        ]
        lines = [
            "# HELP toolenv_search_requests_total Requests, by status.\n",
            "# TYPE toolenv_search_requests_total counter\n",
        ]
        lines += [f'toolenv_search_requests_total{{status="{s}"}} {n}\n' for s, n in sorted(self.statuses.items())]
        for name, kind, text, number in numbers:
            lines.append(f"# HELP toolenv_search_{name} {text}\n# TYPE toolenv_search_{name} {kind}\n")
            lines.append(f"toolenv_search_{name} {number:.10g}\n")
        return lines
