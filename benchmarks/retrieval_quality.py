"""Real questions over real passages: which place the right one gets, and how sure the averages are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolenv.data.squad_wiki import load_squad_wiki
from toolenv.episode import Task
from toolenv.grading.answers import normalize
from toolenv.progress import Progress
from toolenv.retrieval.base import Passage, Retriever
from toolenv.retrieval.corpus import read_corpus
from toolenv.seeding import rng

BACKGROUND = "wikipedia-2006"
CUTOFFS = (1, 3, 5, 20)
DEEPEST = max(CUTOFFS)
BATCH = 64
RESAMPLES = 2_000
Z = 1.959964  # of a two-sided interval of 95 %


@dataclass(frozen=True, slots=True)
class Pool:
    """Questions, and the passages in which each one's paragraph is to be found.

    Attributes:
        passages: All paragraphs that the questions ask about, and other passages.
        questions: The questions, in an order drawn by a seed.
        others: Questions that are not among them: those that are timed, so that no cache knows them.
        gold: Ids of the paragraphs that questions ask about.
        is_whole: Whether all other passages that there are are in it.
    """

    passages: tuple[Passage, ...]
    questions: tuple[Task, ...]
    others: tuple[Task, ...]
    gold: frozenset[str]
    is_whole: bool

    @property
    def key(self) -> str:
        """Names the passages and the questions."""
        digest = hashlib.sha256(repr(sorted(p.id for p in self.passages)).encode())
        digest.update(repr([task.id for task in self.questions]).encode())
        return digest.hexdigest()[:12]


def make_pool(passages: int | None, questions: int, seed: int) -> Pool:
    """All paragraphs, and passages of Wikipedia drawn by the seed up to ``passages``; ``None``: all."""
    asked = load_squad_wiki()
    background = sorted(read_corpus(BACKGROUND), key=lambda passage: passage.id)
    if passages is not None:
        wanted = max(0, min(len(background), passages - len(asked.passages)))
        chosen = rng(seed, "passages").choice(len(background), size=wanted, replace=False)
        background = [background[row] for row in sorted(chosen.tolist())]
    order = rng(seed, "questions").permutation(len(asked.tasks)).tolist()
    tasks = [asked.tasks[place] for place in order]
    gold = frozenset(passage.id for passage in asked.passages)
    every = (*asked.passages, *background)
    return Pool(every, tuple(tasks[:questions]), tuple(tasks[questions:]), gold, passages is None)


def ranks(retriever: Retriever, questions: Sequence[Task], label: str, kept: Path) -> NDArray[np.int64]:
    """The place of each question's paragraph, from 1; 0 where it is not among the first 20. Found once, then kept."""
    if kept.exists():
        return np.asarray(np.load(kept))
    progress = Progress(label, len(questions))
    places: list[int] = []
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        for task, found in zip(batch, retriever.search([t.prompt for t in batch], DEEPEST), strict=True):
            ids = [passage.id for passage in found]
            gold = task.gold_passages[0][0]
            places.append(ids.index(gold) + 1 if gold in ids else 0)
        progress.show(len(places))
    made = np.array(places)
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.save(kept, made)
    progress.close(f"recall@3 {hits(made, 3).mean():.3f}")
    return made


def hits(places: NDArray[np.int64], cutoff: int) -> NDArray[np.bool_]:
    """Whether each question's paragraph is among the first ``cutoff``."""
    return np.asarray((places > 0) & (places <= cutoff))


def reciprocal(places: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 / place; 0 beyond the last."""
    return np.where(places > 0, 1.0 / np.maximum(places, 1), 0.0)


def summary(places: NDArray[np.int64]) -> dict[str, list[float]]:
    """Recall at each cutoff and the mean reciprocal rank, each with its interval of 95 %: value, low, high."""
    found = {f"recall@{cutoff}": wilson(int(hits(places, cutoff).sum()), len(places)) for cutoff in CUTOFFS}
    return {**found, f"mrr@{DEEPEST}": bootstrap(reciprocal(places))}


def wilson(successes: int, trials: int) -> list[float]:
    """A share and its interval of 95 %.

    Source: E. B. Wilson, 1927.
    """
    share = successes / trials
    centre = (share + Z**2 / (2 * trials)) / (1 + Z**2 / trials)
    half = Z / (1 + Z**2 / trials) * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    return [round(value, 4) for value in (share, centre - half, centre + half)]


def bootstrap(values: NDArray[np.float64], seed: int = 0) -> list[float]:
    """A mean and its interval of 95 %, by drawing the questions anew."""
    draw = rng(seed, "bootstrap")
    means = [float(values[draw.integers(len(values), size=len(values))].mean()) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return [round(float(value), 4) for value in (values.mean(), low, high)]


def gain(first: NDArray[np.int64], second: NDArray[np.int64], cutoff: int = 3) -> list[float]:
    """How much the first one's recall is above the second one's, question by question, with its interval."""
    return bootstrap(hits(first, cutoff).astype(float) - hits(second, cutoff).astype(float))


def answers_found(retriever: Retriever, questions: Sequence[Task], label: str) -> dict[str, list[float]]:
    """How often an accepted answer stands in the first 3 and 20 passages, as words: no gold passages are known."""
    progress = Progress(label, len(questions))
    first = {3: 0, 20: 0}
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        for task, found in zip(batch, retriever.search([t.prompt for t in batch], DEEPEST), strict=True):
            answers = [f" {normalize(answer)} " for answer in task.answers]
            holds = [any(a in f" {normalize(p.contents)} " for a in answers if a.strip()) for p in found]
            for cutoff in first:
                first[cutoff] += any(holds[:cutoff])
        progress.show(start + len(batch))
    progress.close("done")
    return {f"answer in first {cutoff}": wilson(count, len(questions)) for cutoff, count in first.items()}
