"""Embeddings of a server: what it gives is checked, and what it fails at is a RetrieverError."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.servers import Request, Response, serve
from toolenv import ConfigError, RetrieverError
from toolenv.retrieval.encoders import Encoder, ServerEncoder, make_encoder

pytestmark = pytest.mark.core

HARD = ["", " ", "a" * 1_000_000, "\x00", "\ud800\udfff", "".join(map(chr, range(32))), "😀" * 10_000, "\u200b", "é"]


def vector_of(text: str) -> list[float]:
    return [float(len(text)), float(sum(map(ord, text)) % 97), 2.0]


def answer(request: Request) -> dict[str, Any]:
    """Vectors, the last one first: the index says which is which."""
    texts = request.body["input"]
    assert all(texts), "servers refuse empty texts"
    data = [{"object": "embedding", "index": n, "embedding": vector_of(text)} for n, text in enumerate(texts)]
    return {"object": "list", "data": data[::-1], "model": request.body["model"]}


def play(request: Request) -> Response:
    return 200, {}, json.dumps(answer(request))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@contextmanager
def encoder_of(play: Callable[[Request], Response], **settings: Any) -> Iterator[tuple[ServerEncoder, list[Request]]]:
    with serve(play) as served:
        yield ServerEncoder(f"{served.url}/v1", "m", **{"retries": 0, "timeout_s": 5.0, **settings}), served.requests


def units(texts: list[str]) -> Any:
    vectors = np.array([vector_of(text) for text in texts])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_vectors_come_in_the_order_of_the_texts() -> None:
    texts = [f"text {'x' * number}" for number in range(23)]
    with encoder_of(play, batch_size=5, concurrency=3) as (encoder, requests):
        assert isinstance(encoder, Encoder)
        np.testing.assert_allclose(encoder.encode(texts, "passage"), units(texts), atol=1e-6)
        assert encoder.dimension == 3
        sent = [request.body["input"] for request in requests]
        assert sorted(len(batch) for batch in sent) == [1, 3, 5, 5, 5, 5]  # the dimension is asked for once
        assert {(request.path, request.body["model"]) for request in requests} == {("/v1/embeddings", "m")}
        assert encoder.encode([]).shape == (0, 3)


def test_no_more_requests_at_a_time_than_allowed() -> None:
    running, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(3, timeout=5.0)

    def slow(request: Request) -> Response:
        nonlocal running, most
        if request.body["input"] == ["dimension"]:
            return play(request)
        with lock:
            running += 1
            most = max(most, running)
        together.wait()  # fails unless three come at once
        with lock:
            running -= 1
        return play(request)

    with encoder_of(slow, batch_size=1, concurrency=3) as (encoder, _):
        encoder.encode([f"{number}" for number in range(9)], "passage")
    assert most == 3


def test_queries_are_kept_and_prefixed() -> None:
    with serve(play) as served:
        encoder = ServerEncoder(f"{served.url}/v1/", "intfloat/e5-base-v2")
        first = encoder.encode(["a", "b", "a"])
        np.testing.assert_array_equal(encoder.encode(["b", "a"]), first[[1, 0]])
        assert [r.body["input"] for r in served.requests] == [["query: a", "query: b"], ["dimension"]]
        encoder.encode(["a"], "passage")
        assert served.requests[-1].body["input"] == ["passage: a"]


def test_any_text_has_a_unit_vector() -> None:
    with encoder_of(play, retries=0) as (encoder, requests):
        vectors = encoder.encode(HARD, "passage")
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
        assert max(len(text) for text in requests[0].body["input"]) == 2_000


def test_a_key_is_sent_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLENV_EMBEDDINGS_KEY", "secret")
    with serve(play) as served:
        encoder = make_encoder(f"{served.url}/v1#m")
        encoder.encode(["a"])
        assert served.requests[0].headers["Authorization"] == "Bearer secret"
        assert "secret" not in f"{encoder} {encoder.spec} {encoder.name}"
    monkeypatch.delenv("TOOLENV_EMBEDDINGS_KEY")
    with serve(play) as served:
        make_encoder(f"{served.url}/v1#m").encode(["a"])
        assert served.requests[0].headers["Authorization"] is None
    with pytest.raises(ConfigError, match="'ABSENT' is not set"):
        ServerEncoder("http://localhost/v1", "m", api_key_env="ABSENT")


def test_names_and_bad_settings() -> None:
    def made(host: str = "a", model: str = "m", **settings: Any) -> ServerEncoder:
        return ServerEncoder(f"http://{host}/v1", model, **settings)

    assert made().name == made("b").name  # another server with the same model
    assert len({made().name, made(model="n").name, made(query_prefix="q").name, made(max_chars=9).name}) == 4
    assert (made().spec, made(query_prefix="q").spec, made(max_chars=9).spec) == ("http://a/v1#m", "", "")
    with pytest.raises(ConfigError, match="name the model of the server"):
        make_encoder("http://localhost/v1")
    with pytest.raises(ConfigError, match="must be like"):
        make_encoder("http://#m")
    with pytest.raises(ConfigError, match="at least 1; got 2000, 0 and 8"):
        made(batch_size=0)


def _changed(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Request], Response]:
    def play(request: Request) -> Response:
        body = answer(request)
        body["data"] = change(body["data"])
        return 200, {}, json.dumps(body)

    return play


def _with(embedding: Any) -> Callable[[Request], Response]:
    return _changed(lambda data: [{**data[0], "embedding": embedding}, *data[1:]])


GARBAGE: dict[str, tuple[Callable[[Request], Response], str]] = {
    "no JSON": (lambda request: (200, {}, "<html>welcome</html>"), "no embeddings"),
    "empty": (lambda request: (200, {}, ""), "no embeddings"),
    "another object": (lambda request: (200, {}, '{"error": "no such model"}'), "no such model"),
    "a list": (lambda request: (200, {}, "[]"), "no embeddings"),
    "one too few": (_changed(lambda data: data[1:]), "1 vectors for 2 texts"),
    "one too many": (_changed(lambda data: [*data, data[0]]), "3 vectors for 2 texts"),
    "an index twice": (_changed(lambda data: [data[0], data[0]]), "the indexes"),
    "an index that is a word": (_changed(lambda data: [{**d, "index": "x"} for d in data]), "the indexes"),
    "no index": (_changed(lambda data: [{"embedding": d["embedding"]} for d in data]), "KeyError"),
    "no dict": (_changed(lambda data: ["a", "b"]), "TypeError"),
    "null": (_changed(lambda data: None), "TypeError"),
    "shorter": (_with([1.0, 2.0]), "ValueError"),
    "words": (_with(["a", "b", "c"]), "ValueError"),
    "base64": (_with("AAAA"), "ValueError"),
    "nested": (_with([[1.0], [2.0], [3.0]]), "ValueError"),
    "NaN": (_with([1.0, float("nan"), 1.0]), "no number, or of zeros"),
    "infinite": (_with([1.0, float("inf"), 1.0]), "no number, or of zeros"),
    "zeros": (_with([0.0, 0.0, 0.0]), "no number, or of zeros"),
    "null inside": (_with([1.0, None, 1.0]), "no number, or of zeros|TypeError"),
    "no numbers": (_changed(lambda data: [{**d, "embedding": []} for d in data]), "of the shape"),
    "refused": (lambda request: (401, {}, "who are you"), "is the key right"),
    "broken": (lambda request: (500, {}, "out of memory"), "out of memory"),
    "half": (lambda request: (200, {"Content-Length": "9999"}, '{"data": ['), "no answer"),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_a_retriever_error(kind: str) -> None:
    play, message = GARBAGE[kind]
    with encoder_of(play) as (encoder, _):
        for _ in range(2):  # and nothing of it is kept
            with pytest.raises(RetrieverError, match=message):
                encoder.encode(["a", "b"])


def test_a_server_that_hangs_or_is_gone_is_a_retriever_error() -> None:
    release = threading.Event()

    def hang(request: Request) -> Response:
        release.wait(10.0)
        return play(request)

    with serve(hang) as served:
        encoder = ServerEncoder(f"{served.url}/v1", "m", timeout_s=0.2, retries=0)
        with pytest.raises(RetrieverError, match="no answer"):
            encoder.encode(["a"])
        release.set()
    with pytest.raises(RetrieverError, match="no answer"):
        encoder.encode(["a"])


def test_what_passes_is_tried_again() -> None:
    def busy_first(request: Request) -> Response:
        return (503, {"Retry-After": "0"}, "busy") if request.number == 0 else play(request)

    with encoder_of(busy_first, retries=2) as (encoder, requests):
        np.testing.assert_allclose(encoder.encode(["a"]), units(["a"]), atol=1e-6)
        assert len(requests) == 3


def test_a_model_that_changes_its_dimension_is_a_retriever_error() -> None:
    def grow(request: Request) -> Response:
        body = answer(request)
        for item in body["data"]:
            item["embedding"] += [1.0] * request.number
        return 200, {}, json.dumps(body)

    with encoder_of(grow) as (encoder, _):
        assert encoder.dimension == 3
        with pytest.raises(RetrieverError, match="gave vectors of 4 dimensions, and 3 before"):
            encoder.encode(["a"], "passage")
