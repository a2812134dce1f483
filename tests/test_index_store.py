"""Passages on disk: what goes in comes out, in the order of ids, whatever the passages are."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolenv import DataError, RetrieverError
from toolenv.retrieval.base import Passage
from toolenv.retrieval.index.store import PassageStore
from toolenv.retrieval.index.store_files import TEXTS, in_order_of_ids, passages_sha256

pytestmark = pytest.mark.core

TEXT = st.text(st.characters(exclude_categories=()), max_size=30)  # with NUL and lone surrogates
ID = TEXT | st.text("ab\0", max_size=24)  # many that share long beginnings
PASSAGES = st.lists(st.builds(Passage, ID, TEXT | st.just("T"), TEXT), min_size=1, unique_by=lambda p: p.id)


def store_of(passages: list[Passage]) -> PassageStore:
    return PassageStore.build(passages, tempfile.mkdtemp())


@given(PASSAGES)
def test_what_goes_in_comes_out_in_the_order_of_ids(passages: list[Passage]) -> None:
    store = store_of(passages)
    ordered = sorted(passages, key=lambda passage: passage.id)
    assert list(store) == ordered
    assert store[:] == tuple(ordered)
    assert [passage for _, passage in store.in_file_order()] == passages
    assert [ordered[row] for row, _ in store.in_file_order()] == passages
    assert [store.row_of(passage.id) for passage in ordered] == list(range(len(ordered)))
    assert store == ordered


@given(PASSAGES, TEXT | st.sampled_from(["T", "t"]))
def test_a_title_finds_its_passages_or_those_that_differ_in_case(passages: list[Passage], title: str) -> None:
    store = store_of(passages)
    exact = [row for row, passage in enumerate(store) if title and passage.title == title]
    alike = [row for row, passage in enumerate(store) if title and passage.title.casefold() == title.casefold()]
    assert store.rows_of_title(title).tolist() == (exact or alike)


@given(PASSAGES)
def test_the_sha256_is_of_the_passages_not_of_their_order(passages: list[Passage]) -> None:
    store = store_of(passages)
    assert store.sha256 == store_of(passages[::-1]).sha256 == passages_sha256(passages)
    changed = [Passage(p.id, p.title, p.text + "x" * (place == 0)) for place, p in enumerate(passages)]
    assert passages_sha256(changed) != store.sha256
    assert store != store_of(changed)


def test_two_passages_with_one_id_are_named_by_their_numbers() -> None:
    same_start = [Passage("an id that is long " + end, "", "") for end in "abcda"]
    with pytest.raises(DataError, match=r"'an id that is long a' twice, as passages number 1 and 5"):
        store_of(same_start)
    with pytest.raises(DataError, match="the corpus is empty"):
        store_of([])


def test_ids_sort_by_bytes_of_utf_8_as_strings_do() -> None:
    ids = [
        "",
        "\0",
        "\0\0",
        "a",
        "a\0",
        "ab",
        "é",
        "\ud800",
        "\uffff",
        "\U00010000",
        "1",
        "10",
        "2",
        "12345678",
        "1234567",
    ]
    encoded = [id.encode("utf-8", "surrogatepass") for id in ids]
    ends = np.cumsum([len(part) for part in encoded])
    order, twice = in_order_of_ids(np.frombuffer(b"".join(encoded), np.uint8), ends)
    assert twice is None
    assert [ids[place] for place in order] == sorted(ids)


def test_long_texts_and_many_threads(tmp_path: Path) -> None:
    passages = [Passage(f"{i:03d}", "T", "x" * (97 * i)) for i in range(200)]
    store = PassageStore.build(passages, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(store.__getitem__, list(range(200)) * 5)) == passages * 5


def test_a_store_is_pickled_by_its_place(tmp_path: Path) -> None:
    store = PassageStore.build([Passage("a", "", "x" * 10_000)], tmp_path)
    data = pickle.dumps(store)
    assert len(data) < 500
    assert pickle.loads(data) == store
    assert copy.deepcopy(store) is store
    PassageStore.build([Passage("a", "", "y")], tmp_path)
    with pytest.raises(RetrieverError, match="other passages than when this was pickled"):
        pickle.loads(data)


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    store = PassageStore.build([Passage("b", "", "x")], tmp_path)
    assert store[-1].id == "b"
    for row in (1, -2):
        with pytest.raises(IndexError, match="the store has 1"):
            store[row]
    for id in ("a", "c", ""):
        with pytest.raises(KeyError):
            store.row_of(id)


def test_a_store_that_was_cut_short_is_not_opened(tmp_path: Path) -> None:
    store = PassageStore.build([Passage("a", "", "some text")], tmp_path)
    whole = (tmp_path / TEXTS).read_bytes()
    (tmp_path / TEXTS).write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"passages\.bin: is cut short: {len(whole) - 1} bytes, expected {len(whole)}"):
        PassageStore(tmp_path)
    with pytest.raises(RetrieverError, match="no whole passage at byte 0: it ends 1 bytes early"):
        store[0]  # cut while it is open
    (tmp_path / TEXTS).unlink()
    with pytest.raises(DataError, match=r"passages\.bin: is missing"):
        PassageStore(tmp_path)
    with pytest.raises(DataError, match="holds no stored passages"):
        PassageStore(tmp_path / "nowhere")


def test_a_store_that_is_written_again_is_not_opened_half_way(tmp_path: Path) -> None:
    PassageStore.build([Passage("a", "", "x")], tmp_path)

    def failing() -> Iterator[Passage]:
        yield Passage("b", "", "y")
        raise DataError("line 2 is no passage")

    with pytest.raises(DataError, match="line 2"):
        PassageStore.build(failing(), tmp_path)
    with pytest.raises(DataError, match="holds no stored passages"):
        PassageStore(tmp_path)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolenv.retrieval.index.store_files.TEXTS", "../full")
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(RetrieverError, match="No space left on device"):
        PassageStore.build([Passage("a", "", "x")], tmp_path / "store")
