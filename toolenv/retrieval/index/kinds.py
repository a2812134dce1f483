"""The kinds of dense index: what FAISS is asked to make for a number of vectors, and what a vector then takes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from toolenv.errors import ConfigError
from toolenv.extras import require

LINKS = 32  # of a vector in an HNSW graph
LINK_BYTES = 4 * (2 * LINKS + 4)  # twice the links at the bottom, and what the levels above come to
ID_BYTES = 8
MAX_LISTS = 65_536
LEAST_IN_A_LIST = 39  # FAISS warns below it
DEPTH = 12
"""Candidates of a lossy index that are scored exactly, at least: at 3 bits a dimension the first 12 hold the best 3."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of dense index.

    Attributes:
        name: Its name.
        about: What it is, in a few words.
        factory: FAISS's factory string; ``{lists}`` and ``{parts}`` are filled in by passages and dimension.
        code_bytes: Bytes of memory a vector, given its dimension; what all share is not counted.
        exact: Whether it finds what comparing with every vector would.
        settings: What a search may set, with the usual values; 0 is worked out for each index.
        mapped: Whether FAISS maps its file: opening takes milliseconds, and processes share its memory.
        alike: Whether FAISS itself answers a query alike in any batch: it looks at one after the other.

    Example:
        >>> KINDS["sq8"].code_bytes(384)
        384
        >>> KINDS["rabitq"].factory_for(1_000_000, 384)
        'IVF8192_HNSW32,RaBitQ3'
    """

    name: str
    about: str
    factory: str
    code_bytes: Callable[[int], int]
    exact: bool = False
    settings: dict[str, int] = field(default_factory=dict)
    mapped: bool = True
    alike: bool = False

    def factory_for(self, passages: int, dimension: int) -> str:
        """The factory string for so many vectors of so many dimensions."""
        parts = dimension if dimension % 2 else dimension // 2
        return self.factory.format(lists=lists_for(passages), parts=parts)

    def bytes_per_passage(self, passages: int, dimension: int) -> float:
        """Memory a passage, with its share of what all share."""
        lists = lists_in(self.factory_for(passages, dimension))
        shared = lists * (4 * dimension + LINK_BYTES + 64)
        return self.code_bytes(dimension) + shared / max(1, passages)


def lists_for(passages: int) -> int:
    """About eight times the root of the number of vectors, as a power of two, if each then has enough to learn from.

    With 8,192 lists of a million a search takes a sixth less time than with 4,096 for the same recall.

    Example:
        >>> lists_for(1_000_000), lists_for(21_000_000), lists_for(1_000), lists_for(10)
        (8192, 32768, 16, 1)
    """
    wanted = round(math.log2(8 * math.sqrt(max(1, passages))))
    enough = int(math.log2(max(1, passages / LEAST_IN_A_LIST)))
    return int(min(MAX_LISTS, 2 ** min(wanted, enough)))


def lists_in(factory: str) -> int:
    """How many lists a factory string asks for; 0 where it has none.

    Example:
        >>> lists_in("IVF4096_HNSW32,RaBitQ3"), lists_in("Flat")
        (4096, 0)
    """
    found = re.search(r"IVF(\d+)", factory)
    return int(found[1]) if found else 0


def _rabitq_bytes(bits: int) -> Callable[[int], int]:
    """Codes of one bit and of the others, the factors that correct them, and the id."""
    factors = 8 if bits == 1 else 20
    return lambda dimension: math.ceil(dimension / 8) + math.ceil(dimension * (bits - 1) / 8) + factors + ID_BYTES


def _with_lists(depth: int) -> dict[str, int]:
    return {"nprobe": 0, "depth": depth}


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("flat", "every vector, float32", "Flat", lambda d: 4 * d, exact=True),
        Kind("flat-fp16", "every vector, float16", "SQfp16", lambda d: 2 * d, exact=True),
        Kind("sq8", "every vector, a byte a dimension", "SQ8", lambda d: d, settings={"depth": DEPTH}),
        Kind(
            "hnsw",
            "a graph of neighbours, float32",
            f"HNSW{LINKS},Flat",
            lambda d: 4 * d + LINK_BYTES,
            settings={"ef_search": 128, "depth": DEPTH},
        ),
        Kind(
            "ivf-sq8",
            "lists, a byte a dimension",
            "IVF{lists}_HNSW32,SQ8",
            lambda d: d + ID_BYTES,
            settings=_with_lists(DEPTH),
            alike=True,
        ),
        Kind(
            "ivf-pq",
            "lists, 2 bits a dimension by product quantisation, fast scan",
            "IVF{lists}_HNSW32,PQ{parts}x4fs",
            lambda d: ((d if d % 2 else d // 2) + 1) // 2 + ID_BYTES,
            settings=_with_lists(2 * DEPTH),
            mapped=False,
        ),
        Kind(
            "rabitq",
            "lists, 3 bits a dimension by RaBitQ",
            "IVF{lists}_HNSW32,RaBitQ3",
            _rabitq_bytes(3),
            settings=_with_lists(DEPTH),
            alike=True,
        ),
        Kind(
            "rabitq1",
            "lists, 1 bit a dimension by RaBitQ",
            "IVF{lists}_HNSW32,RaBitQ",
            _rabitq_bytes(1),
            settings=_with_lists(8 * DEPTH),
            alike=True,
        ),
    )
}


def kind_of(name: str, dimension: int) -> Kind:
    """The kind of that name, or one that a FAISS factory string describes.

    Raises:
        ConfigError: Neither; the message names the kinds.
        MissingExtraError: FAISS is not installed, which reads factory strings.

    Example:
        >>> kind_of("hnsw", 384).about
        'a graph of neighbours, float32'
        >>> kind_of("IVF64,SQ4", 384).code_bytes(384)
        200
    """
    if name in KINDS:
        return KINDS[name]
    faiss = require("faiss", "search")
    try:
        index = faiss.index_factory(dimension, name, faiss.METRIC_INNER_PRODUCT)
        lists = faiss.try_extract_index_ivf(index)
        code = lists.code_size + ID_BYTES if lists else _code_bytes(faiss.downcast_index(index))
    except RuntimeError as error:
        raise ConfigError(
            f"{name!r} is no kind of index; give one of {', '.join(KINDS)}, auto, or a factory string of FAISS"
        ) from error
    settings = {"nprobe": 0} if lists else {"ef_search": 128} if "HNSW" in name else {}
    return Kind(
        name,
        "as FAISS's factory string says",
        name.replace("{", "{{").replace("}", "}}"),
        lambda _: int(code),
        exact=name == "Flat",
        settings=settings | {"depth": 2 * DEPTH},
        mapped="fs" not in name,
    )


def _code_bytes(index: Any) -> int:
    """Bytes a vector of an index without lists."""
    if hasattr(index, "hnsw"):  # nb_neighbors(0) links at the bottom, and half of them again for the levels above
        return int(index.storage.sa_code_size() + 4 * (index.hnsw.nb_neighbors(0) + 4))
    return int(index.sa_code_size())
