"""The numbers of the search benchmark: places, intervals and paired gains, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks import retrieval_quality as quality
from toolenv.episode import Task
from toolenv.retrieval.base import Passage

pytestmark = pytest.mark.core

PASSAGES = [Passage(f"p{i}", "", f"text of The Number {i}.") for i in range(30)]


class Scripted:
    """Finds p0, p1, p2, ... for every question."""

    def __init__(self) -> None:
        self.asked = 0

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.asked += len(queries)
        return [PASSAGES[:k] for _ in queries]


def question(gold: str, *answers: str) -> Task:
    return Task(id=gold, prompt=f"where is {gold}?", gold_passages=((gold,),), answers=answers)


def test_places_are_found_once_and_kept(tmp_path: Path) -> None:
    questions = [question(f"p{i}") for i in (0, 2, 19, 20)]
    retriever = Scripted()
    found = quality.ranks(retriever, questions, "x", tmp_path / "kept" / "x.npy")
    assert found.tolist() == [1, 3, 20, 0]  # beyond the first 20 is not found
    assert quality.ranks(retriever, questions, "x", tmp_path / "kept" / "x.npy").tolist() == found.tolist()
    assert retriever.asked == 4
    assert [int(quality.hits(found, k).sum()) for k in (1, 3, 5, 20)] == [1, 2, 2, 3]
    assert quality.reciprocal(found).tolist() == pytest.approx([1, 1 / 3, 1 / 20, 0])


def test_wilsons_interval_by_hand() -> None:
    # z = 1.96, 8 of 10: centre (0.8 + 0.19207) / 1.38415 = 0.71673, half 0.22667.
    assert quality.wilson(8, 10) == pytest.approx([0.8, 0.4902, 0.9433], abs=2e-4)
    assert quality.wilson(0, 10)[1] == pytest.approx(0.0, abs=1e-9)


def test_a_gain_is_taken_question_by_question() -> None:
    first, second = np.array([1, 1, 1, 9] * 50), np.array([1, 9, 1, 9] * 50)
    value, low, high = quality.gain(first, second)
    assert value == 0.25
    # 200 questions of which a quarter gain: the deviation of the mean is sqrt(.25 * .75 / 200) = .0306.
    assert low == pytest.approx(0.25 - 1.96 * 0.0306, abs=0.01)
    assert high == pytest.approx(0.25 + 1.96 * 0.0306, abs=0.01)
    assert quality.gain(first, first) == [0.0, 0.0, 0.0]


def test_an_answer_counts_as_words_of_a_passage() -> None:
    questions = [question("a", "number 1"), question("b", "Number 10"), question("c", "umber 1"), question("d", "the")]
    found = quality.answers_found(Scripted(), questions, "x")
    assert found["answer in first 3"][0] == 0.25  # "number 1" in p1 alone: no part of a word, no empty answer
    assert found["answer in first 20"][0] == 0.5
