"""Requests to a real server on the loopback interface: whose key they carry, and when they are sent again."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.servers import Request, Response, Served, serve
from toolenv.errors import ConfigError, SandboxError
from toolenv.http import MAX_RETRY_AFTER_S, Endpoint

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("no_proxy")]


def script(*responses: Response):
    """Answers these, one after the other, then what it was sent."""
    return lambda request: (
        responses[request.number] if request.number < len(responses) else (200, {}, json.dumps(request.body))
    )


def endpoint(served: Served, **options) -> Endpoint:
    return Endpoint(served.url, error=SandboxError, **options)


def test_no_netrc_takes_the_place_of_a_key(monkeypatch, tmp_path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("SERVER_KEY", " secret\n")
    with serve(script()) as served:
        endpoint(served).post("/run", {})
        for repeat in (True, False):
            endpoint(served, api_key_env="SERVER_KEY").post("/run", {}, repeat=repeat)
    without, *keyed = [request.headers["Authorization"] for request in served.requests]
    assert without.startswith("Basic ")  # the file is found, then
    assert keyed == ["Bearer secret"] * 2


@pytest.mark.parametrize(
    ("response", "waits"),
    [
        ((429, {"Retry-After": "7"}, ""), [7]),
        ((503, {"Retry-After": "86400"}, ""), [MAX_RETRY_AFTER_S]),
        ((429, {"Retry-After": "soon"}, ""), []),
        ((529, {}, "overloaded"), []),
    ],
)
def test_what_passes_is_tried_again_where_it_may_be_repeated(slept, response, waits) -> None:
    with serve(script(response)) as served:
        assert endpoint(served).post("/run", {"a": 1}, repeat=True) == {"a": 1}
    assert len(served.requests) == 2
    assert [wait for wait in slept if wait] == waits
    with serve(script(response)) as served, pytest.raises(SandboxError, match=f"status {response[0]}"):
        endpoint(served).post("/run", {"a": 1})
    assert len(served.requests) == 1


def test_an_error_says_what_the_server_said(slept) -> None:
    with serve(script((401, {}, "who\nare you?"), (302, {"Location": "/elsewhere"}, ""), (200, {}, "done"))) as served:
        asked = endpoint(served)
        with pytest.raises(
            SandboxError, match=r"/run answered with status 401 \(is the key right\?\); .*'who are you\?'"
        ):
            asked.post("/run", {}, repeat=True)
        with pytest.raises(SandboxError, match="status 302"):
            asked.post("/run", {}, repeat=True)
        assert asked.post("/run", {}) is None  # a word, no JSON
    assert not slept


def test_cookies_are_left_behind() -> None:
    with serve(script((200, {"Set-Cookie": "session=1"}, "{}"))) as served:
        asked = endpoint(served)
        for _ in range(2):
            asked.post("/run", {})
    assert "Cookie" not in served.requests[1].headers


def test_one_answer_may_be_waited_for_less_than_others() -> None:
    done = threading.Event()

    def late(request: Request) -> Response:
        done.wait(30)
        return 200, {}, "{}"

    with serve(late) as served:
        with pytest.raises(SandboxError, match=r"no answer from .*/run after 1 tries"):
            endpoint(served).post("/run", {}, timeout_s=0.2)
        done.set()


@contextmanager
def keeping_server() -> Iterator[tuple[str, list[int]]]:
    """A server that keeps connections, answers 17 (after one 503) in two ways by turns, and notes clients' ports."""
    ports: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            ports.append(self.client_address[1])
            is_whole = len(ports) % 2 == 1
            self.send_response(200 if len(ports) > 1 else 503)
            self.send_header(*(("Content-Length", "2") if is_whole else ("Transfer-Encoding", "chunked")))
            self.end_headers()
            self.wfile.write(b"17" if is_whole else b"1\r\n1\r\n1\r\n7\r\n0\r\n\r\n")

        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", ports
        server.shutdown()
        thread.join()


def test_a_connection_is_kept_for_the_next_request() -> None:
    with keeping_server() as (url, ports):
        one = Endpoint(url, error=SandboxError, backoff_s=0.0)
        assert [one.get("/") for _ in range(4)] == [17] * 4
        one.close()
    assert (len(ports), len(set(ports))) == (5, 1)


def test_a_fork_has_connections_of_its_own() -> None:
    with keeping_server() as (url, ports):
        one = Endpoint(url, error=SandboxError, backoff_s=0.0)
        one.get("/")
        child = os.fork()
        if child == 0:  # nothing of pytest may run here
            os._exit(0 if one.get("/") == 17 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert one.get("/") == 17
        one.close()
    assert len(ports) == 4
    assert ports[0] == ports[1] == ports[3] != ports[2]


def test_what_cannot_be_asked_is_refused(monkeypatch) -> None:
    monkeypatch.delenv("SERVER_KEY", raising=False)
    for url, options, message in [
        ("localhost:8000", {}, "must be like http://localhost:8000 or https"),
        ("http://localhost:8000", {"timeout_s": 0}, "timeout_s must be above 0"),
        ("http://localhost:8000", {"retries": -1}, "retries at least 0"),
        ("http://localhost:8000", {"api_key_env": "SERVER_KEY"}, "'SERVER_KEY' is not set"),
    ]:
        with pytest.raises(ConfigError, match=message):
            Endpoint(url, error=SandboxError, **options)
