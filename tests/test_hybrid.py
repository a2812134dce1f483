"""Fusion of two retrievers: by standard scores, by ranks, and where one of them has nothing to say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from toolenv import ConfigError
from toolenv.retrieval.base import Passage, ScoredRetriever
from toolenv.retrieval.hybrid import HybridRetriever

pytestmark = pytest.mark.core


class Scripted:
    """A retriever with given scores, which proposes the best of them."""

    def __init__(self, scores: Sequence[float], passages: Sequence[Passage] | None = None) -> None:
        self.passages = passages or tuple(Passage(f"p{i}", "", "x") for i in range(len(scores)))
        self.given = np.array(scores, float)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        raise AssertionError("a hybrid retriever proposes and scores")

    def propose(self, queries: Sequence[str], k: int) -> list[NDArray[np.int64]]:
        return [np.argsort(-self.given, kind="stable")[:k] for _ in queries]

    def score(self, queries: Sequence[str], rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        return [self.given[r] for r in rows]


class Silent(Scripted):
    """One that finds nothing, as BM25 where no word is known."""

    def propose(self, queries: Sequence[str], k: int) -> list[NDArray[np.int64]]:
        return [np.empty(0, np.int64) for _ in queries]


class Store(Sequence[Passage]):
    """A store of passages, which must not be read to be compared."""

    def __init__(self, sha256: str) -> None:
        self.sha256 = sha256

    def __len__(self) -> int:
        return 3

    def __getitem__(self, row):  # type: ignore[no-untyped-def]
        raise AssertionError("read")


def order(retriever: HybridRetriever, k: int = 10) -> str:
    return "".join(passage.id[1:] for passage in retriever.search(["q"], k)[0])


def test_reciprocal_ranks_by_hand() -> None:
    # Ranks 1 2 3 4 and 4 1 2 3: 1/61 + 1/64, 1/62 + 1/61, 1/63 + 1/62, 1/64 + 1/63.
    dense, lexical = Scripted([9.0, 8.0, 7.0, 6.0]), Scripted([0.1, 500.0, 0.3, 0.2])
    retriever = HybridRetriever(dense, lexical, fusion="rrf")
    want = [1 / 61 + 1 / 64, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62, 1 / 64 + 1 / 63]
    assert retriever.score(["q"], [np.arange(4)])[0] == pytest.approx(want)
    assert order(retriever) == "1023"
    assert order(HybridRetriever(dense, lexical, fusion="rrf", weight=0.0)) == "0123"


def test_ties_share_a_rank() -> None:
    dense, lexical = Scripted([5.0, 5.0, 1.0]), Scripted([0.0, 0.0, 2.0])
    scores = HybridRetriever(dense, lexical, fusion="rrf").score(["q"], [np.arange(3)])[0]
    assert scores == pytest.approx([1 / 61 + 1 / 62, 1 / 61 + 1 / 62, 1 / 63 + 1 / 61])


def test_both_fusions_look_past_scale_and_shift_but_ranks_past_distance_too() -> None:
    dense = [3.0, 2.0, 0.0, 1.0]
    lexical = np.array([0.0, 2.0, 9.0, 1.0])
    for fusion in ("z", "rrf"):
        want = HybridRetriever(Scripted(dense), Scripted(lexical), fusion=fusion).score(["q"], [np.arange(4)])[0]
        moved = HybridRetriever(Scripted(dense), Scripted(7 * lexical - 3), fusion=fusion)
        np.testing.assert_allclose(moved.score(["q"], [np.arange(4)])[0], want)
        bent = HybridRetriever(Scripted(dense), Scripted(lexical**3), fusion=fusion).score(["q"], [np.arange(4)])[0]
        assert np.allclose(bent, want) == (fusion == "rrf")


@pytest.mark.parametrize("fusion", ["z", "rrf"])
def test_where_one_finds_nothing_the_other_decides(fusion: str) -> None:
    dense = Scripted([0.1, 0.7, 0.4, 0.3])
    assert order(HybridRetriever(dense, Silent([0.0] * 4), fusion=fusion)) == "1230"
    assert order(HybridRetriever(Silent([0.2] * 4), dense, fusion=fusion)) == "1230"
    neither = HybridRetriever(Silent([0.0] * 4), Silent([0.0] * 4), fusion=fusion)
    assert neither.search(["q", "r"], 3) == [[], []]


@pytest.mark.parametrize("fusion", ["z", "rrf"])
def test_equal_scores_that_rounding_parts_have_no_say(fusion: str) -> None:
    dense = Scripted([0.1, 0.3, 0.2])
    lexical = Scripted([0.1, 0.1 + 1e-12, 0.1 - 1e-12])
    assert order(HybridRetriever(dense, lexical, weight=100.0, fusion=fusion)) == "120"


@pytest.mark.parametrize("fusion", ["z", "rrf"])
def test_one_candidate_is_found(fusion: str) -> None:
    retriever = HybridRetriever(Scripted([0.5]), Scripted([3.0]), fusion=fusion)
    assert order(retriever) == "0"
    assert np.isfinite(retriever.search_scored(["q"], 1)[0][0].score)


@pytest.mark.parametrize("fusion", ["z", "rrf"])
def test_ties_go_by_id(fusion: str) -> None:
    retriever = HybridRetriever(Scripted([1.0, 2.0, 1.0, 2.0]), Scripted([2.0, 1.0, 2.0, 1.0]), fusion=fusion)
    assert order(retriever) == "0123"
    assert order(retriever, k=2) == "01"


def test_a_candidate_of_either_is_scored_by_both() -> None:
    # Depth 1: the dense one proposes 0, the lexical one 2; 1 is proposed by neither.
    dense, lexical = Scripted([0.9, 0.8, 0.1]), Scripted([0.0, 5.0, 9.0])
    retriever = HybridRetriever(dense, lexical, depth=1, weight=2.0)
    assert order(retriever, k=1) == "2"
    hits = retriever.search_scored(["q"], 1)
    assert hits[0][0].score == pytest.approx(-1.0 + 2.0 * 1.0)  # two candidates: -1 and 1 of each
    assert isinstance(retriever, ScoredRetriever)
    assert retriever.scores == ""


def test_corpora_are_told_apart_by_hash_where_there_is_one() -> None:
    one, same, other = (Scripted([1.0, 2.0, 3.0], Store(sha)) for sha in ("a", "a", "b"))
    HybridRetriever(one, same)
    with pytest.raises(ConfigError, match="same passages"):
        HybridRetriever(one, other)
    with pytest.raises(ConfigError, match="same passages"):
        HybridRetriever(Scripted([1.0]), Scripted([1.0], (Passage("p0", "", "y"),)))


def test_an_identity_is_of_both_parts_and_the_settings() -> None:
    dense, lexical = Scripted([1.0]), Scripted([1.0])
    assert HybridRetriever(dense, lexical).identity == ""
    dense.identity, lexical.identity = "d", "l"  # type: ignore[attr-defined]
    made = [HybridRetriever(dense, lexical), HybridRetriever(dense, lexical, weight=2.0)]
    made += [HybridRetriever(dense, lexical, depth=7), HybridRetriever(dense, lexical, fusion="rrf")]
    made += [HybridRetriever(lexical, dense)]
    assert len({retriever.identity for retriever in made}) == 5
    assert HybridRetriever(dense, lexical).identity == made[0].identity


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight must be"),
        ({"weight": float("nan")}, "weight must be"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"fusion": "sum"}, "unknown fusion 'sum'; choose one of z, rrf"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HybridRetriever(Scripted([1.0]), Scripted([1.0]), **settings)  # type: ignore[arg-type]
