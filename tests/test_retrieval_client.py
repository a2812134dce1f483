"""Search on a server: what is asked, what is retried, and what is never taken for a result."""

from __future__ import annotations

import copy
import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from retrieval_fakes import CORPUS, QUERIES
from search_servers import LONG_S, DotRetriever
from servers import Request, Response, serve

from toolenv.envs.search_qa import SearchQAEnv
from toolenv.episode import Task
from toolenv.errors import ConfigError, InfrastructureError, RetrieverError
from toolenv.messages import ToolCall
from toolenv.retrieval.base import Passage, Retriever, ScoredRetriever
from toolenv.retrieval.client import RemoteRetriever, ServerFullError, ServerInfo
from toolenv.retrieval.search_r1 import document_of

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("no_proxy")]

LOCAL = DotRetriever(CORPUS)


def result(request: Request, *, with_scores: bool = True) -> Response:
    """What Search-R1's server answers."""
    hits = LOCAL.search_scored(request.body["queries"], request.body["topk"])
    if with_scores:
        found = [[{"document": document_of(hit.passage), "score": hit.score} for hit in one] for one in hits]
        return 200, {}, json.dumps({"result": found})
    return 200, {}, json.dumps({"result": [[document_of(hit.passage) for hit in one] for one in hits]})


def remote(url: str, **settings: Any) -> RemoteRetriever:
    return RemoteRetriever(url, **{"backoff_s": 0.0, **settings})


# What is asked, and read ---------------------------------------------------------------------------------------------


def test_a_request_is_search_r1s_and_answers_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_KEY", "open sesame\n")
    with serve(result) as served:
        for url in (served.url, f"{served.url}/", f"{served.url}/retrieve"):
            assert remote(url).search(QUERIES, 3) == LOCAL.search(QUERIES, 3)
        assert remote(served.url, api_key_env="SEARCH_KEY").search_scored(["gas"], 2) == LOCAL.search_scored(["gas"], 2)
        first, last = served.requests[0], served.requests[-1]
    assert (first.path, first.body) == ("/retrieve", {"queries": QUERIES, "topk": 3, "return_scores": True})
    assert (first.headers["Authorization"], last.headers["Authorization"]) == (None, "Bearer open sesame")


def test_many_queries_go_in_several_requests() -> None:
    with serve(result) as served:
        assert remote(served.url, max_batch=3).search(QUERIES, 2) == LOCAL.search(QUERIES, 2)
        assert [request.body["queries"] for request in served.requests] == [QUERIES[:3], QUERIES[3:6], QUERIES[6:]]
        assert remote(served.url).search([], 2) == []
        assert len(served.requests) == 3


def test_a_server_without_scores() -> None:
    with serve(lambda request: result(request, with_scores=False)) as served:
        assert remote(served.url).search(QUERIES, 3) == LOCAL.search(QUERIES, 3)
        with pytest.raises(RetrieverError, match="gives no scores; use search"):
            remote(served.url).search_scored(QUERIES, 3)


def test_what_the_server_says_of_itself() -> None:
    facts = {"status": "ok", "passages": 10, "scores": "bm25", "encoder": None, "identity": "i"}
    with serve(lambda request: (200, {}, json.dumps(facts))) as served:
        assert remote(served.url).info() == ServerInfo(10, "bm25", "", "i")
        one = remote(served.url)
        assert (one.scores, one.identity) == ("bm25", "i")
    assert one.scores == "bm25"  # is not asked again
    assert remote(served.url).scores == ""
    with pytest.raises(RetrieverError, match="no answer"):
        _ = remote(served.url).identity
    with serve(lambda request: (404, {}, '{"detail": "Not Found"}')) as search_r1:
        assert remote(search_r1.url).info() == ServerInfo()
        assert remote(search_r1.url, scores="inner product").scores == "inner product"
    unready = {**facts, "status": "not ready", "detail": "loading"}
    with serve(lambda request: (503, {}, json.dumps(unready))) as starting:
        assert remote(starting.url).info() == ServerInfo(10, "bm25", "", "i", not_ready="loading")
    with (
        serve(lambda request: (503, {}, '{"detail": "loading"}')) as starting,
        pytest.raises(RetrieverError, match="loading"),
    ):
        remote(starting.url).info()


def test_it_stands_for_any_retriever() -> None:
    with serve(result) as served:
        one = remote(served.url)
        assert isinstance(one, Retriever)
        assert isinstance(one, ScoredRetriever)
        assert copy.deepcopy(one) is one
        assert repr(one) == f"RemoteRetriever('{served.url}')"
        one.search(["x"], 1)
        other = pickle.loads(pickle.dumps(one))
        assert other.search(QUERIES, 2) == one.search(QUERIES, 2)
        one.close()
        assert one.search(["gas"], 1) == LOCAL.search(["gas"], 1)
        with pytest.raises(ConfigError, match="k must be at least 1"):
            one.search(["x"], 0)


def test_bad_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEARCH_KEY", raising=False)
    for settings, part in (
        ({"url": "localhost:8000"}, "'localhost:8000'"),
        ({"url": "http://localhost", "retries": -1}, "retries"),
        ({"url": "http://localhost", "max_batch": 0}, "max_batch"),
        ({"url": "http://localhost", "api_key_env": "SEARCH_KEY"}, "'SEARCH_KEY' is not set"),
    ):
        with pytest.raises(ConfigError, match=part):
            RemoteRetriever(**settings)  # type: ignore[arg-type]


# What fails ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_passes_is_asked_again(status: int) -> None:
    with serve(lambda request: result(request) if request.number == 2 else (status, {}, "busy")) as served:
        assert remote(served.url).search(["gas"], 2) == LOCAL.search(["gas"], 2)
        assert len(served.requests) == 3


def test_it_waits_as_the_server_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("toolenv.retrieval.client.time.sleep", waits.append)
    asked = ["7", "900", "soon", ""]

    def play(request: Request) -> Response:
        return (429, {"Retry-After": asked[request.number]}, "") if request.number < len(asked) else result(request)

    with serve(play) as served:
        assert RemoteRetriever(served.url).search(["gas"], 1) == LOCAL.search(["gas"], 1)
    assert waits == [7.0, 60.0, 2.0, 4.0]  # where it does not say, .5 seconds that doubled twice


def test_a_client_that_does_not_wait_hands_on_what_the_server_says() -> None:
    with serve(lambda request: (429, {"Retry-After": "7"}, "full")) as served:
        with pytest.raises(ServerFullError, match=r"429.*full") as full:
            remote(served.url, waits=False).search(["x"], 1)
        assert len(served.requests) == 1
    assert full.value.retry_after_s == 7.0
    again = pickle.loads(pickle.dumps(full.value))
    assert (str(again), again.retry_after_s) == (str(full.value), 7.0)


def test_an_index_that_is_swapped_under_a_live_server_is_noticed() -> None:
    """Else what a cache holds, or what another shard found, would be mixed with what the new index finds."""
    names = ["one", "one", "two", "one"]

    def play(request: Request) -> Response:
        status, _, text = result(request)
        return status, {"X-Index-Identity": names[request.number]}, text

    with serve(play) as served:
        one = remote(served.url)
        assert one.search(["gas"], 2) == LOCAL.search(["gas"], 2)
        assert pickle.loads(pickle.dumps(one)).search(["gas"], 2) == LOCAL.search(["gas"], 2)
        with pytest.raises(RetrieverError, match=r"has another index now: two, not one.*make a new RemoteRetriever"):
            pickle.loads(pickle.dumps(one)).search(["gas"], 2)
        assert one.identity == "one"
        assert one.search(["gas"], 2) == LOCAL.search(["gas"], 2)


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    with serve(lambda request: (429, {"Retry-After": "50"}, "full")) as served:
        with pytest.raises(RetrieverError, match=r"429.*full"):
            remote(served.url, deadline_s=20.0).search(["x"], 1)
        assert len(served.requests) == 1


def entries(*scores: Any) -> str:
    documents = [{"id": str(i), "contents": "x\ny"} for i in range(len(scores))]
    found = [{"document": document, "score": score} for document, score in zip(documents, scores, strict=True)]
    return json.dumps({"result": [found]})


@pytest.mark.parametrize(
    ("answer", "asked", "part"),
    [
        ((503, "the disk is gone"), 3, "status 503 after 3 tries.*the disk is gone"),
        ((401, "who?"), 1, "check the token"),
        ((404, "what?"), 1, "there is no /retrieve"),
        ((422, "bad"), 1, "status 422"),
        ((200, "<html>"), 1, "no list of lists.*<html>"),
        ((200, ""), 1, "no result of a search"),
        ((200, "[" * 5000), 1, "no result of a search"),
        ((200, "[]"), 1, "no list of lists"),
        ((200, '{"result": null}'), 1, "no list of lists"),
        ((200, '{"result": [[], []]}'), 1, "2 lists in 'result' for 1 queries"),
        ((200, '{"result": []}'), 1, "0 lists in 'result' for 1 queries"),
        ((200, '{"result": [["x"]]}'), 1, "no object: 'x'"),
        ((200, '{"result": [[{}]]}'), 1, "no text in 'contents'"),
        ((200, '{"result": [[{"document": "x", "score": 1}]]}'), 1, "a document is no object"),
        ((200, '{"result": [[{"id": [], "contents": "x"}]]}'), 1, "neither text nor a number"),
        ((200, entries(0.5, float("nan"))), 1, "no finite number: nan"),
        ((200, entries(float("inf"))), 1, "no finite number: inf"),
        ((200, entries("high")), 1, "no finite number: 'high'"),
        ((200, entries(True)), 1, "no finite number: True"),
    ],
)
def test_what_is_no_result_is_an_error(answer: tuple[int, str], asked: int, part: str) -> None:
    with serve(lambda request: (answer[0], {}, answer[1])) as served:
        with pytest.raises(RetrieverError, match=part):
            remote(served.url, retries=2).search(["x"], 3)
        assert len(served.requests) == asked


def test_nobody_answers() -> None:
    with serve(result) as served:
        url = served.url
    with pytest.raises(RetrieverError, match=r"no answer from .*/retrieve after 2 tries"):
        remote(url, retries=1).search(["x"], 1)


@contextmanager
def raw_server(play: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does as it likes with each connection, once a request has come."""
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(LONG_S)
                connection.recv(65536)
                play(connection)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


HALF = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"result": ['
TASKS = [Task(id="t", prompt="Which gas?", answers=("Neon",))]


def drip(connection: socket.socket) -> None:
    """Never pauses for long, and is never done."""
    connection.sendall(HALF)
    with suppress(OSError):
        for _ in range(80):
            time.sleep(0.05)
            connection.sendall(b" ")


def broken_servers() -> dict[str, tuple[Callable[[socket.socket], None], str]]:
    return {
        "it hangs": (lambda connection: time.sleep(0.4), "no answer|timed out"),
        "it dies in the request": (lambda connection: None, "no answer"),
        "it dies in the answer": (lambda connection: connection.sendall(HALF), "no answer"),
        "it hangs in the answer": (lambda connection: (connection.sendall(HALF), time.sleep(0.4))[0], "no answer"),
        "it drips": (drip, "no answer.*not whole within 0.2 s"),
        "it is no web server": (lambda connection: connection.sendall(b"\x00\xff garbage\r\n\r\n"), "no answer"),
        "it answers garbage": (
            lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ngarbage"),
            "no result of a search: .*garbage",
        ),
    }


@pytest.mark.parametrize("broken", broken_servers())
def test_an_episode_is_never_scored_for_a_broken_server(broken: str) -> None:
    play, part = broken_servers()[broken]
    with raw_server(play) as url:
        retriever = remote(url, retries=1, timeout_s=0.2, deadline_s=5.0)
        with pytest.raises(RetrieverError, match=part):
            retriever.search(["x"], 1)
        env = SearchQAEnv(TASKS, retriever=remote(url, retries=0, timeout_s=0.2))
        env.reset(seed=0)
        with pytest.raises(InfrastructureError):
            env.step(env.format.write_call(ToolCall("search", {"query": "red lamps"})))
        assert env.episode.turns == ()  # nothing was recorded, so nothing can be scored


def test_an_episode_goes_on_when_the_server_comes_back() -> None:
    with serve(lambda request: (503, {}, "") if request.number < 2 else result(request)) as served:
        env = SearchQAEnv(TASKS, retriever=remote(served.url, retries=0))
        env.reset(seed=0)
        observation = env.step(env.format.write_call(ToolCall("search", {"query": QUERIES[0]})))[0]
        best: Passage = LOCAL.search([QUERIES[0]], 1)[0][0]
        assert best.text in observation[-1].content
        assert env.episode.turns[0].results[0].data["passages"][0] == best.id
