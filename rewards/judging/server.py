"""A judge behind an OpenAI-compatible server."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from requests.exceptions import ChunkedEncodingError, ContentDecodingError
from urllib3.exceptions import ConnectTimeoutError, ProxyError, SSLError

from rewards.judging.chat import TOO_LONG, Chat
from toolenv.errors import ConfigError, SamplerError
from toolenv.http import PASSING, PoliteSession, patience, server_address


class ChatServer:
    """A model behind ``POST {base_url}/chat/completions``: vLLM, SGLang, llama.cpp, or a service.

    What passes (429 and 5xx, with the server's Retry-After; a timeout; a reply that cannot be read) is tried again, and
    what is left is ``None`` for that chat alone, counted by reason in ``failures``. So is a chat that is too long for
    the model. What does not pass (an address that nobody answers at, a wrong key, a model or a path that is not
    there, a setting that the server refuses) is an error at once. Proxies are those of the environment
    (``HTTPS_PROXY``, ``NO_PROXY``); redirects are not followed.

    Args:
        base_url: Address up to the version, such as ``"http://localhost:8000/v1"``.
        model: Name of the model on the server.
        temperature: Sampling temperature; at 0 the most likely token is taken.
        max_tokens: Most tokens of a reply; leave room for a model that thinks first.
        api_key_env: Name of the environment variable that holds the key, sent as a bearer token; ``None``: no key.
        timeout_s: Longest wait for a reply, each time that a request is tried.
        retries: How often a request is tried again.
        backoff_s: Wait before the second retry; it doubles with each further one.
        max_in_flight: Most requests that the server is given at once.
        extra: Further fields of a request, such as ``response_format``. A field that is ``None`` is left out:
            ``{"seed": None}`` suits a server that takes no seed.

    Attributes:
        failures: How many chats were not answered, by reason.

    Raises:
        ConfigError: Settings that make no sense, or an environment variable that is not set.

    Example:
        >>> ChatServer("http://localhost:8000/v1", "judge").settings
        {'model': 'judge', 'temperature': 0.0, 'max_tokens': 512}
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        temperature: float = 0.0,
        max_tokens: int = 512,
        api_key_env: str | None = None,
        timeout_s: float = 120.0,
        retries: int = 4,
        backoff_s: float = 0.5,
        max_in_flight: int = 8,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        base_url = server_address(base_url, name="base_url", like="http://localhost:8000/v1")
        if max_in_flight < 1 or retries < 0 or timeout_s <= 0:
            raise ConfigError(
                f"max_in_flight must be at least 1, retries at least 0 and timeout_s above 0; "
                f"got {max_in_flight!r}, {retries!r} and {timeout_s!r}"
            )
        refused = sorted({"messages", "n", "stream"} & set(extra or {}))
        if refused:
            raise ConfigError(f"extra cannot hold {refused[0]!r}: a request is one chat, answered by one reply")
        self.url = f"{base_url}/chat/completions"
        self._fields = {"model": model, "temperature": temperature, "max_tokens": max_tokens, **(extra or {})}
        self.settings = {name: value for name, value in self._fields.items() if value is not None}
        self.timeout_s = timeout_s
        self.max_in_flight = max_in_flight
        self.failures: Counter[str] = Counter()
        self._slots = threading.BoundedSemaphore(max_in_flight)
        self._retry = patience(retries, backoff_s)
        # Until the server has answered once, an address that nobody answers at is taken for a wrong one.
        at_first = self._retry.new(connect=0)
        self._session = PoliteSession(at_first, connections=max_in_flight, api_key_env=api_key_env)

    def complete(self, prompts: Sequence[Chat], *, seeds: Sequence[int]) -> list[str | None]:
        """Answer chats, some at once; see ``ChatModel`` and the class."""
        with ThreadPoolExecutor(self.max_in_flight, thread_name_prefix="judge") as pool:
            futures = [pool.submit(self._answer, *asked) for asked in zip(prompts, seeds, strict=True)]
            try:
                answers = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        self.failures.update(problem for _, problem in answers if problem)
        return [reply for reply, _ in answers]

    def _answer(self, prompt: Chat, seed: int) -> tuple[str | None, str]:
        """The reply, or ``None`` and the reason."""
        messages = [{"role": message.role, "content": message.content} for message in prompt]
        fields = {"seed": seed, **self._fields, "messages": messages}
        body = {name: value for name, value in fields.items() if value is not None}
        problem = ""
        with self._slots:
            for _ in range(2):  # the adapter tries again what does not come; what comes broken is asked for once more
                try:
                    response = self._post(body)
                    if 200 <= response.status_code < 300:
                        return _content(response), ""
                    self._check(response)
                    return None, f"status {response.status_code}"
                except (_Unreadable, ChunkedEncodingError, ContentDecodingError):
                    problem = "not a chat completion"
                except requests.RequestException as error:
                    return None, type(error).__name__
        return None, problem

    def _post(self, body: Mapping[str, Any]) -> requests.Response:
        reached = self._session.retry is self._retry
        try:
            response = self._session.ask("POST", self.url, body, timeout_s=self.timeout_s)
        except requests.ConnectionError as error:
            cause = getattr(error.args[0], "reason", None) if error.args else None
            if not reached and isinstance(cause, ConnectTimeoutError | ProxyError | SSLError):
                raise SamplerError(f"no judge can be reached at {self.url}: {cause}; check base_url") from error
            raise
        self._session.retry = self._retry
        return response

    def _check(self, response: requests.Response) -> None:
        """Raise where every other request would be refused as well."""
        status, words = response.status_code, " ".join(response.text.split())[:300]
        if status in PASSING or status == 413 or (status in (400, 422) and TOO_LONG.search(words)):
            return
        hint = {401: "check the key (api_key_env)", 403: "check the key (api_key_env)", 404: "check base_url and model"}
        raise SamplerError(
            f"the judge at {self.url} refused the request with status {status}; "
            f"{hint.get(status, 'check the settings')}. It says: {words!r}"
        )


class _Unreadable(Exception):
    """A reply with a good status that is no chat completion."""


def _content(response: requests.Response) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _Unreadable from error
    if content is None:  # all tokens went into thinking, or it declined: an answer, though not in form
        return ""
    if not isinstance(content, str):
        raise _Unreadable
    return content
