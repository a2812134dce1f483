"""Search on a server: ours, or one that speaks Search-R1's interface."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import requests
from urllib3.util.retry import Retry

from toolenv.errors import ConfigError, RetrieverError
from toolenv.http import MAX_RETRY_AFTER_S, PASSING, PoliteSession, server_address
from toolenv.retrieval.base import Hit, Passage, check_k, clean_text
from toolenv.retrieval.search_r1 import IDENTITY_HEADER, Found, result_of, scored

HEALTH_S = 5.0
MAX_BACKOFF_S = 8.0
MAX_QUERY_CHARS = 100_000
"""As much of a query as our servers take; the rest is not sent."""
FULL = 429
NOT_TAKEN = frozenset({400, 413, 422})


class ServerFullError(RetrieverError):
    """The server has too much to do.

    Args:
        message: What it said.
        retry_after_s: After how many seconds it may be asked again.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s)
        self.message, self.retry_after_s = message, retry_after_s

    def __str__(self) -> str:
        return self.message


class RequestRefusedError(RetrieverError):
    """The server does not take the request as it is; another one of its kind would not, either."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says that it searches; empty where it does not say, as Search-R1's own does not.

    Attributes:
        passages: How many passages.
        scores: What a score is, as a ``ScoredRetriever`` says it.
        encoder: Name of the encoder.
        identity: Names the index: two servers with the same one search the same.
        not_ready: Why it cannot search now; empty where it can.
    """

    passages: int | None = None
    scores: str = ""
    encoder: str = ""
    identity: str = ""
    not_ready: str = ""


class RemoteRetriever:
    """Search on a server with ``POST /retrieve``: ``toolenv index serve``, or Search-R1's own.

    A server that is busy (429), broken (5xx) or does not answer is asked again, after the time that it names. What it
    answers is looked at: what is not of the interface is a ``RetrieverError``, as is what comes too late, and no search
    is ever taken to have found nothing for it. Of our own servers it is noticed where one has another index than at
    first, as after a restart: that is an error, for what was found before would not belong to what is found now.

    Of a query at most 100,000 characters are sent. Threads may share it. A fork has connections of its own, and so has
    what it is unpickled to.

    Args:
        url: Address of the server, with or without ``/retrieve``.
        api_key_env: Name of the environment variable that holds the server's token; ``None``: no token.
        timeout_s: Longest wait for the answer to one request, each time that it is sent.
        retries: How often a request is sent again.
        deadline_s: A request is not sent again after so long.
        backoff_s: Wait before it is sent again, where the server asks for none; it doubles each time.
        max_batch: Most queries of a request; more are asked in several.
        waits: Whether a server that is busy or broken is waited for. ``False``: that is an error at once, and only a
            request that got no answer is sent again.
        scores: What the server's scores are, where it does not say itself: ``"inner product"`` for Search-R1's.

    Raises:
        ConfigError: No address, numbers out of range, or an environment variable that is not set.

    Example:
        >>> RemoteRetriever("http://localhost:8000/retrieve")
        RemoteRetriever('http://localhost:8000')
    """

    def __init__(
        self,
        url: str,
        *,
        api_key_env: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 4,
        deadline_s: float = 180.0,
        backoff_s: float = 0.5,
        max_batch: int = 512,
        waits: bool = True,
        scores: str = "",
    ) -> None:
        if timeout_s <= 0 or deadline_s <= 0 or retries < 0 or backoff_s < 0 or max_batch < 1:
            raise ConfigError(
                "timeout_s and deadline_s must be above 0, retries and backoff_s at least 0 and max_batch at least 1; "
                f"got {timeout_s!r}, {deadline_s!r}, {retries!r}, {backoff_s!r} and {max_batch!r}"
            )
        self.url = server_address(url, name="url").removesuffix("/retrieve")
        self.api_key_env = api_key_env
        self.timeout_s, self.retries, self.deadline_s, self.backoff_s = timeout_s, retries, deadline_s, backoff_s
        self.max_batch, self.waits = max_batch, waits
        self._scores = scores
        self._info: ServerInfo | None = None
        self._identity = ""  # of the first answer that names one
        self._sessions: dict[int, PoliteSession] = {}  # by process
        self._session()  # a key that is not set is told now

    @property
    def scores(self) -> str:
        """What a score is; ``""`` where neither the server nor ``scores`` says, or no server answers."""
        if self._scores:
            return self._scores
        try:
            return (self._info or self.info()).scores
        except RetrieverError:
            return ""

    @property
    def identity(self) -> str:
        """What names the index of the server; ``""`` where it does not say.

        Raises:
            RetrieverError: The server does not answer.
        """
        return self._identity or (self._info or self.info()).identity

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Find passages; see ``Retriever``."""
        return [[one.passage for one in found] for found in self._find(queries, k)]

    def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Find passages with their scores; see ``ScoredRetriever``.

        Raises:
            RetrieverError: The server does not answer, not as it should, or without scores.
        """
        hits = [scored(found) for found in self._find(queries, k)]
        if any(one is None for one in hits):
            raise RetrieverError(f"{self.url}/retrieve gives no scores; use search")
        return [one for one in hits if one is not None]

    def info(self, timeout_s: float = HEALTH_S) -> ServerInfo:
        """Ask the server what it searches: ``GET /health``.

        Args:
            timeout_s: Longest wait.

        Raises:
            RetrieverError: It does not answer, or with an error, or wants a token.
        """
        url = f"{self.url}/health"
        try:
            response = self._session().ask("GET", url, timeout_s=timeout_s)
        except requests.RequestException as error:
            raise RetrieverError(f"no answer from {url}: {error}") from error
        said = _json(response)
        said = said if isinstance(said, dict) else {}
        if "refused" in said:
            raise RetrieverError(f"{url} does not say what it searches: {said['refused']}")
        said = said if "identity" in said else {}  # Search-R1's server has no /health
        if not said and response.status_code in PASSING:
            raise _refused(url, response, 1)
        passages = said.get("passages")
        scores, encoder, identity = (
            said[name] if isinstance(said.get(name), str) else "" for name in ("scores", "encoder", "identity")
        )
        not_ready = str(said.get("detail", "it does not say why")) if response.status_code in PASSING else ""
        info = ServerInfo(passages if isinstance(passages, int) else None, scores, encoder, identity, not_ready)
        self._info = info
        self._identity = self._identity or identity
        return info

    def close(self) -> None:
        """Close the connections that are kept; a further search opens new ones."""
        session = self._sessions.pop(os.getpid(), None)
        if session is not None:
            session.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteRetriever:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sessions": {}}

    def __repr__(self) -> str:
        return f"RemoteRetriever({self.url!r})"

    def _find(self, queries: Sequence[str], k: int) -> list[list[Found]]:
        check_k(k)
        batches = [queries[start : start + self.max_batch] for start in range(0, len(queries), self.max_batch)]
        return [found for batch in batches for found in self._ask(batch, k)]

    def _ask(self, queries: Sequence[str], k: int) -> list[list[Found]]:
        url = f"{self.url}/retrieve"
        asked = [clean_text(query, MAX_QUERY_CHARS) for query in queries]
        response = self._post(url, {"queries": asked, "topk": k, "return_scores": True})
        self._check_identity(unquote(response.headers.get(IDENTITY_HEADER, "")))
        try:
            return result_of(_json(response), len(queries), k)
        except ValueError as error:
            raise RetrieverError(f"{url} answered with what is no result of a search: {error}") from error

    def _check_identity(self, identity: str) -> None:
        """Refuse an answer from another index than the first one was from."""
        self._identity = self._identity or identity
        if identity and identity != self._identity:
            raise RetrieverError(
                f"{self.url} has another index now: {identity}, not {self._identity}, which it had at first; "
                "serve that one again, or make a new RemoteRetriever"
            )

    def _post(self, url: str, body: dict[str, Any]) -> requests.Response:
        """The answer with status 200, asked for until the retries or the time are used up."""
        end = time.monotonic() + self.deadline_s
        wait_s = self.backoff_s
        tries = 0
        while True:
            tries += 1
            timeout_s = max(0.1, min(self.timeout_s, end - time.monotonic()))
            retry_after_s: float | None = None
            error: RetrieverError
            try:
                response = self._session().ask("POST", url, body, timeout_s=timeout_s)
            except requests.RequestException as nothing:
                error = RetrieverError(f"no answer from {url} after {tries} tries: {nothing}")
            else:
                if response.status_code == 200:
                    return response
                error = _refused(url, response, tries)
                if response.status_code not in PASSING or not self.waits:
                    raise error
                retry_after_s = _retry_after_s(response)
            pause_s = wait_s if retry_after_s is None else min(retry_after_s, MAX_RETRY_AFTER_S)
            if tries > self.retries or time.monotonic() + pause_s >= end:
                raise error
            time.sleep(pause_s)
            wait_s = min(2 * wait_s, MAX_BACKOFF_S)

    def _session(self) -> PoliteSession:
        session = self._sessions.get(os.getpid())
        if session is None:
            # It does not try again itself: a deadline is kept here.
            session = PoliteSession(Retry(0), connections=64, api_key_env=self.api_key_env)
            session = self._sessions.setdefault(os.getpid(), session)
        return session


def _json(response: requests.Response) -> Any:
    """The JSON of a response; its text, cut, where it is none."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        return response.text[:200]


def _retry_after_s(response: requests.Response) -> float | None:
    """How long the server asks to wait; ``None`` where it does not, or not in seconds."""
    asked = response.headers.get("Retry-After", "").strip()
    return float(asked) if asked.isdecimal() else None


def _refused(url: str, response: requests.Response, tries: int) -> RetrieverError:
    hints = {
        401: " (check the token)",
        403: " (check the token)",
        404: " (check the address: there is no /retrieve)",
        413: " (lower max_batch)",
    }
    hint = hints.get(response.status_code, "")
    after = f" after {tries} tries" if tries > 1 else ""
    message = (
        f"{url} answered with status {response.status_code}{after}{hint}; "
        f"it says: {' '.join(response.text.split())[:500]!r}"
    )
    if response.status_code == FULL:
        return ServerFullError(message, min(_retry_after_s(response) or 0.0, MAX_RETRY_AFTER_S))
    return RequestRefusedError(message) if response.status_code in NOT_TAKEN else RetrieverError(message)
