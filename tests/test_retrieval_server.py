"""The search server: Search-R1's interface to the letter, limits, and its end."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from retrieval_fakes import CORPUS, QUERIES, WordEncoder
from search_servers import LONG_S, DotRetriever, ended, local_server, search_server

from toolenv.errors import ConfigError
from toolenv.retrieval.base import Hit, Passage
from toolenv.retrieval.client import RemoteRetriever
from toolenv.retrieval.index import build_index, open_index
from toolenv.retrieval.search_r1 import Found, document_of, passage_of, result_of
from toolenv.retrieval.serve import make_app, serve

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("no_proxy")]

TOKEN = "open sesame"
LOCAL = DotRetriever(CORPUS)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with local_server(DotRetriever(CORPUS, identity="one"), default_topk=2) as url:
        yield url


def ask(url: str, body: Any, **headers: str) -> requests.Response:
    return requests.post(f"{url}/retrieve", json=body, headers=headers, timeout=LONG_S)


# Search-R1's interface -----------------------------------------------------------------------------------------------


def test_what_search_r1s_trainer_sends_and_reads(server: str) -> None:
    found = ask(server, {"queries": QUERIES[:2], "topk": 3, "return_scores": True}).json()
    assert list(found) == ["result"]
    assert [len(entries) for entries in found["result"]] == [3, 3]
    hits = LOCAL.search_scored(QUERIES[:2], 3)
    assert found["result"] == [
        [
            {
                "document": {"id": hit.passage.id, "contents": f'"{hit.passage.title}"\n{hit.passage.text}'},
                "score": hit.score,
            }
            for hit in one
        ]
        for one in hits
    ]


def test_without_scores_the_documents_stand_alone(server: str) -> None:
    documents = [[document_of(p) for p in found] for found in LOCAL.search(QUERIES, 2)]
    for body in ({"queries": QUERIES}, {"queries": QUERIES, "topk": None, "return_scores": False}):
        assert ask(server, body).json() == {"result": documents}
    assert ask(server, {"queries": []}).json() == {"result": []}


def test_a_blank_query_of_one_model_does_not_fail_the_batch_of_all(server: str) -> None:
    found = ask(server, {"queries": ["", QUERIES[0], " \n"], "topk": 1}).json()["result"]
    assert [len(entries) for entries in found] == [0, 1, 0]
    assert found[1] == [document_of(LOCAL.search([QUERIES[0]], 1)[0][0])]


@pytest.mark.parametrize("query", ["\x00\x01", "\ud800", "x" * 99_999, "💥" * 100])
def test_any_text_is_a_query(server: str, query: str) -> None:
    assert len(ask(server, {"queries": [query], "topk": 4}).json()["result"][0]) == 4


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "'queries'"),
        ([], "'queries'"),
        ({"queries": "gas"}, "'queries'"),
        ({"queries": ["gas", 5]}, r"queries[1] must be a text; got int"),
        ({"queries": [None]}, "queries[0]"),
        ({"queries": ["x"] * 10_001}, "at most 10000; got 10001"),
        ({"queries": ["x" * 100_001]}, "at most 100000 characters"),
        ({"queries": ["x"], "topk": 0}, "topk must be a whole number from 1 to 1000"),
        ({"queries": ["x"], "topk": 1001}, "got 1001"),
        ({"queries": ["x"], "topk": "3"}, "got '3'"),
        ({"queries": ["x"], "topk": True}, "got True"),
        ({"queries": ["x"], "return_scores": 1}, "return_scores"),
    ],
)
def test_what_it_does_not_take_it_says(server: str, body: Any, part: str) -> None:
    response = ask(server, body)
    assert response.status_code == 422
    assert part in response.json()["detail"]


def test_bodies_are_bounded_and_json(server: str) -> None:
    def post(data: bytes, kind: str = "application/json") -> int:
        headers = {"Content-Type": kind}
        return requests.post(f"{server}/retrieve", data=data, headers=headers, timeout=LONG_S).status_code

    assert post(b'{"queries": ["\xff\xfe"]}') == 422
    assert post(b"{") == 422
    assert post(b"[" * 100_000) == 422
    assert post(b" " * (33 << 20)) == 413
    assert post(b'{"queries": []}', "text/plain") == 415
    assert requests.get(f"{server}/retrieve", timeout=LONG_S).status_code == 405


@given(
    title=st.text(st.characters(exclude_characters="\n")),
    text=st.text(st.characters(exclude_categories=())),
    id=st.text(),
)
def test_a_passage_is_written_and_read_back(title: str, text: str, id: str) -> None:
    document = json.loads(json.dumps(document_of(Passage(id, title, text))))
    assert passage_of(document) == Passage(id, title, text)
    assert document["contents"].split("\n")[0] == f'"{title}"'  # what Search-R1's trainer takes for the title


def test_a_title_of_several_lines_is_written_as_one() -> None:
    assert passage_of(document_of(Passage("a", "x\ny", "t"))) == Passage("a", "x y", "t")


def test_documents_of_other_servers() -> None:
    plain = passage_of({"contents": "Lyon\nA city.\nOld."})
    assert (plain.title, plain.text) == ("Lyon", "A city.\nOld.")
    assert plain.id == passage_of({"contents": "Lyon\nA city.\nOld.", "title": "Lyon"}).id
    assert plain.id != passage_of({"contents": "Lyon\nA city."}).id
    assert passage_of({"id": 12, "contents": "no title"}) == Passage("12", "", "no title")


def test_ties_and_surplus_are_put_right() -> None:
    def entry(id: str, score: float) -> dict[str, Any]:
        return {"document": {"id": id, "contents": f'"{id}"\nx'}, "score": score}

    answer = {"result": [[entry("c", 0.5), entry("a", 0.5 + 1e-9), entry("b", 0.9), entry("d", 0.1)]]}
    assert [one.passage.id for one in result_of(answer, 1, 3)[0]] == ["b", "a", "c"]
    bare = {"result": [[{"id": "z", "contents": "x\ny"}, {"id": "a", "contents": "x\ny"}]]}
    assert result_of(bare, 1, 2) == [[Found(Passage("z", "x", "y")), Found(Passage("a", "x", "y"))]]


# Real retrievers ----------------------------------------------------------------------------------------------------


def test_an_answer_names_the_index_it_is_from(server: str) -> None:
    assert ask(server, {"queries": ["gas"]}).headers["X-Index-Identity"] == "one"
    odd = "caf\u00e9 \n2"
    with client_of(DotRetriever(CORPUS, identity=odd)) as client:
        named = client.post("/retrieve", json={"queries": ["gas"]}).headers["X-Index-Identity"]
    assert unquote(named) == odd
    with client_of(LOCAL) as client:
        assert "X-Index-Identity" not in client.post("/retrieve", json={"queries": ["gas"]}).headers


def test_many_clients_get_what_each_asked_for(server: str) -> None:
    remote = RemoteRetriever(server)
    asked = [(QUERIES[i % len(QUERIES)], 1 + i % 4) for i in range(100)]
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda one: remote.search_scored([one[0]], one[1])[0], asked))
    assert found == [LOCAL.search_scored([query], k)[0] for query, k in asked]


@pytest.mark.parametrize("kind", ["bm25", "hybrid"])
def test_an_index_is_served_as_it_answers_here(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    pytest.importorskip("faiss")
    encoder = WordEncoder()
    folder = build_index(CORPUS, tmp_path / "index", retriever=kind, encoder=encoder, progress=False)
    settings = {} if kind == "bm25" else {"encoder": encoder}
    here = open_index(folder, **settings)  # type: ignore[arg-type]
    with local_server(here) as url:
        remote = RemoteRetriever(url)
        assert remote.search_scored(QUERIES, 4) == here.search_scored(QUERIES, 4)
        info = remote.info()
    assert (info.passages, info.scores, info.identity) == (len(CORPUS), here.scores, here.identity)
    assert info.identity
    assert info.encoder == ("" if kind == "bm25" else "words")


# Health, metrics, failures, the end ----------------------------------------------------------------------------------


def test_health_says_what_is_searched(server: str) -> None:
    assert requests.get(f"{server}/health", timeout=LONG_S).json() == {
        "status": "ok",
        "retriever": "DotRetriever",
        "passages": len(CORPUS),
        "scores": "inner product",
        "encoder": "words",
        "identity": "one",
    }


def test_metrics_count(server: str) -> None:
    def metrics() -> dict[str, float]:
        text = requests.get(f"{server}/metrics", timeout=LONG_S).text
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name.removeprefix("toolenv_search_"): float(value) for name, _, value in lines}

    before = metrics()
    ask(server, {"queries": QUERIES})
    ask(server, {"queries": 1})
    after = metrics()
    changed = {name: after[name] - before.get(name, 0) for name in after}
    assert changed['requests_total{status="200"}'] == 1
    assert changed['requests_total{status="422"}'] == 1
    assert (changed["queries_total"], changed["searched_total"], changed["batches_total"]) == (len(QUERIES),) * 2 + (1,)
    assert changed["search_seconds_total"] > 0
    assert (after["queue_depth"], after["errors_total"], after["ready"]) == (0, 0, 1)


class Unscored:
    """Finds, and says no scores."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        return LOCAL.search(queries, k)


def client_of(retriever: Any, **settings: Any) -> Any:
    """A client of the application, in this process."""
    testclient = pytest.importorskip("starlette.testclient", exc_type=ImportError)
    return testclient.TestClient(make_app(retriever, **settings), base_url="http://localhost")


def wait_until_ready(client: Any) -> None:
    deadline = time.monotonic() + LONG_S
    while client.get("/health").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_search_that_fails_is_an_error_and_never_finds_nothing() -> None:
    retriever = DotRetriever(CORPUS)
    with client_of(retriever) as client:
        wait_until_ready(client)
        retriever.failure = "the disk is gone"
        response = client.post("/retrieve", json={"queries": ["x"]})
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert response.json() == {"detail": "the search failed: the disk is gone"}
        unwell = client.get("/health")
        assert (unwell.status_code, unwell.json()["detail"]) == (503, "the disk is gone")
        retriever.failure = ""
        wait_until_ready(client)  # asking for it looks again
        assert client.post("/retrieve", json={"queries": ["x"]}).status_code == 200


def test_a_search_that_breaks_in_an_unforeseen_way_is_told_too() -> None:
    class Broken(DotRetriever):
        def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            if self.failure:
                raise IndexError(self.failure)
            return super().search_scored(queries, k)

    broken = Broken(CORPUS)
    broken.failure = "row 7"
    with client_of(broken) as client:
        deadline = time.monotonic() + LONG_S
        while (told := client.get("/health")).json().get("detail") != "IndexError('row 7')":
            assert time.monotonic() < deadline
        assert told.status_code == 503
        broken.failure = ""
        wait_until_ready(client)


def test_scores_that_nobody_says_or_that_are_no_numbers() -> None:
    with client_of(Unscored()) as client:
        entry = client.post("/retrieve", json={"queries": ["gas"], "topk": 1, "return_scores": True}).json()
        assert entry["result"][0][0]["score"] is None

    class NoNumber(DotRetriever):
        def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            return [[Hit(CORPUS[0], float("nan"))] for _ in queries]

    with client_of(NoNumber(CORPUS)) as client:
        response = client.post("/retrieve", json={"queries": ["gas"], "return_scores": True})
        assert (response.status_code, "'p0'" in response.json()["detail"]) == (503, True)


def test_who_has_no_token_is_told_whether_it_is_ready_and_nothing_else() -> None:
    retriever = DotRetriever(CORPUS, identity="one")
    with client_of(retriever, token=f"{TOKEN}\n") as client:
        for token in ("", "open sesam", f"{TOKEN}!"):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            assert client.post("/retrieve", json={"queries": ["x"]}, headers=headers).status_code == 401
            assert client.get("/metrics", headers=headers).status_code == 401
        headers = {"Authorization": f"Bearer {TOKEN}", "Host": "search.example"}
        assert client.post("/retrieve", json={"queries": ["x"]}, headers=headers).status_code == 200
        wait_until_ready(client)
        refused = "send the token of this server: Authorization: Bearer ..."
        assert client.get("/health").json() == {"status": "ok", "refused": refused}
        assert client.get("/health", headers=headers).json()["identity"] == "one"
        retriever.failure = "cannot read /home/me/index"
        assert client.post("/retrieve", json={"queries": ["x"]}, headers=headers).status_code == 503
        unwell = client.get("/health")
        assert (unwell.status_code, unwell.json()) == (503, {"status": "not ready", "refused": refused})
        assert client.get("/health", headers=headers).json()["detail"] == "cannot read /home/me/index"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", "[bad"])
def test_without_a_token_no_page_in_a_browser_is_answered(host: str) -> None:
    with client_of(DotRetriever(CORPUS, identity="one")) as client:
        wait_until_ready(client)
        headers = {"Host": host}
        assert client.post("/retrieve", json={"queries": ["x"]}, headers=headers).status_code == 403
        assert client.get("/metrics", headers=headers).status_code == 403
        assert set(client.get("/health", headers=headers).json()) == {"status", "refused"}
        form = {"Content-Type": "text/plain"}  # what a page can send without asking
        assert client.post("/retrieve", content='{"queries": ["x"]}', headers=form).status_code == 415


def test_where_it_may_listen() -> None:
    pytest.importorskip("uvicorn")
    for host in ("0.0.0.0", "::", "example.org", ""):
        with pytest.raises(ConfigError, match=r"needs a token.*TOOLENV_INDEX_TOKEN"):
            serve(LOCAL, host=host, port=0)
    with pytest.raises(ConfigError, match="max_batch"):
        serve(LOCAL, port=0, max_batch=0)
    with pytest.raises(ConfigError, match="k must be at least 1"):
        serve(LOCAL, port=0, default_topk=0)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_who_waits_for_an_answer_gets_it_when_the_server_ends(end: signal.Signals) -> None:
    slow = "type('Slow', (DotRetriever,), {'search_scored': lambda s, q, k: (time.sleep(0.2), DotRetriever."
    slow += "search_scored(s, q, k))[1]})(CORPUS)"
    with search_server(slow, max_batch=1) as (process, url), ThreadPoolExecutor(4) as threads:
        RemoteRetriever(url).search(["warm"], 1)
        waiting = [threads.submit(ask, url, {"queries": [query]}) for query in QUERIES[:3]]
        deadline = time.monotonic() + LONG_S
        while "queries_total 4\n" not in requests.get(f"{url}/metrics", timeout=LONG_S).text:  # until they have come
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert ended(process, end) == (0 if end == signal.SIGINT else -signal.SIGTERM)
        assert [one.result(LONG_S).status_code for one in waiting] == [200] * 3
        with pytest.raises(requests.ConnectionError):
            ask(url, {"queries": ["x"]})


def test_a_full_server_says_when_to_come_again() -> None:
    go, entered = threading.Event(), threading.Event()

    class Held(DotRetriever):
        def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            if "held" in queries:
                entered.set()
                assert go.wait(4 * LONG_S)
            return super().search_scored(queries, k)

    with client_of(Held(CORPUS), max_batch=1, max_waiting=1) as client, ThreadPoolExecutor(2) as threads:
        wait_until_ready(client)
        searched = threads.submit(client.post, "/retrieve", json={"queries": ["held"]})
        assert entered.wait(LONG_S)
        waiting = threads.submit(client.post, "/retrieve", json={"queries": ["gas"]})
        deadline = time.monotonic() + LONG_S
        while "queue_depth 1\n" not in client.get("/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        full = client.post("/retrieve", json={"queries": ["gas"]})
        go.set()
        assert (full.status_code, full.headers["Retry-After"]) == (429, "1")
        assert [one.result(LONG_S).status_code for one in (searched, waiting)] == [200, 200]
