"""Sandboxes for others: a server with SandboxFusion's interface, ``POST /run_code``.

It runs Python programs, and nothing else. ``GET /health`` and ``GET /v1/ping`` say that it is there.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from toolenv.errors import ConfigError, SandboxError
from toolenv.extras import require
from toolenv.sandbox.arguments import seconds, whole
from toolenv.sandbox.base import MAX_TIMEOUT_S, ExecJob, Limits, Sandbox
from toolenv.sandbox.choosing import make_pool
from toolenv.sandbox.fusion import answer_of, failure_of
from toolenv.sandbox.pool import SandboxPool
from toolenv.sandbox.settings import PoolSettings, sandbox_of

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MAX_BODY_BYTES = 2 << 20
MAX_OUTPUT_BYTES = 1 << 20
DEFAULT_TIMEOUT_S = 10.0
READ_S = 30.0
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
    uvicorn = require("uvicorn", "serve")
    token = (token or "").strip()  # a header loses the spaces and line ends around it
    if not token and not _is_loopback(host):
        raise ConfigError(
            f"a sandbox that listens at {host} needs a token, or anyone may run programs in it; "
            "toolenv sandbox serve takes it from the environment variable TOOLENV_SANDBOX_TOKEN"
        )
    source = sandbox_of(sandbox, workers=workers, limits=limits, image=image, runtime=runtime)
    listening = _listen(host, port)
    try:
        sandbox = make_pool(source) if isinstance(source, PoolSettings) else source
        if isinstance(sandbox, SandboxPool):
            workers = sandbox.workers
            sandbox.start()
        app = make_app(sandbox, token=token, workers=workers, max_waiting=max_waiting, max_timeout_s=max_timeout_s)
        kind = sandbox.kind if isinstance(sandbox, SandboxPool) else type(sandbox).__name__
        address = f"[{host}]" if ":" in host else host
        url = f"http://{address}:{listening.getsockname()[1]}/run_code"
        print(f"serving Python programs at {url} (sandbox: {kind}, workers: {workers})", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=STOP_S)
        uvicorn.Server(config).run(sockets=[listening])
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
    return _Service(sandbox, (token or "").strip() or None, workers, max_waiting, max_timeout_s).app()


class _Refused(Exception):
    """A request that is answered with a status of HTTP's own."""

    def __init__(self, status: int, detail: str) -> None:
        self.status, self.detail = status, detail


class _Service:
    """The state of a server: its sandbox, and how many requests are in it."""

    def __init__(
        self, sandbox: Sandbox, token: str | None, workers: int, max_waiting: int, max_timeout_s: float
    ) -> None:
        self.sandbox, self.max_timeout_s = sandbox, max_timeout_s
        self.token = None if token is None else f"Bearer {token}".encode()
        self.room = workers + max_waiting
        self.inside = 0
        self.turns = asyncio.Semaphore(workers)
        self.threads = ThreadPoolExecutor(workers, thread_name_prefix="toolenv-serve")
        self.responses = require("starlette.responses", "serve")

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
        return self._json({"status": "ok"})

    async def ping(self, request: Request) -> Response:
        return self._json("pong")

    async def run_code(self, request: Request) -> Response:
        """Run a program; what the server refuses is said with a status of its own, and ``detail``."""
        try:
            self._check_sender(request)
            if self.inside >= self.room:
                raise _Refused(429, f"{self.inside} requests are here already; come again in a second")
            self.inside += 1
            try:
                job = job_of(await _body(request), self.max_timeout_s)
                return self._json(await self._answer(request, job))
            finally:
                self.inside -= 1
        except _Refused as refused:
            headers = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(refused.status)
            return self._json({"detail": refused.detail}, refused.status, headers)

    async def _answer(self, request: Request, job: ExecJob) -> dict[str, Any]:
        async with self.turns:
            if await request.is_disconnected():  # nobody waits for it any more, and others do
                raise _Refused(499, "the client has left")
            try:
                running = asyncio.get_running_loop().run_in_executor(self.threads, job.run_by, self.sandbox.exec)
                return answer_of(await running)
            except SandboxError as error:
                return failure_of(str(error))

    def _check_sender(self, request: Request) -> None:
        if self.token is None:
            host = request.headers.get("host", "localhost")
            if not _is_loopback(_name_of(host)):  # a page in a browser whose own name was made to lead here
                raise _Refused(403, f"without a token, this server answers to localhost alone, not to {host!r}")
            return
        given = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, self.token):
            raise _Refused(401, "send the token of this server: Authorization: Bearer ...")

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        # ASCII, for a program may print what UTF-8 has no bytes for.
        response: Response = self.responses.Response(
            json.dumps(content), status, headers, media_type="application/json"
        )
        return response


async def _body(request: Request) -> bytes:
    """The body, which is JSON by its header: no page in a browser can send that to a server of another origin."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _Refused(415, f"the body must be application/json, not {kind or 'of no type'}")
    body = bytearray()
    try:
        async with asyncio.timeout(READ_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise _Refused(413, f"the request is longer than {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise _Refused(408, f"the request did not come within {READ_S:g} s") from None
    return bytes(body)


def job_of(body: bytes, max_timeout_s: float) -> ExecJob:
    """The program that a request asks to run.

    ``compile_timeout`` and ``memory_limit_MB`` are not looked at: Python is not compiled, and a worker has its limit of
    memory from its start.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _Refused(422, f"the body is no JSON: {error}") from None
    if not isinstance(asked, dict) or not isinstance(asked.get("code"), str):
        raise _Refused(422, "the body must be an object with the program as text in 'code'")
    if asked.get("language") != "python":
        raise _Refused(422, f"language must be 'python': this server runs nothing else; got {asked.get('language')!r}")
    for field in ("files", "fetch_files", "args"):
        if asked.get(field):
            raise _Refused(422, f"this server takes no {field!r}; put what the program needs into it or into 'stdin'")
    timeout_s = asked.get("run_timeout", DEFAULT_TIMEOUT_S)
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not is_number or not 0 < timeout_s <= max_timeout_s:
        raise _Refused(422, f"run_timeout must be above 0 and at most {max_timeout_s:g} seconds; got {timeout_s!r}")
    stdin = asked.get("stdin") or ""
    if not isinstance(stdin, str):
        raise _Refused(422, f"stdin must be a text or null; got {type(stdin).__name__}")
    return ExecJob(asked["code"], float(timeout_s), MAX_OUTPUT_BYTES, stdin)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _name_of(host: str) -> str:
    """A host without its port; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at {host}, port {port}: {error}; choose another --port or --host") from error
