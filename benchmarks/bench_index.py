"""Every kind of dense index beside Flat: recall, latency, memory and build time, at real size and at a million.

Run: ``python -m benchmarks.bench_index`` on a machine that does nothing else, with two cores as it is published. It
takes the passages of wikipedia-2006 and the questions of squad-wiki, encodes them with MiniLM where that is not done
yet (about half an hour), makes a million vectors out of the real ones (``benchmarks/index_vectors.py``), builds every
kind, and writes ``benchmarks/results/index.json``. What is done is kept in ``--folder``, and a call that was stopped
goes on. ``--vectors`` and ``--queries`` take ``.npy`` files of vectors instead. ``--proof`` holds a process that
searches the recommended index to 260 bytes a passage (``benchmarks/index_proof.py``), beside Flat, and adds what it
found.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.progress import Progress
from toolenv.retrieval.index.choose import Choice, choose
from toolenv.retrieval.index.dense import DenseIndex
from toolenv.retrieval.index.kinds import KINDS
from toolenv.retrieval.index.recall import CUTS, flat_nearest, ranked, recall_at
from toolenv.retrieval.index.training import train_and_add
from toolenv.retrieval.index.vectors import Vectors
from toolenv.seeding import rng

from .index_vectors import grown, nearness

RESULTS = Path(__file__).with_name("results") / "index.json"
ROWS = 1_000_000
QUERIES = 10_000
JUDGED = 1_000  # of them, those whose recall is measured
BATCH = 64
BATCHES = 20
RUNS = 5  # of the proof: the one in the middle counts
ALONE = 200
MEMORY_A_PASSAGE = 260
GOAL_MS, GOAL_RECALL = 40.0, 0.95
WIKI_18 = 21_015_324  # passages of Search-R1's corpus
E5_DIMENSION = 768


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "toolenv" / "bench_index")
    parser.add_argument("--vectors", type=Path, help=".npy with the vectors of real passages")
    parser.add_argument("--queries", type=Path, help=".npy with the vectors of real questions")
    parser.add_argument("--rows", type=int, default=ROWS, help="how many vectors to grow them to")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), help="kinds, or factory strings of FAISS")
    parser.add_argument("--proof", action="store_true", help="the run within a memory limit instead of the table")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    real = _real(options)
    queries = _queries(options)
    result = _load() | {"machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"}
    if options.proof:
        result["proof"] = _proof(options, real, queries)
    else:
        for vectors in (real, grown(real, options.rows, options.folder / f"grown-{options.rows}.f16")):
            result = _table(result, vectors, queries, options)
    _save(result)


def _real(options: argparse.Namespace) -> Vectors:
    """Vectors of real passages."""
    if options.vectors:
        return np.asarray(np.load(options.vectors), np.float16)
    from toolenv.retrieval.index import build_index

    folder = options.folder / "wikipedia-2006"
    if not folder.is_dir():
        build_index("wikipedia-2006", folder, retriever="faiss", encoder="minilm", kind="flat-fp16")
    return np.fromfile(folder / "vectors.f16", np.float16).reshape(-1, 384)


def _queries(options: argparse.Namespace) -> NDArray[np.float32]:
    """``QUERIES`` different queries: real questions, and where they are too few, such as are moved towards another."""
    cache = options.folder / "queries.npy"
    if options.queries:
        real = np.load(options.queries).astype(np.float32)
    elif cache.is_file():
        real = np.load(cache)
    else:
        from toolenv.data.squad_wiki import load_squad_wiki
        from toolenv.retrieval.encoders import make_encoder

        texts = [task.prompt for task in load_squad_wiki().tasks]
        chosen = rng(0, "questions").permutation(len(texts))[:QUERIES]
        encoder = make_encoder("minilm")
        parts, said = [], Progress("encoding questions", len(chosen))
        for start in range(0, len(chosen), BATCH):
            parts.append(encoder.encode([texts[row] for row in chosen[start : start + BATCH]], "query"))
            said.show(start)
        real = np.concatenate(parts)
        np.save(cache, real)
    real = real[:QUERIES]
    draw = rng(0, "more queries")
    pairs = draw.integers(len(real), size=(max(0, QUERIES - len(real)), 2))
    more = 0.75 * real[pairs[:, 0]] + 0.25 * real[pairs[:, 1]]
    more /= np.linalg.norm(more, axis=1, keepdims=True)
    return np.concatenate([real, more]).astype(np.float32)


def _truth(folder: Path, vectors: Vectors, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores of the nearest by comparing with every vector; kept."""
    kept = folder / f"truth-{len(vectors)}.npz"
    key = float(np.asarray(vectors[-1], np.float64).sum() + queries.sum(dtype=np.float64))
    if kept.is_file():
        stored = np.load(kept)
        if float(stored["key"]) == key:
            return np.asarray(stored["scores"])
    _, scores = flat_nearest(vectors, queries, max(CUTS), progress=True)
    np.savez(kept, scores=scores, key=key)
    return scores


def _table(
    result: dict[str, Any], vectors: Vectors, queries: NDArray[np.float32], options: argparse.Namespace
) -> dict[str, Any]:
    """The rows of one size; each is written when it is measured, and not measured again."""
    size = str(len(vectors))
    table = result.setdefault(size, {"nearness": nearness(vectors), "kinds": {}})
    judged = queries[:JUDGED]
    truth = _truth(options.folder, vectors, judged)
    for kind in options.kinds:
        if kind in table["kinds"]:
            continue
        index, build_s = _index(options.folder, kind, vectors)
        for nprobe in (32, 64, 128, 256) if "nprobe" in index.settings else (0,):
            if nprobe:
                index.tune({"nprobe": nprobe})
            name = f"{kind} nprobe {nprobe}" if nprobe else kind
            table["kinds"][name] = _measured(index, judged, truth) | {"build_s": round(build_s, 1)}
            print(size, name, table["kinds"][name], flush=True)
        table["kinds"][kind] = table["kinds"][name]
        _save(result)
    return result


def _index(folder: Path, kind: str, vectors: Vectors) -> tuple[DenseIndex, float]:
    """The index of a kind, built where it is not there."""
    choice = choose(len(vectors), vectors.shape[1], kind=kind)
    path = folder / f"{len(vectors)}-{choice.factory.replace(',', '-')}.faiss"
    took = path.with_suffix(".seconds")
    if not path.is_file() or not took.is_file():
        started = time.perf_counter()
        train_and_add(choice, vectors, path)
        took.write_text(str(time.perf_counter() - started), encoding="ascii")
    return DenseIndex(path, vectors, choice), float(took.read_text(encoding="ascii"))


def _measured(index: DenseIndex, queries: NDArray[np.float32], truth: NDArray[np.float32]) -> dict[str, Any]:
    """Recall over all queries; medians of the times."""
    found = [scores for _, scores in ranked(index, queries, max(CUTS))]
    alone = [_timed(index, queries[row : row + 1]) for row in range(ALONE)]
    starts = [BATCH * (number % (len(queries) // BATCH)) for number in range(BATCHES)]
    batches = [_timed(index, queries[start : start + BATCH]) for start in starts]
    batch_s = statistics.median(batches)
    return {
        **{f"recall@{k}": round(recall_at(found, truth, k), 4) for k in CUTS},
        "one_query_ms": round(1000 * statistics.median(alone), 2),
        "batch_of_64_ms": round(1000 * batch_s, 1),
        "queries_per_s": round(BATCH / batch_s),
        "bytes_a_vector": round(index.path.stat().st_size / len(index), 1),
        "settings": dict(index.settings),
    }


def _timed(index: DenseIndex, queries: NDArray[np.float32]) -> float:
    started = time.perf_counter()
    ranked(index, queries, 3)
    return time.perf_counter() - started


def _proof(options: argparse.Namespace, real: Vectors, queries: NDArray[np.float32]) -> dict[str, Any]:
    """Hold the recommended index to its memory, and judge what it found beside Flat."""
    path = options.folder / f"grown-{options.rows}.f16"
    vectors = grown(real, options.rows, path)
    limit = MEMORY_A_PASSAGE * len(vectors)
    choice = choose(len(vectors), vectors.shape[1], memory_bytes=limit, recall=GOAL_RECALL)
    index, build_s = _index(options.folder, choice.kind, vectors)
    asked, found = options.folder / "asked.npy", options.folder / "found.npy"
    np.save(asked, queries)
    job = {
        "index": str(index.path),
        "vectors": str(path),
        "choice": choice.record(),
        "limit_bytes": limit,
        "queries": str(asked),
        "found": str(found),
    }
    del index
    command = [sys.executable, "-m", "benchmarks.index_proof", json.dumps(job)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    runs: list[dict[str, Any]] = []
    for _ in range(RUNS):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        runs.append(json.loads(done.stdout))
        print(json.dumps(runs[-1]), flush=True)
    runs.sort(key=lambda run: float(run["all_ms"]["median"]))
    held = runs[RUNS // 2] | {"medians_of_all_runs_ms": [run["all_ms"]["median"] for run in runs]}
    truth = _truth(options.folder, vectors, queries[:JUDGED])
    rows = np.load(found)[:JUDGED]
    scores = [_products(vectors, near, query) for near, query in zip(rows, queries, strict=False)]
    recall = {f"recall@{k}": round(recall_at(scores, truth, k), 4) for k in (1, 3)}
    verdict = held["all_ms"]["median"] <= GOAL_MS and recall["recall@3"] >= GOAL_RECALL
    proof = (
        held
        | recall
        | {
            "passages": len(vectors),
            "choice": choice.record(),
            "build_s": round(build_s, 1),
            "met": bool(verdict),
            "beside": _beside(vectors, queries),
            "at_21M": _at_wikipedia_size(vectors.shape[1]),
        }
    )
    print(json.dumps(proof, indent=1))
    return proof


def _products(vectors: Vectors, rows: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float64]:
    near = np.asarray(vectors[rows[rows >= 0]], np.float64)
    return np.asarray(near @ query.astype(np.float64))


def _beside(vectors: Vectors, queries: NDArray[np.float32]) -> dict[str, Any]:
    """Flat in float32 over the same vectors in the same minute, without a limit; and Search-R1's set-up on paper."""
    import faiss

    flat = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, len(vectors), 16_384):
        flat.add(np.asarray(vectors[start : start + 16_384], np.float32))
    flat.search(queries[:BATCH], 3)
    times = []
    for number in range(5):
        started = time.perf_counter()
        flat.search(queries[BATCH * number : BATCH * (number + 1)], 3)
        times.append(time.perf_counter() - started)
    return {
        "flat_batch_of_64_ms": round(1000 * statistics.median(times), 1),
        "flat_bytes_a_passage": 4 * vectors.shape[1],
        "flat_peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "search_r1": {
            "what": "E5-base, 768 dimensions, Flat in float16 over all GPUs (published set-up; not run here)",
            "passages": WIKI_18,
            "bytes_a_passage": 2 * E5_DIMENSION,
            "gigabytes": round(2 * E5_DIMENSION * WIKI_18 / 1e9, 1),
        },
    }


def _at_wikipedia_size(dimension: int) -> dict[str, Any]:
    """What 21M passages would take: bytes follow from the codes; lists looked into grow with the root of the lists."""
    choice: Choice = choose(WIKI_18, dimension, memory_bytes=MEMORY_A_PASSAGE * WIKI_18)
    at_1m = choose(ROWS, dimension, kind=choice.kind)
    lists, lists_1m = (int(c.factory.split("_")[0][3:]) for c in (choice, at_1m))
    scanned = choice.settings["nprobe"] * WIKI_18 / lists
    scanned_1m = at_1m.settings["nprobe"] * ROWS / lists_1m
    return {
        "choice": choice.record(),
        "gigabytes_of_memory": round(choice.bytes_per_passage * WIKI_18 / 1e9, 2),
        "gigabytes_on_disk": round((choice.bytes_per_passage + 2 * dimension) * WIKI_18 / 1e9, 1),
        "codes_scanned_a_query": round(scanned),
        "times_as_many_as_at_1M": round(scanned / scanned_1m, 1),
    }


def _load() -> dict[str, Any]:
    if not RESULTS.is_file():
        return {}
    stored: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return stored


def _save(result: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
