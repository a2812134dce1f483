r"""Search-R1's interface of a search server: what is asked, and what is answered.

``POST /retrieve`` takes ``{"queries": [...], "topk": 3, "return_scores": true}``, and answers ``{"result": [[...]]}``:
for each query a list of ``{"document": {"id", "contents"}, "score"}``, or of the documents alone. ``contents`` is the
title in quotes, a line end, and the text.

Source:
    PeterGriffinJin/Search-R1, ``search_r1/search/retrieval_server.py`` and ``search_r1/llm_agent/generation.py``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolenv.errors import RetrieverError
from toolenv.retrieval.base import DECIMALS, Hit, Passage

IDENTITY_HEADER = "X-Index-Identity"
"""Names, percent-encoded, the index that an answer is from; ours, and beside the interface."""


@dataclass(frozen=True, slots=True)
class Found:
    """A passage that a search found.

    Attributes:
        passage: The passage.
        score: How well it fits; ``None`` where nobody says.
    """

    passage: Passage
    score: float | None = None


def document_of(passage: Passage) -> dict[str, str]:
    r"""A passage as the interface writes it; the title on one line, which ends it.

    Example:
        >>> document_of(Passage("p1", "Lyon", "A city."))
        {'id': 'p1', 'contents': '"Lyon"\nA city.'}
    """
    title = passage.title.replace("\n", " ")
    return {"id": passage.id, "contents": f'"{title}"\n{passage.text}'}


def passage_of(document: Mapping[str, Any]) -> Passage:
    r"""A passage out of a document of the interface; without an ``id``, one made of its contents.

    Raises:
        ValueError: It has no contents.

    Example:
        >>> passage_of({"id": 7, "contents": '"Lyon"\nA city.'})
        Passage(id='7', title='Lyon', text='A city.')
        >>> passage_of({"contents": "Lyon\nA city."}).id
        'sha256:2d3469a66ee1ddca'
    """
    contents, identity = document.get("contents"), document.get("id")
    if not isinstance(contents, str):
        raise ValueError(f"a document has no text in 'contents': {str(dict(document))[:200]}")
    if identity is None:
        identity = f"sha256:{hashlib.sha256(contents.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    elif not isinstance(identity, str | int) or isinstance(identity, bool):
        raise ValueError(f"a document's id is neither text nor a number: {identity!r:.200}")
    title, line_end, text = contents.partition("\n")
    if not line_end:
        return Passage(str(identity), "", contents)
    if len(title.strip()) > 1 and title.strip()[0] == title.strip()[-1] == '"':
        title = title.strip()[1:-1]
    return Passage(str(identity), title, text)


def result_of(answer: Any, num_queries: int, k: int) -> list[list[Found]]:
    """What a server's answer says: at most ``k`` passages a query, best first, ties in the order of ids.

    Where a list has no scores, its order is the server's.

    Raises:
        ValueError: It is not of the interface: another shape, another number of lists, or a score that is no number.
    """
    lists = answer.get("result") if isinstance(answer, Mapping) else None
    if not isinstance(lists, list) or not all(isinstance(found, list) for found in lists):
        raise ValueError(f"there is no list of lists in 'result': {str(answer)[:200]}")
    if len(lists) != num_queries:
        raise ValueError(f"there are {len(lists)} lists in 'result' for {num_queries} queries")
    return [_ordered([_found(entry) for entry in found])[:k] for found in lists]


def _found(entry: Any) -> Found:
    if not isinstance(entry, Mapping):
        raise ValueError(f"an entry of 'result' is no object: {entry!r:.200}")
    if "document" not in entry:
        return Found(passage_of(entry))
    if not isinstance(entry["document"], Mapping):
        raise ValueError(f"a document is no object: {entry['document']!r:.200}")
    score = entry.get("score")
    if score is not None and (
        isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score)
    ):
        raise ValueError(f"a score is no finite number: {score!r:.200}")
    return Found(passage_of(entry["document"]), None if score is None else float(score))


def _ordered(found: list[Found]) -> list[Found]:
    hits = scored(found)
    return found if hits is None else [Found(hit.passage, hit.score) for hit in in_order_of_scores(hits)]


def scored(found: Sequence[Found]) -> list[Hit] | None:
    """The passages with their scores; ``None`` where one has none."""
    hits = [Hit(one.passage, one.score) for one in found if one.score is not None]
    return hits if len(hits) == len(found) else None


def in_order_of_scores(hits: Sequence[Hit]) -> list[Hit]:
    """Best first; ties in the order of ids, as every retriever has them.

    Example:
        >>> a, b = Passage("a", "", "x"), Passage("b", "", "y")
        >>> [hit.passage.id for hit in in_order_of_scores([Hit(b, 0.5), Hit(a, 0.5 + 1e-9)])]
        ['a', 'b']
    """
    rounded = np.round([hit.score for hit in hits], DECIMALS)
    return [hit for _, hit in sorted(zip(-rounded, hits, strict=True), key=lambda pair: (pair[0], pair[1].passage.id))]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for.

    Attributes:
        queries: The queries.
        k: Most passages for one query.
        with_scores: Whether scores are wanted.
    """

    queries: list[str]
    k: int
    with_scores: bool


def asked_of(body: Any, *, default_k: int, max_queries: int, max_query_chars: int, max_k: int) -> Asked:
    """What a request's JSON asks for.

    Raises:
        ValueError: It is not of the interface, or asks for more than the server gives.
    """
    if not isinstance(body, dict) or not isinstance(body.get("queries"), list):
        raise ValueError("the body must be an object with a list of texts in 'queries'")
    queries, k, with_scores = body["queries"], body.get("topk"), body.get("return_scores", False)
    if len(queries) > max_queries:
        raise ValueError(f"queries must be at most {max_queries}; got {len(queries)}: ask in several requests")
    for number, query in enumerate(queries):
        if not isinstance(query, str):
            raise ValueError(f"queries[{number}] must be a text; got {type(query).__name__}")
        if len(query) > max_query_chars:
            raise ValueError(f"queries[{number}] must have at most {max_query_chars} characters; got {len(query)}")
    if k is None:
        k = default_k
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= max_k:
        raise ValueError(f"topk must be a whole number from 1 to {max_k}, or null for {default_k}; got {k!r:.100}")
    if not isinstance(with_scores, bool):
        raise ValueError(f"return_scores must be true or false; got {with_scores!r:.100}")
    return Asked(queries, k, with_scores)


def answer_of(found: Sequence[Sequence[Found]], with_scores: bool) -> dict[str, Any]:
    """The answer to a request; a score that nobody says is ``null``.

    Raises:
        RetrieverError: A score is no finite number.
    """
    for one in (one for passages in found for one in passages):
        if one.score is not None and not math.isfinite(one.score):
            raise RetrieverError(f"the index gave the passage {one.passage.id!r} the score {one.score}")
    if not with_scores:
        return {"result": [[document_of(one.passage) for one in passages] for passages in found]}
    return {
        "result": [
            [{"document": document_of(one.passage), "score": one.score} for one in passages] for passages in found
        ]
    }
