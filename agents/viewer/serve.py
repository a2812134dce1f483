"""Serve a page on this machine alone, for those who would rather have an address than a file."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
_NAMES = {HOST, "localhost"}


class _Handler(SimpleHTTPRequestHandler):
    """Gives out the files of a folder, to who asked for this machine by name, and says nothing of it."""

    def send_head(self) -> Any:
        """Answer a request for a file; a page of the network that took a name for this machine gets nothing."""
        if self.headers.get("Host", "").rpartition(":")[0] not in _NAMES:
            self.send_error(HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 and localhost alone")
            return None
        return super().send_head()

    def end_headers(self) -> None:
        """Keep nothing: the page may be written anew."""
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the folder's files at a port of this machine; 0: any free one.

    Raises:
        OSError: The port is taken.
    """
    return ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(folder)))
