"""Requests to a real server on the loopback interface: whose key they carry, and when they are sent again."""

from __future__ import annotations

import json
import threading
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


def test_a_connection_is_kept_for_the_next_request() -> None:
    ports = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            ports.append(self.client_address[1])
            self.send_response(200 if len(ports) > 1 else 503)
            if len(ports) % 2:
                self.send_header("Content-Length", "2")
            else:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"17" if len(ports) % 2 else b"1\r\n1\r\n1\r\n7\r\n0\r\n\r\n")

        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        one = Endpoint(f"http://127.0.0.1:{server.server_port}", error=SandboxError, backoff_s=0.0)
        assert [one.get("/") for _ in range(4)] == [17] * 4
        one.close()
        server.shutdown()
        thread.join()
    assert (len(ports), len(set(ports))) == (5, 1)


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
