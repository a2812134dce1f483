"""Dense indexes: every kind finds what it should, answers do not depend on the batch, and broken files are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from toolenv import ConfigError, DataError, RetrieverError
from toolenv.retrieval.index import training
from toolenv.retrieval.index.choose import Choice, choose
from toolenv.retrieval.index.dense import DenseIndex
from toolenv.retrieval.index.kinds import KINDS
from toolenv.retrieval.index.recall import flat_nearest, measure_recall, ranked, recall_at
from toolenv.retrieval.index.training import train_and_add
from toolenv.retrieval.index.vectors import VectorFile, chunks, create_vectors, open_vectors
from toolenv.seeding import rng

pytest.importorskip("faiss")

DIMENSION = 24
FACTORIES = ["IVF64,SQ4", "RR24,IVF32_HNSW32,RaBitQfs3", "HNSW16,SQ8"]
FLOORS = {"flat": 1.0, "flat-fp16": 1.0, "sq8": 0.99, "hnsw": 0.97, "ivf-pq": 0.75}  # recall@3; the others: below


@cache
def cloud(rows: int, seed: int = 0, long: bool = False) -> NDArray[np.float16]:
    """Vectors in groups, as texts are; ``long``: of many lengths, so that inner product and distance disagree."""
    draw = rng(seed, "cloud")
    centres = draw.normal(size=(64, DIMENSION))
    vectors = centres[draw.integers(64, size=rows)] + 0.7 * draw.normal(size=(rows, DIMENSION))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if long:
        vectors *= draw.uniform(0.5, 2, size=(rows, 1))
    return vectors.astype(np.float16)


def asked(vectors: NDArray[np.float16], count: int) -> NDArray[np.float32]:
    draw = rng(1, "questions")
    near = vectors[draw.choice(len(vectors), count)].astype(np.float32)
    return (near + 0.15 * draw.normal(size=near.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Choice]]:
    """Indexes of 20,000 vectors, each built once; the vectors are a mapped file."""
    folder = tmp_path_factory.mktemp("indexes")
    cloud(20_000).tofile(folder / "vectors.f16")

    @cache
    def build(kind: str) -> tuple[Path, Choice]:
        path = folder / f"{abs(hash(kind))}.faiss"
        choice = choose(20_000, DIMENSION, kind=kind)
        train_and_add(choice, mapped(folder), path, progress=False)
        return path, choice

    return build


def mapped(folder: Path, rows: int = 20_000) -> Any:
    return open_vectors(folder / "vectors.f16", rows, DIMENSION)


def opened(built: tuple[Path, Choice]) -> DenseIndex:
    path, choice = built
    return DenseIndex(path, mapped(path.parent), choice)


def recall(index: DenseIndex, queries: NDArray[np.float32], k: int = 3) -> float:
    wide = np.asarray(index.vectors).astype(np.float64)
    truth = -np.sort(-(queries.astype(np.float64) @ wide.T), axis=1)[:, :k]
    return recall_at([scores for _, scores in ranked(index, queries, k)], truth, k)


@pytest.mark.parametrize("kind", [*KINDS, *FACTORIES])
def test_every_kind_finds_and_answers_alike(built: Any, kind: str) -> None:
    index = opened(built(kind))
    queries = asked(cloud(20_000), 100)
    assert recall(index, queries) >= FLOORS.get(kind, 0.85)
    batch = ranked(index, queries, 3)
    for place in (0, 17, 99):
        rows, scores = ranked(index, queries[place : place + 1], 3)[0]
        np.testing.assert_array_equal(rows, batch[place][0])
        np.testing.assert_array_equal(scores, batch[place][1])
    if not KINDS.get(kind, KINDS["flat"]).exact or kind in FACTORIES:  # the very candidates, and not only the answer
        candidates = index.nearest(queries, 3)
        turned = index.nearest(queries[::-1], 3)[::-1]
        for one, other in zip(candidates, turned, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["flat", "flat-fp16", "hnsw", "ivf-sq8", "rabitq", "ivf-pq"])
def test_it_is_the_inner_product_and_not_the_distance(tmp_path: Path, kind: str) -> None:
    vectors = cloud(4_000, long=True)
    choice = choose(4_000, DIMENSION, kind=kind)
    train_and_add(choice, vectors, tmp_path / "i", progress=False)
    index = DenseIndex(tmp_path / "i", vectors, choice)
    if "nprobe" in index.settings:
        index.tune({"nprobe": 64, "depth": 64})
    queries = asked(vectors, 100)
    wide = vectors.astype(np.float32)
    products = queries @ wide.T
    nearest = np.argsort((wide**2).sum(axis=1) - 2 * products, axis=1)[:, :3]
    by_distance = list(np.take_along_axis(products, nearest, axis=1))
    assert recall_at(by_distance, -np.sort(-products, axis=1), 3) < 0.6  # the two disagree here
    assert recall(index, queries) > 0.8


def test_another_process_answers_alike(built: Any) -> None:
    path, choice = built("rabitq")
    queries = asked(cloud(20_000), 20)
    np.save(path.parent / "queries.npy", queries)
    code = (
        "import sys, json, numpy as np; from pathlib import Path\n"
        "from toolenv.retrieval.index.choose import Choice\n"
        "from toolenv.retrieval.index.dense import DenseIndex\n"
        "from toolenv.retrieval.index.vectors import open_vectors\n"
        "path, choice = Path(sys.argv[1]), Choice.from_record(json.loads(sys.argv[2]))\n"
        f"vectors = open_vectors(path.parent / 'vectors.f16', 20_000, {DIMENSION})\n"
        "index = DenseIndex(path, vectors, choice, threads=1)\n"
        "q = np.load(path.parent / 'queries.npy')\n"
        "rows = index.nearest(q, 3)\n"
        "print(json.dumps([[r.tolist(), s.tolist()] for r, s in zip(rows, index.scores(q, rows))]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), json.dumps(choice.record())], capture_output=True, text=True, check=True
    )
    index = opened((path, choice))
    rows = index.nearest(queries, 3)
    assert json.loads(done.stdout) == [
        [r.tolist(), s.tolist()] for r, s in zip(rows, index.scores(queries, rows), strict=True)
    ]


def test_scores_are_float64_products_of_the_stored_vectors(built: Any) -> None:
    index = opened(built("rabitq1"))
    queries = asked(cloud(20_000), 3)
    rows = index.nearest(queries, 3)
    for query, near, scores in zip(queries, rows, index.scores(queries, rows), strict=True):
        stored = cloud(20_000)[near].astype(np.float64)
        assert np.abs(scores - stored @ query.astype(np.float64)).max() < 1e-12


def test_a_forked_process_searches(built: Any) -> None:
    index = opened(built("rabitq"))
    queries = asked(cloud(20_000), 4)
    here = index.nearest(queries, 3)  # the pool's threads are running
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        rows = index.nearest(queries, 3)
        same = all(np.array_equal(a, b) for a, b in zip(here, rows, strict=True))
        os.write(write, b"y" if same else b"n")
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"y"
    os.close(read)


def test_more_lists_and_candidates_find_more(built: Any) -> None:
    index = opened(built("rabitq1"))
    queries = asked(cloud(20_000), 100)
    recalls = []
    for nprobe, depth in ((1, 3), (8, 16), (64, 256)):
        index.tune({"nprobe": nprobe, "depth": depth})
        recalls.append(recall(index, queries))
    assert recalls[0] < recalls[1] < recalls[2]
    assert recalls[2] > 0.97
    with pytest.raises(ConfigError, match="no setting 'probes'"):
        index.tune({"probes": 3})
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        index.tune({"nprobe": 0})


def test_asking_for_more_than_there_is(tmp_path: Path) -> None:
    vectors = cloud(10)
    for kind in KINDS:
        choice = choose(10, DIMENSION, kind=kind)
        if kind == "ivf-pq":
            continue  # it cannot learn 16 centres from 10 vectors, and says so
        train_and_add(choice, vectors, tmp_path / "i", progress=False)
        rows = DenseIndex(tmp_path / "i", vectors, choice).nearest(asked(vectors, 2), 50)
        assert all(sorted(set(r.tolist())) == sorted(r.tolist()) for r in rows)
        assert all(len(r) <= 10 and r.min() >= 0 for r in rows)
    with pytest.raises(DataError, match=r"cannot be made of 10 vectors.*choose another kind"):
        train_and_add(choose(10, DIMENSION, kind="ivf-pq"), vectors, tmp_path / "i", progress=False)


def test_a_full_disk_is_a_retriever_error(tmp_path: Path) -> None:
    full = tmp_path / "no folder" / "i"
    vectors = cloud(10)
    with pytest.raises(RetrieverError, match=r"cannot be made at .*call again"):
        train_and_add(choose(10, DIMENSION, kind="sq8"), vectors, full, progress=False)


def test_flat_over_float32_needs_no_file(tmp_path: Path) -> None:
    vectors = cloud(500).astype(np.float32)
    choice = choose(500, DIMENSION)
    train_and_add(choice, vectors, tmp_path / "i", progress=False)
    assert not list(tmp_path.iterdir())
    index = DenseIndex(tmp_path / "i", vectors, choice)
    assert recall(index, asked(cloud(500), 20), 5) == 1.0


@pytest.mark.parametrize("kind", ["flat-fp16", "ivf-sq8", "rabitq", "ivf-pq", "hnsw"])
def test_a_file_that_was_cut_is_told(tmp_path: Path, kind: str) -> None:
    vectors = cloud(2_000)
    choice = choose(2_000, DIMENSION, kind=kind)
    path = tmp_path / "i"
    train_and_add(choice, vectors, path, progress=False)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(RetrieverError, match="cannot be opened"):
            DenseIndex(path, vectors, choice)
    path.unlink()
    with pytest.raises(RetrieverError, match="cannot be opened"):
        DenseIndex(path, vectors, choice)


def test_vectors_that_do_not_belong_are_told(built: Any) -> None:
    path, choice = built("rabitq")
    with pytest.raises(RetrieverError, match="19999 of 24 dimensions"):
        DenseIndex(path, cloud(20_000)[:-1], choice)
    other = choose(19_999, DIMENSION, kind="rabitq")
    with pytest.raises(RetrieverError, match="holds 20000 vectors"):
        DenseIndex(path, cloud(20_000)[:-1], other)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused(built: Any, tmp_path: Path, bad: float) -> None:
    index = opened(built("rabitq"))
    query = asked(cloud(20_000), 1)
    query[0, 3] = bad
    with pytest.raises(RetrieverError, match="no finite number"):
        index.nearest(query, 3)
    with pytest.raises(RetrieverError, match=r"must be \(B, 24\)"):
        index.nearest(np.zeros((1, 7), np.float32), 3)
    vectors = cloud(3_000).copy()
    vectors[1_234, 5] = bad
    with pytest.raises(DataError, match="vector 1234"):
        train_and_add(choose(3_000, DIMENSION, kind="sq8"), vectors, tmp_path / "i", progress=False)
    assert not (tmp_path / "i").exists()


def test_no_queries_no_answers(built: Any) -> None:
    index = opened(built("rabitq"))
    assert index.nearest(np.zeros((0, DIMENSION), np.float32), 3) == []


def test_a_build_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = cloud(5_000)
    choice = choose(5_000, DIMENSION, kind="rabitq")
    path = tmp_path / "index.faiss"
    monkeypatch.setattr(training, "ADDED_AT_ONCE", 1_000)
    monkeypatch.setattr(training, "KEEP_EVERY_S", 0.0)
    trainings = []
    real = training._trained

    def trained(*args: Any) -> Any:
        trainings.append(1)
        return real(*args)

    monkeypatch.setattr(training, "_trained", trained)
    given = chunks(vectors, 1_000)

    def killed(*_: Any) -> Any:
        yield next(given)
        yield next(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "chunks", killed)
    with pytest.raises(KeyboardInterrupt):
        train_and_add(choice, vectors, path, progress=False)
    assert not path.exists()
    starts = []

    def watched(vectors: Any, size: int, first: int) -> Any:
        starts.append(first)
        return chunks(vectors, size, first)

    monkeypatch.setattr(training, "chunks", watched)
    train_and_add(choice, vectors, path, progress=False)
    assert trainings == [1]
    assert starts == [2_000]
    assert [p.name for p in tmp_path.iterdir()] == ["index.faiss"]
    assert recall(DenseIndex(path, vectors, choice), asked(vectors, 50)) > 0.85


def test_a_part_that_was_cut_is_made_again(tmp_path: Path) -> None:
    vectors = cloud(2_000)
    choice = choose(2_000, DIMENSION, kind="ivf-sq8")
    training._part(choice, tmp_path / "i", 0).write_bytes(b"IwSq, and then nothing")
    train_and_add(choice, vectors, tmp_path / "i", progress=False)
    assert len(DenseIndex(tmp_path / "i", vectors, choice)) == 2_000


def test_the_same_seed_makes_the_same_index(tmp_path: Path) -> None:
    vectors = cloud(3_000)
    choice = choose(3_000, DIMENSION, kind="rabitq")
    answers = []
    for name in ("a", "b"):
        train_and_add(choice, vectors, tmp_path / name, progress=False, seed=3)
        index = DenseIndex(tmp_path / name, vectors, choice)
        answers.append([rows.tolist() for rows, _ in ranked(index, asked(vectors, 50), 3)])
    same = sum(a == b for a, b in zip(*answers, strict=True))
    assert same >= 48  # sums over threads may differ in their last bit, and a vector on an edge with them


def test_recall_is_measured_against_flat(built: Any) -> None:
    index = opened(built("rabitq"))
    result = measure_recall(index, index.vectors, 100, progress=False)
    assert result["sample"] == 100
    assert result["settings"] == index.settings
    assert 0.8 < result["recall@3"] <= 1
    assert result == measure_recall(index, index.vectors, 100, progress=False)
    flat = opened(built("flat-fp16"))
    given = measure_recall(flat, flat.vectors, 50, queries=asked(cloud(20_000), 80), progress=False)
    assert (given["recall@1"], given["recall@5"], given["sample"], given["queries"]) == (1.0, 1.0, 50, "given")
    index.tune({"nprobe": 1, "depth": 3})
    assert measure_recall(index, index.vectors, 100, progress=False)["recall@3"] < result["recall@3"]
    with pytest.raises(ConfigError, match="at least 1"):
        measure_recall(index, index.vectors, 0)


def test_settings_are_raised_until_the_recall_is_reached(built: Any) -> None:
    index = opened(built("rabitq1"))
    index.tune({"nprobe": 1, "depth": 3})
    result = measure_recall(index, index.vectors, 100, reach=0.95, progress=False)
    assert result["recall@3"] >= 0.95
    assert result["settings"] == index.settings
    assert index.settings["nprobe"] > 1
    flat = opened(built("flat-fp16"))
    assert measure_recall(flat, flat.vectors, 10, reach=1.0, progress=False)["settings"] == {}


def test_passages_alike_are_no_miss(tmp_path: Path) -> None:
    vectors = np.repeat(cloud(10), 30, axis=0)
    choice = choose(300, DIMENSION)
    train_and_add(choice, vectors, tmp_path / "i", progress=False)
    assert measure_recall(DenseIndex(tmp_path / "i", vectors, choice), vectors, 50, progress=False)["recall@5"] == 1.0


def test_recall_by_hand() -> None:
    truth = np.array([[0.9, 0.8, 0.7], [0.5, 0.4, 0.3]])
    found = [np.array([0.8, 0.7, 0.1]), np.array([0.5])]
    assert recall_at(found, truth, 1) == 0.5
    assert recall_at(found, truth, 3) == pytest.approx(3 / 6)
    vectors = np.array([[1, 0], [0, 1], [1, 1], [2, 0]], np.float16)
    rows, scores = flat_nearest(vectors, np.array([[1, 0]], np.float32), 3)
    assert rows.tolist() == [[3, 0, 2]]  # rows 0 and 2 tie: in order
    assert scores.tolist() == [[2, 1, 1]]


def test_vectors_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "v"
    made = create_vectors(path, 5, 3)
    made[:] = np.arange(15).reshape(5, 3)
    del made
    assert create_vectors(path, 5, 3)[4].tolist() == [12, 13, 14]  # what is there stays
    file = VectorFile(open_vectors(path, 5, 3))
    assert file.read(np.array([4, 0])).tolist() == [[12, 13, 14], [0, 1, 2]]
    assert file.read(slice(1, 3)).tolist() == [[3, 4, 5], [6, 7, 8]]
    assert [(start, len(part)) for start, part in chunks(open_vectors(path, 5, 3), 2, 1)] == [(1, 2), (3, 2)]
    with pytest.raises(DataError, match="has 30 bytes; 6 vectors of 3 dimensions take 36"):
        open_vectors(path, 6, 3)
    with pytest.raises(DataError, match="does not exist"):
        open_vectors(tmp_path / "none", 6, 3)


def test_vectors_cut_while_they_are_open_are_told(tmp_path: Path) -> None:
    cloud(2_000).tofile(tmp_path / "vectors.f16")
    choice = choose(2_000, DIMENSION, kind="rabitq")
    train_and_add(choice, mapped(tmp_path, 2_000), tmp_path / "i", progress=False)
    index = DenseIndex(tmp_path / "i", mapped(tmp_path, 2_000), choice)
    os.truncate(tmp_path / "vectors.f16", 0)
    queries = asked(cloud(2_000), 1)
    with pytest.raises(RetrieverError, match="ends before row"):
        index.scores(queries, index.nearest(queries, 3))
