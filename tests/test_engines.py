"""Search in engines, through their official clients: Qdrant in its local mode, the others before a stand-in."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from retrieval_fakes import CORPUS, QUERIES, WordEncoder
from search_engines import Engine, engine
from search_servers import DotRetriever

from toolenv.errors import ConfigError, RetrieverError
from toolenv.retrieval.base import Passage, ScoredRetriever
from toolenv.retrieval.engines import ElasticsearchRetriever, OpenSearchRetriever, QdrantRetriever
from toolenv.retrieval.engines.base import CHUNK, EngineRetriever, Fields

elasticsearch = pytest.importorskip("elasticsearch", reason="run: pip install 'toolenv[elastic]'")
opensearchpy = pytest.importorskip("opensearchpy", reason="run: pip install 'toolenv[opensearch]'")
qdrant_client = pytest.importorskip("qdrant_client", reason="run: pip install 'toolenv[qdrant]'")

pytestmark = pytest.mark.usefixtures("no_proxy")

LOCAL = DotRetriever(CORPUS)
OTHER_FIELDS = Fields(text="body", title="heading", id="key", vector="embedding")
LUCENE = pytest.mark.parametrize("kind", [ElasticsearchRetriever, OpenSearchRetriever])


@pytest.fixture
def there() -> Iterator[Engine]:
    with engine() as played:
        yield played


def ids(found: Sequence[Sequence[Passage]]) -> list[list[str]]:
    return [[passage.id for passage in passages] for passages in found]


# Elasticsearch and OpenSearch ----------------------------------------------------------------------------------------


@LUCENE
@pytest.mark.parametrize("fields", [Fields(), OTHER_FIELDS])
def test_vectors_in_lucene_find_what_an_exact_index_finds(
    kind: Callable[..., EngineRetriever], fields: Fields, there: Engine
) -> None:
    retriever = kind(there.url, "tiny", encoder=WordEncoder(), fields=fields, max_batch=3)
    assert isinstance(retriever, ScoredRetriever)
    assert retriever.load(CORPUS[::-1], progress=False) == len(CORPUS)
    assert retriever.search(QUERIES, 4) == LOCAL.search(QUERIES, 4)
    for hits, exact in zip(retriever.search_scored(QUERIES, 4), LOCAL.search_scored(QUERIES, 4), strict=True):
        assert [hit.score for hit in hits] == pytest.approx([(1 + hit.score) / 2 for hit in exact], abs=1e-6)
    assert len([path for _, path, _ in there.calls if path.endswith("_msearch")]) == 2 * 3
    assert pickle.loads(pickle.dumps(retriever)).search(QUERIES, 2) == LOCAL.search(QUERIES, 2)
    assert copy.deepcopy(retriever) is retriever
    with pytest.raises(ConfigError, match="k must be at least 1"):
        retriever.search(["x"], 0)


@LUCENE
def test_words_in_lucene_and_ties_by_id(kind: Callable[..., EngineRetriever], there: Engine) -> None:
    twins = [Passage(f"t{i:02d}", "Twin", "the same words") for i in range(10)]
    retriever = kind(there.url, "tiny")
    retriever.load([*CORPUS, *twins[::-1]], progress=False)
    found = retriever.search(["twin same words", "glacier", "  ", "nothingofthekind", "\ud800\x00"], 4)
    assert ids(found) == [["t00", "t01", "t02", "t03"], ["p2"], [], [], []]
    assert found[1] == [CORPUS[2]]
    assert retriever.search([], 3) == []
    properties = there.indexes["tiny"]["mappings"]["properties"]
    assert properties == {"title": {"type": "text"}, "text": {"type": "text"}}
    assert there.indexes["tiny"]["settings"]["index"]["similarity"]["default"] == {"type": "BM25", "k1": 0.9, "b": 0.4}


def test_how_each_engine_declares_vectors(there: Engine) -> None:
    ElasticsearchRetriever(there.url, "e", encoder=WordEncoder()).load(CORPUS[:1], progress=False)
    OpenSearchRetriever(there.url, "o", encoder=WordEncoder()).load(CORPUS[:1], progress=False)
    elastic, opensearch = there.indexes["e"], there.indexes["o"]
    assert elastic["mappings"]["properties"]["vector"] == {
        "type": "dense_vector", "dims": 32, "index": True, "similarity": "cosine",
    }  # fmt: skip
    assert opensearch["mappings"]["properties"]["vector"] == {
        "type": "knn_vector", "dimension": 32,
        "method": {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"},
    }  # fmt: skip
    assert opensearch["settings"]["index"]["knn"] is True


@LUCENE
def test_loading_goes_on_where_it_was(kind: Callable[..., EngineRetriever], there: Engine) -> None:
    many = [Passage(f"m{i:04d}", "", f"word{i}") for i in range(2 * CHUNK + 5)]
    encoder = WordEncoder()
    retriever = kind(there.url, "many", encoder=encoder)
    assert retriever.load(many[: CHUNK + 10], progress=False) == CHUNK + 10
    encoder.batches.clear()
    assert retriever.load(many, progress=False) == CHUNK - 5
    assert encoder.batches == [CHUNK - 10, 5]  # what was there is not encoded again
    assert len(there.documents["many"]) == len(many)
    with pytest.raises(RetrieverError, match=r"did not take the passage 'bad'.*for the test"):
        retriever.load([Passage("bad", "", "x")], progress=False)


@LUCENE
def test_what_an_engine_did_not_search_is_an_error(kind: Callable[..., EngineRetriever], there: Engine) -> None:
    retriever = kind(there.url, "tiny")
    with pytest.raises(RetrieverError, match="no such index"):
        retriever.search(["x"], 1)
    retriever.load(CORPUS, progress=False)
    for spoil, part in (
        ({"_shards": {"total": 5, "failed": 2, "failures": [{"reason": "no disk"}]}}, "2 of 5 shards failed.*no disk"),
        ({"timed_out": True}, "timed out: True"),
        ({"hits": None}, "not as it should be"),
    ):
        there.spoil = spoil
        with pytest.raises(RetrieverError, match=part):
            retriever.search(["river"], 1)
    there.spoil = {}
    with pytest.raises(RetrieverError, match=r"no passage by the fields .*name the fields of yours"):
        kind(there.url, "tiny", fields=Fields(text="body")).search(["Lyon"], 1)
    there.down = 400
    with pytest.raises(RetrieverError, match="400"):
        retriever.search(["river"], 1)


@LUCENE
def test_an_engine_that_is_not_there(kind: Callable[..., EngineRetriever]) -> None:
    with engine() as played:
        url = played.url
    with pytest.raises(RetrieverError, match="Connection"):
        kind(url, "tiny").search(["x"], 1)
    for name, settings in (("", {}), ("tiny", {"max_batch": 0})):
        with pytest.raises(ConfigError, match="max_batch"):
            kind(url, name, **settings)


def test_keys_come_from_the_environment(there: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINE_KEY", raising=False)
    with pytest.raises(ConfigError, match="'ENGINE_KEY' is not set"):
        ElasticsearchRetriever(there.url, "tiny", api_key_env="ENGINE_KEY")


# Qdrant --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [None, OTHER_FIELDS])
def test_qdrant_finds_what_an_exact_index_finds(fields: Fields | None) -> None:
    retriever = QdrantRetriever(
        qdrant_client.QdrantClient(":memory:"), "tiny", WordEncoder(), fields=fields, max_batch=3
    )
    assert isinstance(retriever, ScoredRetriever)
    assert retriever.scores == "inner product"  # so that it can be a shard beside others
    assert retriever.load(CORPUS[::-1], progress=False) == len(CORPUS)
    assert retriever.search(QUERIES, 4) == LOCAL.search(QUERIES, 4)
    for hits, exact in zip(retriever.search_scored(QUERIES, 20), LOCAL.search_scored(QUERIES, 20), strict=True):
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in exact], abs=1e-5)
    assert retriever.search([], 1) == []
    assert len(retriever.search(["\ud800\x00", ""], 2)) == 2
    assert copy.deepcopy(retriever) is retriever


def test_qdrant_breaks_ties_by_id_and_goes_on_loading() -> None:
    twins = [Passage(f"t{i:02d}", "Twin", "the same words") for i in range(12)]
    encoder = WordEncoder()
    retriever = QdrantRetriever(qdrant_client.QdrantClient(":memory:"), "tiny", encoder)
    assert retriever.load([*twins[::-2]], progress=False) == 6
    encoder.batches.clear()
    assert retriever.load([*twins, *CORPUS], progress=False) == 6 + len(CORPUS)
    assert encoder.batches == [6 + len(CORPUS)]
    for k in (1, 3, 12):
        assert ids(retriever.search(["twin same words"], k)) == [[twin.id for twin in twins[:k]]]


def test_a_collection_of_others_is_refused() -> None:
    client = qdrant_client.QdrantClient(":memory:")
    params, distance = qdrant_client.models.VectorParams, qdrant_client.models.Distance
    client.create_collection("long", vectors_config=params(size=64, distance=distance.DOT))
    client.create_collection("far", vectors_config=params(size=32, distance=distance.EUCLID))
    client.create_collection("named", vectors_config={"a": params(size=32, distance=distance.DOT)})
    for name, part in (
        ("long", "64 dimensions.*'words' makes 32"),
        ("far", "distance Euclid"),
        ("named", r"\['a'\], not ''"),
    ):
        with pytest.raises(ConfigError, match=part):
            QdrantRetriever(client, name, WordEncoder()).search(["x"], 1)
    with pytest.raises(RetrieverError, match="absent"):
        QdrantRetriever(client, "absent", WordEncoder()).search(["x"], 1)
    with pytest.raises(RetrieverError, match="ResponseHandlingException"):
        QdrantRetriever("http://127.0.0.1:9", "tiny", WordEncoder()).search(["x"], 1)


def test_a_payload_that_is_no_passage_is_an_error() -> None:
    client: Any = qdrant_client.QdrantClient(":memory:")
    QdrantRetriever(client, "tiny", WordEncoder()).load(CORPUS, progress=False)
    with pytest.raises(RetrieverError, match="no passage by the fields"):
        QdrantRetriever(client, "tiny", WordEncoder(), fields=Fields(text="body", vector="")).search(["x"], 1)
