"""Servers for tests: real ones, on the loopback interface, that a function plays."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    """One request that a server got.

    Attributes:
        number: Position among all requests, from 0.
        body: The JSON that was sent, ``None`` where there was none.
    """

    number: int
    path: str
    headers: Any
    body: Any


# Status, headers, body.
Response = tuple[int, dict[str, str], str]


@dataclass
class Served:
    url: str
    requests: list[Request]
    stop: Callable[[], None]


@contextmanager
def serve(play: Callable[[Request], Response]) -> Iterator[Served]:
    """A server; ``play`` says what a request is answered. With a proxy around, its tests want ``no_proxy``."""
    requests: list[Request] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            with lock:
                request = Request(len(requests), self.path, self.headers, body)
                requests.append(request)
            status, headers, text = play(request)
            try:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())
            except ConnectionError:  # the client waits no longer
                pass

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    try:
        yield Served(f"http://127.0.0.1:{server.server_port}", requests, stop)
    finally:
        if thread.is_alive():
            stop()
