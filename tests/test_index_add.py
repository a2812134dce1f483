"""Adding to an index: only what is new is encoded, and until the larger one is whole the old one stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.retrieval_fakes import CORPUS, WordEncoder
from tests.test_index_build import MANY, Slow, contents, ids, small_blocks, write
from toolenv import ConfigError, DataError
from toolenv.retrieval.base import Passage
from toolenv.retrieval.index import PassageStore, add_to_index, build_index, open_index
from toolenv.retrieval.index.manifest import read_manifest

__all__ = ["small_blocks"]
pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.mark.parametrize("kind", ["auto", "flat-fp16"])
def test_adding_encodes_new_passages_alone_and_ends_as_a_whole_build(tmp_path: Path, kind: str) -> None:
    half, rest, whole = (
        write(tmp_path / f"{n}.jsonl", p) for n, p in [("a", MANY[::2]), ("b", MANY[1::2]), ("c", MANY)]
    )
    folder = build_index(half, tmp_path / "index", encoder=WordEncoder(), kind=kind, progress=False)
    build_index(whole, tmp_path / "whole", encoder=WordEncoder(), kind=kind, progress=False)
    before = open_index(folder, encoder=WordEncoder())
    found_before = ids(before)
    encoder = WordEncoder()
    add_to_index(folder, rest, encoder=encoder, progress=False)
    assert sum(encoder.batches) == 45
    after, want = (open_index(path, encoder=WordEncoder()) for path in (folder, tmp_path / "whole"))
    assert ids(after) == ids(want)
    assert after.passages == want.passages
    assert [Path(corpus.path).name for corpus in read_manifest(folder).corpora] == ["a.jsonl", "b.jsonl"]
    assert ids(before) == found_before  # what was open goes on


def test_adding_what_is_there_or_being_interrupted_leaves_the_index(tmp_path: Path) -> None:
    folder = build_index(write(tmp_path / "c.jsonl"), tmp_path / "index", encoder=WordEncoder(), progress=False)
    whole = contents(folder)
    with pytest.raises(DataError, match="the passage id 'p0' twice"):
        add_to_index(folder, CORPUS[:1], encoder=WordEncoder(), progress=False)
    with pytest.raises(KeyboardInterrupt):
        add_to_index(folder, MANY, encoder=Slow(40), progress=False)
    assert contents(folder) == whole
    assert ids(open_index(folder, encoder=WordEncoder()))
    encoder = WordEncoder()
    add_to_index(folder, MANY, encoder=encoder, progress=False)
    assert 0 < sum(encoder.batches) < 90  # it goes on
    assert len(PassageStore(folder)) == 100
    with pytest.raises(ConfigError, match="cannot be made by name; give it"):
        add_to_index(folder, [Passage("new", "", "x")], progress=False)
    with pytest.raises(DataError, match="there is no index"):
        add_to_index(tmp_path / "no" / "index", CORPUS)
