"""A search server that knows its answers by heart, so that a search costs what the way to it costs.

Run: ``python search_stub.py answers.json``; it prints its port. It speaks what each of the players asks in:
``/retrieve`` (Search-R1's batch: many queries, a list of passages each), ``/one/retrieve`` (skyrl-gym's: one query, in
a list of one) and ``/msgpack`` (GEM's own server: one query, in MessagePack). Needs the standard library alone.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def packed(value: Any) -> bytes:
    """A value as MessagePack: text, floats, whole numbers below 128, and lists and objects below 16 of them."""
    if isinstance(value, str):
        text = value.encode()
        return b"\xdb" + struct.pack(">I", len(text)) + text
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, Mapping) and len(value) < 16:
        return bytes([0x80 | len(value)]) + b"".join(packed(part) for pair in value.items() for part in pair)
    if isinstance(value, Sequence) and len(value) < 16:
        return bytes([0x90 | len(value)]) + b"".join(packed(part) for part in value)
    raise ValueError(f"no MessagePack is written for {value!r}")


def unpacked(data: bytes) -> Any:
    """What a flat object of MessagePack says: texts, true and false, and small whole numbers."""
    found: list[Any] = []
    place = 1
    while place < len(data):
        tag = data[place]
        size, place = 0, place + 1
        if tag < 0x80:
            found.append(tag)
        elif 0xA0 <= tag < 0xC0 or tag in (0xD9, 0xDA):
            width = {0xD9: 1, 0xDA: 2}.get(tag, 0)
            size = int.from_bytes(data[place : place + width], "big") if width else tag & 0x1F
            found.append(data[place + width : place + width + size].decode())
            place += width + size
        elif tag in (0xC2, 0xC3):
            found.append(tag == 0xC3)
        else:
            raise ValueError(f"no MessagePack is read that has the tag {tag:#x}")
    return dict(zip(found[::2], found[1::2], strict=True))


class Stub(BaseHTTPRequestHandler):
    """Answers from ``answers``: for a query its passages, as Search-R1's server writes them."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: two wait for one another
    disable_nagle_algorithm = True
    answers: Mapping[str, list[dict[str, Any]]] = {}

    def do_POST(self) -> None:
        """Answer a search."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/msgpack":
            answer = packed({"result": self.answers[unpacked(body)["query"]]})
        else:
            asked = json.loads(body)
            queries = asked["queries"] if "queries" in asked else [asked["query"]]
            answer = json.dumps({"result": [self.answers[query] for query in queries]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.wfile.flush()

    def do_GET(self) -> None:
        """Say that there is nothing else, as Search-R1's server does."""
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def main() -> None:
    """Serve."""
    Stub.answers = json.loads(Path(sys.argv[1]).read_text())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
