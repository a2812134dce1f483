"""What our servers have in common: who may ask, what a body may be, where they listen, and how they end."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from toolenv.errors import ConfigError
from toolenv.extras import require

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

READ_S = 30.0
KEEP_S = 75
"""How long an idle connection is kept: longer than clients pause, or they would send into one that is just closed."""


class Refused(Exception):
    """A request that is answered with a status of HTTP's own, and ``{"detail": ...}``.

    Args:
        status: The status.
        detail: What was wrong, and what to do.
        retry_after_s: After how many seconds the client may come again; ``None``: nothing is said of it.
    """

    def __init__(self, status: int, detail: str, *, retry_after_s: int | None = None) -> None:
        self.status, self.detail, self.retry_after_s = status, detail, retry_after_s

    def answer(self) -> Response:
        """The response."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        return json_response({"detail": self.detail}, self.status, headers)


class Door:
    """Who may ask: with a token, who sends it; without one, who calls the server by a name of loopback.

    Args:
        token: The token; ``None`` or blank: none.

    Example:
        >>> Door("secret").token
        'secret'
    """

    def __init__(self, token: str | None) -> None:
        self.token = (token or "").strip() or None  # a header loses the spaces and line ends around it

    def check(self, request: Request) -> None:
        """Let a request in, or refuse it.

        Raises:
            Refused: It has no token or another one; or, without a token, it names the server in a way that a page in a
                browser can.
        """
        if self.token is None:
            host = request.headers.get("host", "localhost")
            if not is_loopback(_name_of(host)):  # a page in a browser whose own name was made to lead here
                raise Refused(403, f"without a token, this server answers to localhost alone, not to {host!r}")
            return
        given = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            raise Refused(401, "send the token of this server: Authorization: Bearer ...")

    def check_host(self, host: str, otherwise: str, remedy: str) -> None:
        """Refuse to listen beyond loopback without a token.

        Args:
            host: Address to listen at.
            otherwise: What anyone could do there.
            remedy: Where the token comes from.

        Raises:
            ConfigError: It is so.
        """
        if self.token is None and not is_loopback(host):
            raise ConfigError(f"a server that listens at {host} needs a token, or anyone may {otherwise}; {remedy}")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, by its name or address.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
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


async def json_body(request: Request, max_bytes: int) -> Any:
    """The JSON that a request sends, which says so in its header: no page of another origin in a browser can.

    Args:
        request: The request.
        max_bytes: Longest body.

    Raises:
        Refused: It is not said to be JSON (415), or is none (422), is too long (413), or does not come (408).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, f"the body must be application/json, not {kind or 'of no type'}")
    body = bytearray()
    try:
        async with asyncio.timeout(READ_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise Refused(413, f"the request is longer than {max_bytes} bytes")
    except TimeoutError:
        raise Refused(408, f"the request did not come within {READ_S:g} s") from None
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise Refused(422, f"the body is no JSON: {error}") from None


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON in ASCII, for what is told may hold what UTF-8 has no bytes for.

    Raises:
        ValueError: It holds a number that JSON has not, such as NaN.
    """
    response: Response = require("starlette.responses", "serve").Response(
        json.dumps(content, allow_nan=False), status, headers, media_type="application/json"
    )
    return response


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: It cannot listen there.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at {host}, port {port}: {error}; choose another --port or --host") from error


def address_of(host: str, listening: socket.socket) -> str:
    """The address of a server that listens, as a client writes it."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}"


def run(app: Starlette, listening: socket.socket, *, stop_s: int) -> None:
    """Serve until Ctrl-C or SIGTERM; what is being answered then is answered, for at most ``stop_s`` seconds.

    Raises:
        KeyboardInterrupt: In the end, where it was Ctrl-C.
    """
    uvicorn = require("uvicorn", "serve")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_S,
        timeout_graceful_shutdown=stop_s,
    )
    uvicorn.Server(config).run(sockets=[listening])
