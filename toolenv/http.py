"""Requests to servers, from many threads at once: what passes is tried again, and waits have an end."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import InvalidHeader
from urllib3.response import BaseHTTPResponse
from urllib3.util.retry import Retry

from toolenv.errors import ConfigError, InfrastructureError

CONNECT_TIMEOUT_S = 10.0
MAX_RETRY_AFTER_S = 60.0
PASSING = frozenset({408, 409, 425, 429, *range(500, 600)})
"""Too busy, or broken: the server's fault, and gone after a while."""


def server_address(url: str, *, name: str = "a server's address", like: str = "http://localhost:8000") -> str:
    """An address without a slash at its end.

    Args:
        url: The address.
        name: What to call it in the error.
        like: What one looks like.

    Raises:
        ConfigError: It is not one.

    Example:
        >>> server_address("http://localhost:8000/")
        'http://localhost:8000'
    """
    if not re.match(r"https?://[^/]", url):
        raise ConfigError(f"{name} must be like {like} or https://...; got {url!r}")
    return url.rstrip("/")


def patience(retries: int, backoff_s: float) -> Retry:
    """Tries again, whatever the method, where nobody answers and where a server says what passes.

    It waits as long as the server's ``Retry-After`` asks, though at most ``MAX_RETRY_AFTER_S``.

    Args:
        retries: How often.
        backoff_s: Wait before the second retry, where the server asks for none; it doubles with each further one.

    Example:
        >>> patience(4, 0.5).total
        4
    """
    return _Patience(
        retries,
        other=0,
        allowed_methods=None,
        status_forcelist=PASSING,
        backoff_factor=backoff_s,
        raise_on_status=False,
    )


class PoliteSession(requests.Session):
    """A session that many threads may use: it keeps no cookies and follows no redirects.

    A fork of the process has connections of its own: two that read from one would take each other's answers.

    Proxies are those of the environment (``HTTPS_PROXY``, ``NO_PROXY``).

    Args:
        retry: What is tried again, such as ``patience(4, 0.5)``.
        connections: Most connections that are kept open.
        api_key_env: Name of the environment variable that holds the key, sent as a bearer token; ``None``: no key.

    Raises:
        ConfigError: An environment variable that is not set.

    Example:
        >>> with PoliteSession(patience(4, 0.5), connections=8) as session:
        ...     session.retry.total
        4
    """

    def __init__(self, retry: Retry, *, connections: int, api_key_env: str | None = None) -> None:
        super().__init__()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # all that threads would change
        key = key_in(api_key_env)
        self.auth = None if key is None else Bearer(key)
        self._connections = connections
        self._connect(retry)

    def _connect(self, retry: Retry) -> None:
        self._pid = os.getpid()
        self._adapter = HTTPAdapter(pool_maxsize=self._connections, max_retries=retry)
        for scheme in ("http://", "https://"):
            self.mount(scheme, self._adapter)

    @property
    def retry(self) -> Retry:
        """What is tried again, from the next request on."""
        return self._adapter.max_retries

    @retry.setter
    def retry(self, retry: Retry) -> None:
        self._adapter.max_retries = retry

    def ask(self, method: str, url: str, body: Any = None, *, timeout_s: float) -> requests.Response:
        """Send JSON, and take what comes, whatever its status.

        Args:
            method: ``"GET"`` or ``"POST"``.
            url: Whole address.
            body: The JSON; ``None``: none.
            timeout_s: Longest wait for an answer, each time that it is asked for; once it begins, as long again until
                all of it is there.

        Raises:
            requests.RequestException: Nothing came, as often as it was tried, or not all of it.
        """
        if os.getpid() != self._pid:
            self._connect(self.retry)
        timeout = (CONNECT_TIMEOUT_S, timeout_s)
        with self.request(method, url, json=body, timeout=timeout, allow_redirects=False, stream=True) as response:
            # requests' own timeout is for each piece of an answer, so that one that drips in has no end.
            raw: Any = response.raw
            raw.stream = partial(_stream, raw, timeout_s)
            _ = response.content
        return response


class Bearer(AuthBase):
    """A bearer token, or none; as a session's ``auth``, so that no ``.netrc`` takes its place.

    Args:
        token: The token; ``None``: requests are sent without one.

    Example:
        >>> Bearer("key")(requests.Request("GET", "http://localhost").prepare()).headers["Authorization"]
        'Bearer key'
    """

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the token into a request's header."""
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Endpoint:
    """A server's address: JSON goes there and comes back, or the error says what the server said.

    Args:
        url: Address, such as ``"http://localhost:8000"``.
        error: What is raised where the server fails.
        api_key_env: As for ``PoliteSession``, like ``connections``.
        timeout_s: Longest wait for an answer, each time that it is asked for.
        retries: How often a request that may be repeated is tried again.
        backoff_s: As for ``patience``.
        connections: Most connections that are kept open.

    Raises:
        ConfigError: No address, numbers out of range, or an environment variable that is not set.

    Example:
        >>> from toolenv.errors import SamplerError
        >>> Endpoint("http://localhost:8000/", error=SamplerError).url
        'http://localhost:8000'
    """

    def __init__(
        self,
        url: str,
        *,
        error: type[InfrastructureError],
        api_key_env: str | None = None,
        timeout_s: float = 600.0,
        retries: int = 4,
        backoff_s: float = 0.5,
        connections: int = 64,
    ) -> None:
        if timeout_s <= 0 or retries < 0:
            raise ConfigError(f"timeout_s must be above 0 and retries at least 0; got {timeout_s!r} and {retries!r}")
        self.url = server_address(url)
        self.error = error
        self.timeout_s = timeout_s
        self.retries = retries
        self._patient, self._once = (
            PoliteSession(retry, connections=connections, api_key_env=api_key_env)
            for retry in (patience(retries, backoff_s), Retry(0))
        )

    def get(self, path: str) -> Any:
        """What stands at a path; see ``post``."""
        return self._ask("GET", path, None, repeat=True, timeout_s=None)

    def post(
        self, path: str, body: dict[str, Any] | None = None, *, repeat: bool = False, timeout_s: float | None = None
    ) -> Any:
        """Send JSON.

        Args:
            path: Path after the address.
            body: The JSON.
            repeat: Whether it does no harm to send it again where no answer came.
            timeout_s: Longest wait for this answer; ``None``: as long as for any other.

        Returns:
            The answer's JSON; ``None`` where it is empty or none.

        Raises:
            InfrastructureError: Of the kind ``error``: nobody answers, or the server refuses; with what it said.
        """
        return self._ask("POST", path, body, repeat=repeat, timeout_s=timeout_s)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._patient.close()
        self._once.close()

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, *, repeat: bool, timeout_s: float | None
    ) -> Any:
        session, tries = (self._patient, self.retries + 1) if repeat else (self._once, 1)
        try:
            response = session.ask(method, f"{self.url}{path}", body, timeout_s=timeout_s or self.timeout_s)
        except requests.RequestException as error:
            raise self.error(f"no answer from {self.url}{path} after {tries} tries: {error}") from error
        if not 200 <= response.status_code < 300:
            raise self.error(
                f"{self.url}{path} answered with status {response.status_code}{_hint(response.status_code)}; "
                f"it says: {' '.join(response.text.split())[:500]!r}"
            )
        try:
            return response.json()
        except ValueError:  # some answers are a plain word, or nothing
            return None


def _stream(raw: BaseHTTPResponse, timeout_s: float, amt: int, decode_content: bool) -> Iterator[bytes]:
    """A body as it comes, within its time; in the place of urllib3's ``stream``, which waits for whole chunks."""
    end = time.monotonic() + timeout_s
    while piece := raw.read1(amt, decode_content=decode_content):
        yield piece
        if time.monotonic() > end:
            raise requests.ReadTimeout(f"the answer was not whole within {timeout_s:g} s of its beginning")


def _hint(status: int) -> str:
    if status in (401, 403):
        return " (is the key right?)"
    return " (is the address right, and all that the request names?)" if status == 404 else ""


class _Patience(Retry):
    """Waits as long as the server asks, within reason; a Retry-After that cannot be read is none."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        try:
            seconds = super().get_retry_after(response)
        except InvalidHeader:
            return None
        return None if seconds is None else min(seconds, MAX_RETRY_AFTER_S)


def key_in(variable: str | None) -> str | None:
    """The key in an environment variable; ``None`` where none is named.

    Raises:
        ConfigError: It is not set.

    Example:
        >>> key_in(None) is None
        True
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"the environment variable {variable!r} is not set; it should hold the server's key")
    return key
