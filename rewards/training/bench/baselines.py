"""Scorers of pairs that need no language model, and reward models as scorers of pairs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rewards.process.schema import calls_fit
from rewards.scoring import Conversation
from rewards.training.bench.pairwise import PairScore, PairScorer, count_verdicts
from rewards.training.pairs.records import Output, Pair, output_conversation, output_to_json, pair_conversations
from rewards.training.pairs.verdicts import tries_a_call
from toolenv.episode import Task
from toolenv.errors import ConfigError
from toolenv.seeding import rng

CHEAP_CHUNK = 4096
MODEL_CHUNK = 16


class OutcomeScorer(Protocol):
    """Anything that scores conversations, as ``rewards.Scorer`` does."""

    def score(self, conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        """One score a conversation; NaN where there is none."""
        ...


class ConversationScorer:
    """A reward model, or anything with ``score(conversations)``, on what ToolRM reads of a pair.

    Args:
        scorer: The scorer; both answers of a pair are scored in one call, so that they can share their prompt.
        name: What it is called in reports.
        settings: All that decides its scores.
        chunk: Pairs a call.

    Example:
        >>> from toolenv.messages import Message
        >>> class Counts:
        ...     def score(self, conversations):
        ...         return np.array([float(len(messages[-1].content)) for messages in conversations])
        >>> pair = Pair((), (Message("user", "?"),), "No.", "Maybe.", "other")
        >>> ConversationScorer(Counts(), "counts").score_pairs([pair])
        [(PairScore(chosen=3.0, rejected=6.0),)]
    """

    def __init__(
        self,
        scorer: OutcomeScorer,
        name: str,
        *,
        settings: Mapping[str, Any] | None = None,
        chunk: int = MODEL_CHUNK,
    ) -> None:
        self.scorer = scorer
        self.columns = (name,)
        self.settings: Mapping[str, Any] = settings or {"scorer": name}
        self.chunk = chunk

    def score_pairs(self, pairs: Sequence[Pair]) -> list[tuple[PairScore, ...]]:
        """See ``PairScorer``."""
        scores = self.scorer.score([messages for pair in pairs for messages in pair_conversations(pair)])
        known = [None if np.isnan(score) else float(score) for score in scores]
        return [(PairScore(*both),) for both in zip(known[::2], known[1::2], strict=True)]


class AnswerFeature:
    """Prefers by one number of an answer, both ways: the answer with more of it, and the one with less.

    Args:
        names: What the two ways are called: less, more.
        feature: The number.
    """

    chunk = CHEAP_CHUNK

    def __init__(self, names: tuple[str, str], feature: Callable[[Pair, Output], float]) -> None:
        self.columns = names
        self.settings: Mapping[str, Any] = {"baseline": list(names)}
        self._feature = feature

    def score_pairs(self, pairs: Sequence[Pair]) -> list[tuple[PairScore, ...]]:
        """See ``PairScorer``."""
        found: list[tuple[PairScore, ...]] = []
        for pair in pairs:
            chosen, rejected = (self._feature(pair, output) for output in (pair.chosen_output, pair.rejected_output))
            found.append((PairScore(-chosen, -rejected), PairScore(chosen, rejected)))
        return found


def length_baseline() -> AnswerFeature:
    """Prefers the shorter, and the longer answer, in characters as ToolRM reads it.

    Example:
        >>> length_baseline().columns
        ('length: shorter', 'length: longer')
    """
    return AnswerFeature(("length: shorter", "length: longer"), lambda _, output: answer_length(output))


def call_count_baseline() -> AnswerFeature:
    """Prefers the answer with fewer, and with more calls; a text has none.

    Example:
        >>> call_count_baseline().columns
        ('calls: fewer', 'calls: more')
    """
    return AnswerFeature(
        ("calls: fewer", "calls: more"), lambda _, output: 0 if isinstance(output, str) else len(output)
    )


class RandomBaseline:
    """Draws the preference, by the seed and the pair: not by the order of the pairs.

    Args:
        seed: The seed.
    """

    chunk = CHEAP_CHUNK
    columns = ("random",)

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.settings: Mapping[str, Any] = {"baseline": "random", "seed": seed}

    def score_pairs(self, pairs: Sequence[Pair]) -> list[tuple[PairScore, ...]]:
        """See ``PairScorer``."""
        return [(PairScore(*map(float, rng(self.seed, "random", pair_key(pair)).random(2))),) for pair in pairs]


class SchemaBaseline:
    """Prefers the answer that fits the functions' schemas; where both do, or neither, it is a tie.

    Calls fit if each names a function and gives arguments that its schema allows: none missing, none unknown, of the
    right type, and of the values listed where some are. A reply without a call fits too, for schemas say nothing of it;
    a text that tries a call in another form does not.
    """

    chunk = CHEAP_CHUNK
    columns = ("schema",)

    def __init__(self) -> None:
        self.settings: Mapping[str, Any] = {"baseline": "schema", "replies": "fit"}

    def score_pairs(self, pairs: Sequence[Pair]) -> list[tuple[PairScore, ...]]:
        """See ``PairScorer``."""
        return [
            (PairScore(*(float(fits_schemas(o, pair.tools)) for o in (pair.chosen_output, pair.rejected_output))),)
            for pair in pairs
        ]


def fits_schemas(output: Output, tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an answer is calls that the functions' schemas allow; see ``SchemaBaseline``.

    Example:
        >>> from toolenv.messages import ToolCall
        >>> tools = [{"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}, "required": ["x"]}}]
        >>> fits_schemas((ToolCall("f", {"x": 1}),), tools), fits_schemas((ToolCall("f", {"x": "1"}),), tools)
        (True, False)
    """
    if isinstance(output, str):
        return not tries_a_call(Task("", "", functions=tuple(tools)), output)
    return calls_fit(output, tools)


def best_column(scorer: PairScorer, pairs: Sequence[Pair]) -> str:
    """The way of a scorer that is right most often; of equal ones, the first.

    Raises:
        ConfigError: None has a score for any pair.

    Example:
        >>> from toolenv.messages import Message
        >>> pairs = [Pair((), (Message("user", "?"),), "No.", "Yes.", "other")]
        >>> best_column(length_baseline(), pairs)
        'length: shorter'
    """
    scores = scorer.score_pairs(pairs)
    accuracies = {
        column: count_verdicts([row[place].verdict for row in scores]).accuracy
        for place, column in enumerate(scorer.columns)
    }
    known = {column: accuracy for column, accuracy in accuracies.items() if accuracy is not None}
    if not known:
        raise ConfigError(f"{', '.join(scorer.columns)}: no score on any of {len(pairs)} pairs to choose by")
    return max(known, key=lambda column: known[column])


def pair_key(pair: Pair) -> str:
    """Names all that is scored of a pair: functions, conversation and both answers, but not its error type or origin.

    Example:
        >>> from toolenv.messages import Message
        >>> a, b = (Pair((), (Message("user", "?"),), "No.", "Yes.", kind) for kind in ("one kind", "another"))
        >>> pair_key(a) == pair_key(b)
        True
    """
    parts = [pair.prompt_key, output_to_json(pair.chosen_output), output_to_json(pair.rejected_output)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def answer_length(output: Output) -> int:
    """Characters of an answer as ToolRM reads it."""
    return len(output_conversation((), (), output)[-1].content)
