"""Sandboxes for others: a server with SandboxFusion's interface, ``POST /run_code``.

It runs Python programs, and nothing else. ``GET /health`` and ``GET /v1/ping`` say that it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from toolenv.errors import SandboxError
from toolenv.extras import require
from toolenv.sandbox.arguments import seconds, whole
from toolenv.sandbox.base import MAX_TIMEOUT_S, ExecJob, Limits, Sandbox
from toolenv.sandbox.choosing import make_pool
from toolenv.sandbox.fusion import answer_of, failure_of
from toolenv.sandbox.pool import SandboxPool
from toolenv.sandbox.settings import PoolSettings, sandbox_of
from toolenv.serving import Door, Refused, address_of, json_body, json_response, listen, run

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MAX_BODY_BYTES = 2 << 20
MAX_OUTPUT_BYTES = 1 << 20
DEFAULT_TIMEOUT_S = 10.0
STOP_S = 5


def serve(
    sandbox: str | Sandbox = "auto",
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: str | None = None,
    workers: int = 2,
    limits: Limits | Mapping[str, int] | None = None,
    image: str | None = None,
    runtime: str | None = None,
    max_waiting: int = 256,
    max_timeout_s: float = 60.0,
) -> None:
    """Serve until Ctrl-C, then close the sandbox.

    Args:
        sandbox: As for ``make_sandbox``, or a sandbox or pool of your own.
        host: Address to listen at. Beyond loopback a token is required.
        port: Port to listen at; 0: any free one.
        token: What clients have to send as a bearer token; ``None`` or empty: nothing, but they have to call the server
            ``localhost`` or by an address of loopback, which no page in a browser can.
        workers: How many programs run at once, where ``sandbox`` is a name or is no pool.
        limits: As for ``make_sandbox``, like the next two: for a name alone.
        image: Docker image.
        runtime: Runtime of the Docker engine.
        max_waiting: How many requests may wait for a worker; a further one is told to come again (429).
        max_timeout_s: Longest limit that a program may have, in seconds.

    Raises:
        ConfigError: No token beyond loopback, an address that cannot be listened at, or a sandbox or settings that
            ``make_sandbox`` would refuse.
        MissingExtraError: The extra ``serve`` is not installed.
        SandboxError: The sandbox does not work here.
    """
    require("uvicorn", "serve")
    door = Door(token)
    door.check_host(
        host,
        "run programs in its sandbox",
        "toolenv sandbox serve takes it from the environment variable TOOLENV_SANDBOX_TOKEN",
    )
    source = sandbox_of(sandbox, workers=workers, limits=limits, image=image, runtime=runtime)
    listening = listen(host, port)
    try:
        sandbox = make_pool(source) if isinstance(source, PoolSettings) else source
        if isinstance(sandbox, SandboxPool):
            workers = sandbox.workers
            sandbox.start()
        app = make_app(sandbox, token=token, workers=workers, max_waiting=max_waiting, max_timeout_s=max_timeout_s)
        kind = sandbox.kind if isinstance(sandbox, SandboxPool) else type(sandbox).__name__
        url = f"{address_of(host, listening)}/run_code"
        print(f"serving Python programs at {url} (sandbox: {kind}, workers: {workers})", flush=True)
        run(app, listening, stop_s=STOP_S)
    except KeyboardInterrupt:
        pass  # how a server is stopped
    finally:
        listening.close()
        if not isinstance(sandbox, str):
            sandbox.close()


def make_app(
    sandbox: Sandbox,
    *,
    token: str | None = None,
    workers: int = 2,
    max_waiting: int = 256,
    max_timeout_s: float = 60.0,
) -> Starlette:
    """The server as an ASGI application, for a server of your own; it closes the sandbox in the end.

    Args:
        sandbox: Runs the programs.
        token: As for ``serve``, like all that follows.
        workers: How many programs run at once.
        max_waiting: How many requests may wait.
        max_timeout_s: Longest limit that a program may have, in seconds.

    Raises:
        ConfigError: Numbers that make no sense.
        MissingExtraError: The extra ``serve`` is not installed.
    """
    workers = whole("workers", workers, like="2")
    max_waiting = whole("max_waiting", max_waiting, like="256", least=0)
    max_timeout_s = seconds("max_timeout_s", max_timeout_s, most=MAX_TIMEOUT_S)
    return _Service(sandbox, Door(token), workers, max_waiting, max_timeout_s).app()


class _Service:
    """The state of a server: its sandbox, and how many requests are in it."""

    def __init__(self, sandbox: Sandbox, door: Door, workers: int, max_waiting: int, max_timeout_s: float) -> None:
        self.sandbox, self.door, self.max_timeout_s = sandbox, door, max_timeout_s
        self.room = workers + max_waiting
        self.inside = 0
        self.turns = asyncio.Semaphore(workers)
        self.threads = ThreadPoolExecutor(workers, thread_name_prefix="toolenv-serve")

    def app(self) -> Starlette:
        route = require("starlette.routing", "serve").Route
        routes = [
            route("/run_code", self.run_code, methods=["POST"]),
            route("/health", self.health),
            route("/v1/ping", self.ping),
        ]
        app: Starlette = require("starlette.applications", "serve").Starlette(routes=routes, lifespan=self.lifespan)
        return app

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Close the sandbox in the end: after it a signal may end the process where it is."""
        yield
        at_once = {"now": True} if isinstance(self.sandbox, SandboxPool) else {}
        await asyncio.to_thread(partial(self.sandbox.close, **at_once))

    async def health(self, request: Request) -> Response:
        return json_response({"status": "ok"})

    async def ping(self, request: Request) -> Response:
        return json_response("pong")

    async def run_code(self, request: Request) -> Response:
        """Run a program; what the server refuses is said with a status of its own, and ``detail``."""
        try:
            self.door.check(request)
            if self.inside >= self.room:
                raise Refused(429, f"{self.inside} requests are here already; come again in a second", retry_after_s=1)
            self.inside += 1
            try:
                job = job_of(await json_body(request, MAX_BODY_BYTES), self.max_timeout_s)
                return json_response(await self._answer(request, job))
            finally:
                self.inside -= 1
        except Refused as refused:
            return refused.answer()

    async def _answer(self, request: Request, job: ExecJob) -> dict[str, Any]:
        async with self.turns:
            if await request.is_disconnected():  # nobody waits for it any more, and others do
                raise Refused(499, "the client has left")
            try:
                running = asyncio.get_running_loop().run_in_executor(self.threads, job.run_by, self.sandbox.exec)
                return answer_of(await running)
            except SandboxError as error:
                return failure_of(str(error))


def job_of(asked: Any, max_timeout_s: float) -> ExecJob:
    """The program that a request asks to run.

    ``compile_timeout`` and ``memory_limit_MB`` are not looked at: Python is not compiled, and a worker has its limit of
    memory from its start.
    """
    if not isinstance(asked, dict) or not isinstance(asked.get("code"), str):
        raise Refused(422, "the body must be an object with the program as text in 'code'")
    if asked.get("language") != "python":
        raise Refused(422, f"language must be 'python': this server runs nothing else; got {asked.get('language')!r}")
    for field in ("files", "fetch_files", "args"):
        if asked.get(field):
            raise Refused(422, f"this server takes no {field!r}; put what the program needs into it or into 'stdin'")
    timeout_s = asked.get("run_timeout", DEFAULT_TIMEOUT_S)
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not is_number or not 0 < timeout_s <= max_timeout_s:
        raise Refused(422, f"run_timeout must be above 0 and at most {max_timeout_s:g} seconds; got {timeout_s!r}")
    stdin = asked.get("stdin") or ""
    if not isinstance(stdin, str):
        raise Refused(422, f"stdin must be a text or null; got {type(stdin).__name__}")
    return ExecJob(asked["code"], float(timeout_s), MAX_OUTPUT_BYTES, stdin)
