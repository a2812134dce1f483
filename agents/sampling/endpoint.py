"""JSON over HTTP with a language model's server: tries again what passes, and says what the server said."""

from __future__ import annotations

import os
import re
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from toolenv.errors import ConfigError, SamplerError

CONNECT_TIMEOUT_S = 10.0
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Too busy, or broken for a while."""


class Endpoint:
    """A server's address, for many threads at once.

    Proxies are those of the environment (``HTTPS_PROXY``, ``NO_PROXY``); redirects are not followed.

    Args:
        url: Address, such as ``"http://localhost:8000"``.
        api_key_env: Name of the environment variable that holds the key, sent as a bearer token; ``None``: no key.
        timeout_s: Longest wait for an answer, each time that it is asked for.
        retries: How often a request that may be repeated is tried again.
        backoff_s: Wait before the second retry; it doubles with each further one.
        connections: Most connections that are kept open.

    Raises:
        ConfigError: No address, numbers out of range, or an environment variable that is not set.

    Example:
        >>> Endpoint("http://localhost:8000/").url
        'http://localhost:8000'
    """

    def __init__(
        self,
        url: str,
        *,
        api_key_env: str | None = None,
        timeout_s: float = 600.0,
        retries: int = 4,
        backoff_s: float = 0.5,
        connections: int = 64,
    ) -> None:
        if not re.match(r"https?://[^/]", url):
            raise ConfigError(f"a server's address must be like http://localhost:8000 or https://...; got {url!r}")
        if timeout_s <= 0 or retries < 0:
            raise ConfigError(f"timeout_s must be above 0 and retries at least 0; got {timeout_s!r} and {retries!r}")
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self.retries = retries
        patience = Retry(
            retries,
            other=0,
            redirect=0,
            allowed_methods=None,
            status_forcelist=PASSING,
            backoff_factor=backoff_s,
            raise_on_status=False,
        )
        headers = {} if api_key_env is None else {"Authorization": f"Bearer {_key(api_key_env)}"}
        self._patient = _session(patience, connections, headers)
        self._once = _session(Retry(0, raise_on_status=False), connections, headers)

    def get(self, path: str) -> Any:
        """What stands at a path; see ``post``."""
        return self._ask("GET", path, None, repeat=True)

    def post(self, path: str, body: dict[str, Any] | None = None, *, repeat: bool = False) -> Any:
        """Send JSON.

        Args:
            path: Path after the address.
            body: The JSON.
            repeat: Whether it does no harm to send it again where no answer came.

        Returns:
            The answer's JSON; ``None`` where it is empty or none.

        Raises:
            SamplerError: Nobody answers, or the server refuses; with what it said.
        """
        return self._ask("POST", path, body, repeat=repeat)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, *, repeat: bool) -> Any:
        session, tries = (self._patient, self.retries + 1) if repeat else (self._once, 1)
        try:
            response = session.request(
                method,
                f"{self.url}{path}",
                json=body,
                timeout=(CONNECT_TIMEOUT_S, self.timeout_s),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise SamplerError(f"no answer from {self.url}{path} after {tries} tries: {error}") from error
        if not 200 <= response.status_code < 300:
            raise SamplerError(
                f"{self.url}{path} answered with status {response.status_code}{_hint(response.status_code)}; "
                f"it says: {' '.join(response.text.split())[:500]!r}"
            )
        try:
            return response.json()
        except ValueError:  # some answers are a plain word, or nothing
            return None


def _hint(status: int) -> str:
    if status in (401, 403):
        return " (is the key right?)"
    return " (is the address right, and the model's name?)" if status == 404 else ""


def _session(retry: Retry, connections: int, headers: dict[str, str]) -> requests.Session:
    session = requests.Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # all that threads would change
    session.headers.update(headers)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=connections, max_retries=retry))
    return session


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"the environment variable {variable!r} is not set; it should hold the server's key")
    return key
