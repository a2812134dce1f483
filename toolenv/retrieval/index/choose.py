"""Which kind of index: by how many passages there are, how much memory there is, and the recall asked for."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolenv.errors import ConfigError
from toolenv.retrieval.index.kinds import KINDS, Kind, kind_of, lists_in

SMALL = 20_000
"""Passages up to which every one is compared: with 384 dimensions this takes about a millisecond."""
SHARE_OF_MEMORY = 0.25
DEFAULT_RECALL = 0.95

# Recall@3 against Flat that so many lists give, measured with real questions on 1M vectors in 8,192 lists.
PROBES_AT_1M = ((0.88, 32), (0.93, 64), (0.95, 88), (0.965, 128), (0.98, 192), (0.99, 512), (0.995, 1024))
LISTS_AT_1M = 8192
# The most that a kind was seen to reach with all lists looked into.
REACH = {"rabitq": 0.995, "ivf-pq": 0.97, "rabitq1": 0.90}


@dataclass(frozen=True, slots=True)
class Choice:
    """What an index is, and how it is searched.

    Attributes:
        kind: Name of the kind, or a factory string of FAISS.
        factory: The factory string with all numbers filled in.
        passages: Number of vectors.
        dimension: Their dimension.
        settings: ``nprobe`` (lists looked into), ``depth`` (candidates scored exactly), ``ef_search`` (of a graph);
            those that the kind has.
        bytes_per_passage: Memory that the index takes, divided by the passages.
        why: The reason, in a sentence.

    Example:
        >>> choice = choose(5_000, 384, memory_bytes=2**30)
        >>> choice.kind, choice.bytes_per_passage
        ('flat', 1536.0)
        >>> Choice.from_record(choice.record()) == choice
        True
    """

    kind: str
    factory: str
    passages: int
    dimension: int
    settings: dict[str, int]
    bytes_per_passage: float
    why: str

    def record(self) -> dict[str, Any]:
        """As plain values, for a manifest."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Choice:
        """From what ``record`` gave.

        Raises:
            ConfigError: Something is missing, or more than there should be.
        """
        try:
            return cls(**record)
        except TypeError as error:
            raise ConfigError(f"this does not describe an index: {error}") from error


def choose(
    passages: int,
    dimension: int,
    *,
    kind: str = "auto",
    memory_bytes: int | None = None,
    recall: float = DEFAULT_RECALL,
) -> Choice:
    """Choose a kind of index and its settings, and say why.

    Args:
        passages: How many vectors there will be.
        dimension: Their dimension.
        kind: ``"auto"``, a name in ``KINDS``, or a factory string of FAISS; a kind that is named is taken.
        memory_bytes: Memory that the index may take while it is searched; ``None``: a quarter of this machine's, or of
            what its control group allows.
        recall: Part of the 3 nearest passages that a search should find.

    Raises:
        ConfigError: Nothing meets the request (the message says what could be had), or a number is out of range.
        MissingExtraError: ``kind`` is a factory string, and FAISS is not installed.

    Example:
        >>> choose(1_000_000, 384, memory_bytes=4 * 2**30).kind
        'rabitq'
    """
    if passages < 1 or dimension < 1:
        raise ConfigError(f"an index needs at least 1 passage and 1 dimension; got {passages} and {dimension}")
    if not 0 < recall <= 1:
        raise ConfigError(f"recall must be above 0 and at most 1, a part of the passages to find; got {recall}")
    if memory_bytes is not None and memory_bytes < 1:
        raise ConfigError(f"memory_bytes must be at least 1; got {memory_bytes}")
    if kind != "auto":
        return _choice(kind_of(kind, dimension), passages, dimension, recall, "asked for by name")
    memory = usable_memory() if memory_bytes is None else memory_bytes
    return _automatic(passages, dimension, memory, recall)


def _automatic(passages: int, dimension: int, memory: int, recall: float) -> Choice:
    room = f"{_size(memory)} of memory"
    if passages <= SMALL and _fits(KINDS["flat"], passages, dimension, memory):
        why = f"{passages:,} passages are few enough to compare a query with each ({SMALL:,} or fewer)"
        return _choice(KINDS["flat"], passages, dimension, recall, why)
    for name, reach in REACH.items():
        kind = KINDS[name]
        if recall <= reach and _fits(kind, passages, dimension, memory):
            per_passage = kind.bytes_per_passage(passages, dimension)
            why = (
                f"{per_passage:.0f} bytes a passage, {_size(per_passage * passages)} in all, fit into {room}; "
                f"{kind.about} should find {recall:.0%} of the 3 nearest"
            )
            return _choice(kind, passages, dimension, recall, why)
    for name in ("flat", "flat-fp16"):
        if _fits(KINDS[name], passages, dimension, memory):
            why = f"a recall of {recall:.3f} needs every passage compared, and {KINDS[name].about} fits into {room}"
            return _choice(KINDS[name], passages, dimension, recall, why)
    raise ConfigError(_what_could_be(passages, dimension, memory, recall))


def _what_could_be(passages: int, dimension: int, memory: int, recall: float) -> str:
    """Why a request cannot be met, and what it would take."""
    offers = [(name, reach, KINDS[name].bytes_per_passage(passages, dimension)) for name, reach in REACH.items()]
    offers.append(("flat-fp16", 1.0, float(KINDS["flat-fp16"].code_bytes(dimension))))
    could = "; ".join(
        f"{name} up to {reach:.3g} with {_size(b * passages)} ({b:.0f} bytes each)" for name, reach, b in offers
    )
    return (
        f"no index of {passages:,} passages of {dimension} dimensions finds {recall:.3g} of the 3 nearest with "
        f"{_size(memory)} of memory ({memory / passages:.0f} bytes each); what could be: {could}"
    )


def _choice(kind: Kind, passages: int, dimension: int, recall: float, why: str) -> Choice:
    factory = kind.factory_for(passages, dimension)
    settings = dict(kind.settings)
    if "nprobe" in settings:
        settings["nprobe"] = nprobe_for(recall, lists_in(factory))
    return Choice(
        kind.name, factory, passages, dimension, settings, round(kind.bytes_per_passage(passages, dimension), 1), why
    )


def nprobe_for(recall: float, lists: int) -> int:
    """Lists to look into for a recall@3: what a million vectors were seen to need, and a larger share of fewer lists.

    With four times the lists a query's neighbours spread over about twice as many. With fewer lists they do not keep to
    half as many: 110,000 vectors in 1,024 lists need 52 for .95.

    Example:
        >>> nprobe_for(0.95, 8192), nprobe_for(0.95, 1024), nprobe_for(1.0, 512)
        (88, 44, 512)
    """
    probes = next((probes for reached, probes in PROBES_AT_1M if recall <= reached), None)
    if probes is None:
        return lists
    growth = 1 / 2 if lists > LISTS_AT_1M else 1 / 3
    return min(lists, max(8, round(probes * math.pow(lists / LISTS_AT_1M, growth))))


def usable_memory() -> int:
    """A quarter of this machine's memory, or of what its control group allows where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(file).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return int(total * SHARE_OF_MEMORY)


def _fits(kind: Kind, passages: int, dimension: int, memory: int) -> bool:
    return kind.bytes_per_passage(passages, dimension) * passages <= memory


def _size(count: float) -> str:
    """Bytes as people read them."""
    return (
        f"{count / 1e9:.1f} GB"
        if count >= 1e9
        else f"{count / 1e6:.0f} MB"
        if count >= 1e6
        else f"{count / 1e3:.0f} kB"
    )
