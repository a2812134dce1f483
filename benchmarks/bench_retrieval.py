"""Search on real questions: what finds the paragraph that was asked about, how fast, and in how much memory.

Run (it fetches what it needs):

- ``python -m benchmarks.bench_retrieval --quick``: 2,000 questions over 5,000 passages, minutes.
- ``python -m benchmarks.bench_retrieval``: 4,000 questions over 20,000 passages and over all 113,520, on a machine
  that does nothing else. Two cores encode them with MiniLM in about half an hour, less where
  ``toolenv index build wikipedia-2006`` did; the rest takes another. Indexes and ranks are kept in a folder
  (``--folder``), so that a run that was stopped goes on and a second one takes minutes.

Questions: SQuAD 1.1 dev and SQuADShifts new_wiki, drawn by a seed. Passages: their paragraphs, and those of
``wikipedia-2006``. The paragraph asked about counts, and no other, though another may hold the answer. The questions
were written from the paragraphs, which favours words. Where ``shared/data/qa`` holds NQ's questions, they are asked,
too: of them only the answer is known, so an answer that stands in a passage counts.

Weight and depth of the hybrid are tried on the first half of the questions and reported on the second, too. Writes
``benchmarks/results/retrieval.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolenv.data.assets import ASSETS, fetch
from toolenv.data.jsonl import load_tasks
from toolenv.errors import ToolEnvError
from toolenv.extras import require
from toolenv.retrieval import Retriever, add_to_index, build_index, open_index
from toolenv.retrieval.bm25 import BM25Retriever
from toolenv.retrieval.encoders import make_encoder
from toolenv.retrieval.hybrid import Fusion, HybridRetriever
from toolenv.retrieval.index import FaissRetriever, PassageStore
from toolenv.retrieval.index.build import built_index
from toolenv.retrieval.index.choose import choose
from toolenv.retrieval.index.dense import DenseIndex
from toolenv.retrieval.index.training import train_and_add

from .retrieval_quality import BACKGROUND, Pool, answers_found, gain, hits, make_pool, ranks, summary

RESULTS = Path(__file__).with_name("results") / "retrieval.json"
SHARED = Path(os.environ.get("TOOLENV_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")
NQ = SHARED / "qa" / "NQ-open.dev.jsonl"
KINDS = ("sq8", "hnsw", "ivf-sq8", "ivf-pq", "rabitq")
Setting = tuple[Fusion, float, int]
"""Of a hybrid: fusion, weight and depth."""
SHORT_SWEEP: tuple[Setting, ...] = (("z", 1.0, 100), ("z", 1.5, 100), ("rrf", 1.0, 100))
SWEEP: tuple[Setting, ...] = (
    *SHORT_SWEEP, ("z", 0.5, 100), ("z", 0.75, 100), ("z", 1.25, 100), ("z", 2.0, 100), ("z", 1.0, 30), ("z", 1.0, 200),
)  # fmt: skip
BATCHES = (1, 8, 64)
HALVES, GAIN = "recall@3 of the halves", "recall@3 above the better one alone"
FLATS_FIRST = "of flat's first 3"
TIMED = 256
"""Questions timed at each size of batch."""


def main() -> None:
    """Measure, print and write."""
    options = parse()
    for name in ("squad-wiki", BACKGROUND, *options.encoders):
        if name in ASSETS:
            fetch(name)
    sizes: list[int | None] = [5_000] if options.quick else [20_000, None]
    if options.passages:
        sizes = [None if size == "all" else int(size) for size in options.passages]
    report: dict[str, Any] = {"machine": machine(), "seed": options.seed, "pools": []}
    for size in sizes:
        pool = make_pool(size, options.questions or (2_000 if options.quick else 4_000), options.seed)
        print(f"\n{len(pool.passages):,} passages, {len(pool.questions):,} questions", flush=True)
        report["pools"].append(measure(pool, options, sweep=not report["pools"]))
        if not options.quick:
            RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_retrieval", description="Search, measured.")
    parser.add_argument("--quick", action="store_true", help="a small pool; writes no results")
    parser.add_argument("--passages", nargs="+", metavar="N", help="sizes of the pool, or 'all'")
    parser.add_argument("--questions", type=int, help="how many questions")
    parser.add_argument("--encoders", nargs="+", default=["minilm", "wordllama"], help="what make_encoder takes")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), help="kinds of index to compare with flat")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-retrieval"), help="what is kept between runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--probe", nargs=2, metavar=("INDEX", "PART"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        probe(*options.probe)
        sys.exit()
    return options


def measure(pool: Pool, options: argparse.Namespace, sweep: bool) -> dict[str, Any]:
    """All that is measured over one pool: much of it, and all of the sweep, with the first encoder alone."""
    folder = options.folder / pool.key
    report: dict[str, Any] = {"passages": len(pool.passages), "questions": len(pool.questions), "retrievers": {}}
    bm25: NDArray[np.int64] | None = None
    for spec in options.encoders:
        try:
            encoder = make_encoder(spec)
        except ToolEnvError as error:
            print(f"{spec}: left out: {error}", flush=True)
            continue
        index, seconds = built(pool, folder, spec)
        opened = open_index(index, encoder=encoder)
        assert isinstance(opened, HybridRetriever)
        assert isinstance(opened.dense, FaissRetriever)
        flat = of_kind("flat", opened.dense, folder / f"{name_of(spec)}-flat.faiss")
        hybrid = HybridRetriever(flat, opened.lexical)
        if bm25 is None:
            bm25 = ranks(hybrid.lexical, pool.questions, "bm25", folder / "bm25.npy")
            report["retrievers"]["bm25"] = row("bm25", bm25)
            report["retrievers"]["bm25"]["speed"] = speed(hybrid.lexical, pool)
            report["retrievers"]["bm25"]["memory"] = probed(index, "bm25")
        is_first = spec == options.encoders[0]
        settings = SWEEP if sweep and is_first else SHORT_SWEEP
        report["retrievers"].update(of_encoder(spec, hybrid, bm25, settings, pool, folder, index, seconds))
        if is_first:
            report["retrievers"].update(of_stems(spec, hybrid, pool, folder))
            report["kinds"] = of_kinds(spec, hybrid, flat, pool, folder, options.kinds)
            if NQ.is_file() and not options.quick:
                report["NQ dev: an answer stands in a passage"] = of_answers(spec, hybrid)
    return report


def of_answers(spec: str, hybrid: HybridRetriever) -> dict[str, Any]:
    """Questions of NQ, whose answers are known, and whose passages are not."""
    asked = load_tasks(NQ)
    parts: dict[str, Retriever] = {"bm25": hybrid.lexical, spec: hybrid.dense, f"{spec} + bm25, z": hybrid}
    return {name: answers_found(part, asked, f"NQ, {name}") for name, part in parts.items()}


def built(pool: Pool, folder: Path, spec: str) -> tuple[Path, float | None]:
    """The index of a pool with an encoder, and how long it took to build, where it was built in one go.

    Where ``toolenv index build wikipedia-2006`` has encoded the most of a pool, its index is copied and added to.
    """
    index = folder / f"index-{name_of(spec)}"
    note = folder / f"{index.name}.seconds"
    begun = index.with_name(f"{index.name}.building").exists()
    usual = built_index(BACKGROUND, "hybrid") if spec == "minilm" and pool.is_whole else None
    if not index.exists() and usual is not None:
        aside = folder / f"{index.name}.copy"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(usual, aside)
        add_to_index(aside, [passage for passage in pool.passages if passage.id in pool.gold])
        aside.rename(index)
    elif not index.exists():
        started = time.monotonic()
        build_index(pool.passages, index, retriever="hybrid", encoder=spec)
        if not begun:
            note.write_text(f"{time.monotonic() - started:.1f}", encoding="ascii")
    return index, float(note.read_text(encoding="ascii")) if note.exists() else None


def of_kind(kind: str, encoded: FaissRetriever, path: Path) -> FaissRetriever:
    """A retriever of this kind over vectors that are there; made where it is not yet."""
    vectors, store = encoded.dense.vectors, encoded.passages
    assert isinstance(store, PassageStore)
    choice = choose(len(vectors), vectors.shape[1], kind=kind)
    if not path.exists():
        train_and_add(choice, vectors, path)
    return FaissRetriever.over(store, encoded.encoder, DenseIndex(path, vectors, choice), path.parent, "")


def of_encoder(
    spec: str,
    hybrid: HybridRetriever,
    bm25: NDArray[np.int64],
    settings: Iterable[Setting],
    pool: Pool,
    folder: Path,
    index: Path,
    build_s: float | None,
) -> dict[str, Any]:
    """An encoder alone, and its hybrids."""

    def places(retriever: Retriever, label: str) -> NDArray[np.int64]:
        return ranks(retriever, pool.questions, label, folder / f"{name_of(label)}.npy")

    dense = places(hybrid.dense, spec)
    rows = {spec: {**row(spec, dense), "build_s": build_s, "speed": speed(hybrid.dense, pool)}}
    rows[spec]["memory"] = probed(index, "faiss")
    best_alone = max((bm25, dense), key=lambda found: float(hits(found, 3).mean()))
    half = len(pool.questions) // 2
    tried: dict[str, float] = {}
    for fusion, weight, depth in settings:
        label = f"{spec} + bm25, {fusion}, weight {weight:g}, depth {depth}"
        joined = HybridRetriever(hybrid.dense, hybrid.lexical, weight, depth, fusion)
        found = places(joined, label)
        rows[label] = row(label, found)
        rows[label][HALVES] = [round(float(hits(part, 3).mean()), 4) for part in (found[:half], found[half:])]
        rows[label][GAIN] = gain(found, best_alone)
        tried[label] = rows[label][HALVES][0]
        if (fusion, weight, depth) == ("z", 1.0, 100):
            rows[label]["speed"] = speed(joined, pool)
            rows[label]["memory"] = probed(index, "hybrid")
            print(f"  {GAIN}: {rows[label][GAIN]}", flush=True)
    chosen = max(tried, key=lambda label: tried[label])
    print(f"  best on the first half: {chosen}; on the second {rows[chosen][HALVES][1]:.3f}")
    return rows


def of_stems(spec: str, hybrid: HybridRetriever, pool: Pool, folder: Path) -> dict[str, Any]:
    """BM25 over the stems of words, alone and in a hybrid."""
    kept = folder / "bm25-stems"
    if not kept.exists():
        BM25Retriever.build(hybrid.passages, kept.with_suffix(".building"), stemmer="english")
        kept.with_suffix(".building").rename(kept)
    stems = BM25Retriever.open(kept, hybrid.passages)
    parts: dict[str, Retriever] = {
        "bm25, stems": stems,
        f"{spec} + bm25, stems, z": HybridRetriever(hybrid.dense, stems),
    }
    return {
        label: row(label, ranks(part, pool.questions, label, folder / f"{name_of(label)}.npy"))
        for label, part in parts.items()
    }


def of_kinds(
    spec: str, hybrid: HybridRetriever, flat: FaissRetriever, pool: Pool, folder: Path, kinds: Iterable[str]
) -> dict[str, Any]:
    """Kinds of index over the same vectors, beside the exact one: alone, and in a hybrid."""
    report: dict[str, Any] = {}
    exact = ranks(flat, pool.questions, spec, folder / f"{name_of(spec)}.npy")
    sample = [task.prompt for task in pool.questions[:500]]
    nearest = [{p.id for p in found} for found in flat.search(sample, 3)]
    for kind in kinds:
        path = folder / f"{name_of(spec)}-{kind}.faiss"
        started = time.monotonic()
        retriever = of_kind(kind, flat, path)
        made_s = time.monotonic() - started
        found = ranks(retriever, pool.questions, f"{spec}, {kind}", folder / f"{name_of(spec)}-{kind}.npy")
        joined = HybridRetriever(retriever, hybrid.lexical)
        together = ranks(joined, pool.questions, f"hybrid, {kind}", folder / f"{name_of(spec)}-{kind}-hybrid.npy")
        same = [len(n & {p.id for p in f}) / len(n) for n, f in zip(nearest, retriever.search(sample, 3), strict=True)]
        report[kind] = {
            **row(f"{spec}, {kind}", found),
            FLATS_FIRST: round(float(np.mean(same)), 4),
            "recall@3 above flat": gain(found, exact),
            "recall@3 in a hybrid": summary(together)["recall@3"],
            "bytes_per_passage": round(path.stat().st_size / len(flat.passages), 1),
            "build_s": round(made_s, 1),
            "speed": speed(retriever, pool),
        }
        print(f"  {FLATS_FIRST}: {report[kind][FLATS_FIRST]:.3f}", flush=True)
    return report


def row(label: str, places: NDArray[np.int64]) -> dict[str, Any]:
    """What a retriever finds; printed."""
    found = summary(places)
    numbers = "  ".join(f"{name} {value[0]:.3f}" for name, value in found.items())
    low, high = found["recall@3"][1:]
    print(f"{label:46s} {numbers}  (recall@3 {low:.3f} to {high:.3f})", flush=True)
    return dict(found)


def speed(retriever: Retriever, pool: Pool) -> dict[str, float]:
    """Milliseconds of a search for 3 passages by size of batch, encoding counted; queries a second in the largest."""
    asked = [task.prompt for task in (pool.others or pool.questions)]
    retriever.search([f"{asked[0]} first"], 3)
    report: dict[str, float] = {}
    turn = 0
    for batch in BATCHES:
        taken = []
        for _ in range(max(5, TIMED // batch // 4)):
            turn += 1  # a question that no cache knows
            queries = [f"{asked[(turn * batch + i) % len(asked)]} ({turn})" for i in range(batch)]
            started = time.perf_counter()
            retriever.search(queries, 3)
            taken.append(time.perf_counter() - started)
        report[f"ms, batch of {batch}"] = round(1e3 * float(np.median(taken)), 2)
    report["queries a second"] = round(BATCHES[-1] / report[f"ms, batch of {BATCHES[-1]}"] * 1e3, 1)
    return report


def probed(index: Path, part: str) -> dict[str, float]:
    """Opening and memory, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_retrieval", "--probe", str(index.absolute()), part]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def probe(index: str, part: str) -> None:
    """Open an index, search it, and print how long the one took and what memory the other left."""
    require("faiss", "search")  # importing Python code is no part of opening
    started = time.perf_counter()
    retriever = open_index(index, retriever=None if part == "hybrid" else part)
    opened_ms = 1e3 * (time.perf_counter() - started)
    retriever.search(["who wrote the first encyclopaedia of the natural world?"] * 3, 3)
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    megabytes = {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}
    print(json.dumps({"open_ms": round(opened_ms, 2), **{f"{k}_mb": round(v, 1) for k, v in megabytes.items()}}))


def name_of(label: str) -> str:
    """A file name for a label."""
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in label)


def machine() -> dict[str, Any]:
    """Where this runs."""
    cores = len(os.sched_getaffinity(0))
    return {"python": platform.python_version(), "cores": cores, "processor": platform.machine()}


if __name__ == "__main__":
    main()
