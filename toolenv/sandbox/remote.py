"""Programs on a server that speaks SandboxFusion's interface."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from toolenv.errors import ConfigError, SandboxError
from toolenv.http import PASSING, Bearer, PoliteSession, patience, server_address
from toolenv.sandbox.base import MAX_OUTPUT_BYTES, ExecJob, ExecResult
from toolenv.sandbox.fusion import request_of, result_of

HINTS = {
    401: "check the token",
    403: "check the token",
    404: "check the address: there is no /run_code",
    413: "the program is longer than the server takes",
    422: "the server does not take such a request",
}


class RemoteSandbox:
    """Programs on a server with ``POST /run_code``: SandboxFusion, or ``toolenv sandbox serve``.

    Such a server runs a script. So a result has no value: a program shows what it prints, and nothing else. Isolation,
    and whether a program starts from a fresh state, are the server's matter.

    A server that is busy (429), broken (5xx) or does not answer is asked again, after the time that it names but within
    a minute; what is left is a ``SandboxError``. A program may thus run twice. Threads may share the sandbox; a fork
    has connections of its own, and so has what it is unpickled to.

    Args:
        url: Address of the server, with or without ``/run_code``.
        token: Sent as a bearer token; ``None``: no token.
        memory_bytes: Memory limit that the server is asked for; ``None``: the server's own. ``toolenv sandbox serve``
            does not look at it.
        wait_s: How long an answer may take beyond the program's own limit, as it waits for its turn on the server.
        retries: How often a request is sent again.
        backoff_s: Wait before the second retry, where the server asks for none; it doubles with each further one.
        max_in_flight: How many programs of a list the server is given at once.

    Raises:
        ConfigError: No address, a token that no header can hold, or numbers that make no sense.

    Example:
        >>> RemoteSandbox("http://localhost:8080/run_code")
        RemoteSandbox('http://localhost:8080')
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        memory_bytes: int | None = None,
        wait_s: float = 60.0,
        retries: int = 2,
        backoff_s: float = 0.5,
        max_in_flight: int = 8,
    ) -> None:
        if wait_s <= 0 or retries < 0 or max_in_flight < 1:
            raise ConfigError(
                f"wait_s must be above 0, retries at least 0 and max_in_flight at least 1; "
                f"got {wait_s!r}, {retries!r} and {max_in_flight!r}"
            )
        if token is not None and not _fits_a_header(token):
            raise ConfigError(
                "token must be a line of ASCII without spaces around it, or None; strip what was read from a file"
            )
        self.url = server_address(url).removesuffix("/run_code")
        self.memory_bytes = memory_bytes
        self.wait_s = wait_s
        self.retries = retries
        self.backoff_s = backoff_s
        self.max_in_flight = max_in_flight
        self._auth = Bearer(token)
        self._closed = False
        self._sessions: dict[int, PoliteSession] = {}  # by process

    def exec(
        self, code: str, *, timeout_s: float, max_output_bytes: int = MAX_OUTPUT_BYTES, stdin: str = ""
    ) -> ExecResult:
        """Run a program; see ``Sandbox.exec``.

        Raises:
            ConfigError: Arguments that make no sense, see ``ExecJob``.
            SandboxError: The server does not answer, refuses, or has failed.
        """
        job = ExecJob(code, timeout_s, max_output_bytes, stdin)
        timeout_s, max_output_bytes = job.timeout_s, job.max_output_bytes
        if self._closed:
            raise SandboxError(f"{self!r} is closed")
        try:
            code.encode()
        except UnicodeEncodeError as error:  # no file can hold it, and so no script
            return ExecResult("", "", "error", 1, 0.0, error=f"SyntaxError: the program is no text: {error}")
        body = request_of(code, stdin.encode(errors="replace").decode(), timeout_s, self.memory_bytes)
        failure = SandboxError("")
        for _ in range(2):  # requests are sent again below this; what is answered badly is asked for once more
            response = self._post(body, timeout_s + self.wait_s)
            try:
                return result_of(self._json(response), timeout_s, max_output_bytes)
            except SandboxError as error:
                failure = error
        raise failure

    def run(self, jobs: Sequence[ExecJob]) -> list[ExecResult | SandboxError]:
        """Run programs, several at once; see ``SandboxPool.run``."""
        if len(jobs) < 2:
            return [self._run_one(job) for job in jobs]
        threads = ThreadPoolExecutor(min(self.max_in_flight, len(jobs)), thread_name_prefix="toolenv-remote")
        try:
            return list(threads.map(self._run_one, jobs))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Close the connections."""
        self._closed = True
        session = self._sessions.pop(os.getpid(), None)
        if session is not None:
            session.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteSandbox:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sessions": {}}

    def __repr__(self) -> str:
        return f"RemoteSandbox({self.url!r})"

    def _run_one(self, job: ExecJob) -> ExecResult | SandboxError:
        try:
            return job.run_by(self.exec)
        except SandboxError as error:
            return error

    def _session(self) -> PoliteSession:
        session = self._sessions.get(os.getpid())
        if session is None:
            session = PoliteSession(patience(self.retries, self.backoff_s), connections=self.max_in_flight)
            session.auth = self._auth
            session = self._sessions.setdefault(os.getpid(), session)
        return session

    def _post(self, body: dict[str, Any], timeout_s: float) -> requests.Response:
        """The answer; where there is none, nothing is won by asking again."""
        url = f"{self.url}/run_code"
        try:
            response = self._session().ask("POST", url, body, timeout_s=timeout_s)
        except requests.RequestException as error:
            raise SandboxError(f"no answer from {url} after {self.retries + 1} tries: {error}") from error
        if response.status_code != 200:
            hint = HINTS.get(response.status_code, "")
            passing = f" after {self.retries + 1} tries" if response.status_code in PASSING else ""
            raise SandboxError(
                f"{url} answered with status {response.status_code}{passing}{f' ({hint})' if hint else ''}; "
                f"it says: {' '.join(response.text.split())[:500]!r}"
            )
        return response

    def _json(self, response: requests.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise SandboxError(f"{self.url}/run_code answered with what is no JSON: {response.text[:200]!r}") from error


def _fits_a_header(token: object) -> bool:
    return isinstance(token, str) and token.isascii() and token.isprintable() and token == token.strip() != ""
