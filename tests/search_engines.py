"""A stand-in for Elasticsearch and OpenSearch: answers the official clients in the documented shapes, over loopback.

It knows the five calls that a retriever makes. Scores are shared words, or (1 + cosine) / 2. It is no real engine: what
only one of those can show, such as its analysis of words, is not tested.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from toolenv.retrieval.bm25 import words


class Engine:
    """Indexes and their documents.

    Attributes:
        spoil: Changes what a search answers, for tests of failures.
        down: Answers every call with this status.
        calls: What was asked: method, path and lines of JSON.
    """

    def __init__(self) -> None:
        self.url = ""
        self.indexes: dict[str, dict[str, Any]] = {}
        self.documents: dict[str, dict[str, Any]] = {}
        self.spoil: dict[str, Any] = {}
        self.down = 0
        self.calls: list[tuple[str, str, list[Any]]] = []

    def answer(self, method: str, path: str, lines: list[Any]) -> tuple[int, Any]:
        """Status and JSON."""
        self.calls.append((method, path, lines))
        if self.down:
            return self.down, {"error": {"type": "overloaded", "reason": "come again"}, "status": self.down}
        match method, path.strip("/").split("/"):
            case "HEAD", [name]:
                return (200 if name in self.indexes else 404), None
            case "PUT", [name]:
                self.indexes[name], self.documents[name] = lines[0], {}
                return 200, {"acknowledged": True, "shards_acknowledged": True, "index": name}
            case _, [name, "_mget"]:
                known = self.documents[name]
                return 200, {"docs": [{"_index": name, "_id": id, "found": id in known} for id in lines[0]["ids"]]}
            case _, [name, "_bulk"]:
                return 200, {"errors": False, "took": 1, "items": self._create(name, lines)}
            case _, [*_, "_msearch"]:
                pairs = zip(lines[::2], lines[1::2], strict=True)
                return 200, {"took": 1, "responses": [self._search(head["index"], body) for head, body in pairs]}
            case _, [_, "_refresh"]:
                return 200, {"_shards": {"total": 1, "successful": 1, "failed": 0}}
        raise AssertionError((method, path))

    def _create(self, name: str, lines: list[Any]) -> list[Any]:
        items = []
        for head, document in zip(lines[::2], lines[1::2], strict=True):
            id = head["create"]["_id"]
            status = 409 if id in self.documents[name] else 400 if "bad" in id else 201
            item: dict[str, Any] = {"_index": name, "_id": id, "status": status}
            if status == 201:
                self.documents[name][id] = document
            else:
                item["error"] = {"type": "refused", "reason": "for the test"}
            items.append({"create": item})
        return items

    def _search(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if name not in self.documents:
            return {"error": {"type": "index_not_found_exception", "reason": f"no such index [{name}]"}, "status": 404}
        scores = {id: self._score(document, body) for id, document in self.documents[name].items()}
        # Ties in the order that documents came in, as in an engine.
        best = sorted((id for id, score in scores.items() if score > 0), key=lambda id: -scores[id])[: body["size"]]
        hits = [
            {
                "_index": name,
                "_id": id,
                "_score": scores[id],
                "_source": {f: self.documents[name][id][f] for f in body["_source"] if f in self.documents[name][id]},
            }
            for id in best
        ]
        shards = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
        found = {"total": {"value": len(hits), "relation": "eq"}, "max_score": None, "hits": hits}
        return {"took": 1, "timed_out": False, "_shards": shards, "hits": found, "status": 200, **self.spoil}

    def _score(self, document: dict[str, Any], body: dict[str, Any]) -> float:
        query = body.get("query", {})
        if "multi_match" in query:
            asked = query["multi_match"]
            assert asked["type"] == "cross_fields"
            there = {word for field in asked["fields"] for word in words(document.get(field, ""))}
            return float(len(there & set(words(asked["query"]))))
        if "knn" in body:  # Elasticsearch
            vector, field = body["knn"]["query_vector"], body["knn"]["field"]
            assert body["size"] <= body["knn"]["k"] <= body["knn"]["num_candidates"]
        else:  # OpenSearch
            ((field, asked),) = query["knn"].items()
            vector = asked["vector"]
        return (1.0 + float(np.dot(document[field], vector))) / 2


@contextmanager
def engine() -> Iterator[Engine]:
    """A stand-in that listens."""
    played = Engine()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            path, lines = self.path.partition("?")[0], [json.loads(line) for line in body.splitlines()]
            status, answer = played.answer(self.command, path, lines)
            text = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("X-Elastic-Product", "Elasticsearch")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    played.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield played
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
