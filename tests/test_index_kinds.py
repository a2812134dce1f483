"""Kinds of index: what they take, and which of them is chosen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from toolenv import ConfigError
from toolenv.retrieval.index.choose import REACH, Choice, choose, nprobe_for, usable_memory
from toolenv.retrieval.index.kinds import KINDS, kind_of, lists_for, lists_in

GB = 10**9
DIMENSION = 384


def chosen(passages: int, memory_bytes: int, recall: float = 0.95) -> str:
    return choose(passages, DIMENSION, memory_bytes=memory_bytes, recall=recall).kind


@pytest.mark.core
def test_few_passages_are_all_compared() -> None:
    assert chosen(2_000, GB) == "flat"
    assert chosen(20_000, GB) == "flat"
    assert chosen(20_001, GB) != "flat"
    assert chosen(2_000, 2_000 * 4 * DIMENSION - 1) != "flat"  # a byte less than it takes


@pytest.mark.core
@pytest.mark.parametrize("passages", [100_000, 1_000_000, 21_000_000])
def test_an_index_that_is_chosen_fits_and_less_memory_gives_a_smaller_one(passages: int) -> None:
    sizes = []
    for per_passage in (1600, 400, 220, 150, 105):
        choice = choose(passages, DIMENSION, memory_bytes=per_passage * passages, recall=0.9)
        assert choice.bytes_per_passage <= per_passage
        sizes.append(choice.bytes_per_passage)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] <= 260  # what is recommended, however much memory there is


@pytest.mark.core
def test_all_of_wikipedia_fits_into_5_and_a_half_gigabytes() -> None:
    choice = choose(21_000_000, DIMENSION, memory_bytes=int(5.5 * GB))
    assert choice.bytes_per_passage * 21_000_000 < 5.5 * GB
    assert choice.kind == "rabitq"
    assert lists_in(choice.factory) == 32_768


@pytest.mark.core
def test_more_recall_looks_into_more_lists_and_all_of_it_compares_all() -> None:
    nprobes = [choose(10**6, DIMENSION, memory_bytes=GB, recall=r).settings["nprobe"] for r in (0.88, 0.9, 0.95, 0.99)]
    assert nprobes == sorted(set(nprobes))
    assert chosen(10**6, 2 * GB, 1.0) == "flat"
    assert chosen(10**6, GB, 1.0) == "flat-fp16"


@pytest.mark.core
def test_what_cannot_be_met_says_what_could_be() -> None:
    with pytest.raises(ConfigError, match=r"0\.99 of the 3 nearest with 100 MB .* rabitq up to .* \(18\d bytes each\)"):
        choose(10**6, DIMENSION, memory_bytes=100 * 10**6, recall=0.99)
    with pytest.raises(ConfigError, match="what could be"):
        choose(10**6, DIMENSION, memory_bytes=10**6)


@pytest.mark.core
def test_why_has_the_numbers() -> None:
    why = choose(1_000_000, DIMENSION, memory_bytes=4 * GB).why
    assert "4.0 GB" in why
    assert "95%" in why
    assert "20,000" in choose(5_000, DIMENSION, memory_bytes=GB).why


@pytest.mark.core
def test_a_kind_that_is_named_is_taken_whatever_the_memory() -> None:
    for name in KINDS:
        choice = choose(1_000_000, DIMENSION, kind=name, memory_bytes=1)
        assert choice.kind == name
        assert "{" not in choice.factory
        assert set(choice.settings) == set(KINDS[name].settings)
        assert 0 not in choice.settings.values()


@pytest.mark.core
def test_a_choice_survives_a_manifest() -> None:
    choice = choose(1_000_000, DIMENSION, memory_bytes=GB)
    assert Choice.from_record(json.loads(json.dumps(choice.record()))) == choice
    with pytest.raises(ConfigError, match="colour"):
        Choice.from_record(choice.record() | {"colour": "red"})


@pytest.mark.core
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"passages": 0}, "at least 1 passage"),
        ({"dimension": 0}, "1 dimension"),
        ({"recall": 0}, "above 0"),
        ({"recall": 95}, "at most 1"),
        ({"memory_bytes": 0}, "memory_bytes"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, int], says: str) -> None:
    given: dict[str, Any] = {"passages": 1000, "dimension": 8} | arguments
    with pytest.raises(ConfigError, match=says):
        choose(**given)


@pytest.mark.core
def test_lists_grow_with_the_root_and_probes_are_never_more_than_lists() -> None:
    assert lists_for(16 * 10**6) == 4 * lists_for(10**6)
    assert nprobe_for(0.95, 4) == 4
    assert nprobe_for(1.0, 4096) == 4096
    assert nprobe_for(0.95, 32_768) == 2 * nprobe_for(0.95, 8192)


@pytest.mark.core
def test_memory_by_default_is_a_part_of_what_there_is() -> None:
    assert 10**7 < usable_memory() < 10**14
    assert all(KINDS[name].settings["nprobe"] == 0 for name in REACH)


def test_bytes_of_codes_are_what_faiss_says() -> None:
    faiss = pytest.importorskip("faiss")
    for dimension in (30, 32, 100, 385):
        for kind in KINDS.values():
            index = faiss.index_factory(dimension, kind.factory_for(1000, dimension), faiss.METRIC_INNER_PRODUCT)
            lists = faiss.try_extract_index_ivf(index)
            if lists is not None:
                assert kind.code_bytes(dimension) == lists.code_size + 8, kind.name
            elif kind.name != "hnsw":
                assert kind.code_bytes(dimension) == index.sa_code_size(), kind.name


def test_factory_strings_pass_through() -> None:
    pytest.importorskip("faiss")
    assert choose(1000, 32, kind="IVF64,SQ4").factory == "IVF64,SQ4"
    assert choose(1000, 32, kind="IVF64,SQ4").settings["nprobe"] >= 8
    assert kind_of("HNSW32,Flat", 32).code_bytes(32) == KINDS["hnsw"].code_bytes(32)
    with pytest.raises(ConfigError, match="'kd-tree' is no kind of index; give one of flat, "):
        choose(1000, 32, kind="kd-tree")
