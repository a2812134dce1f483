"""Searches an index with its memory held to a limit by a control group, and tells how long batches took.

``benchmarks.bench_index --proof`` starts this as a process of its own. It makes a group below its own, moves in, and
begins again inside, so that all that it touches is charged to the group: Python's heap, the pages of the index, and the
pages of the vectors that it reads. Cached pages of the two files are dropped before, since pages that another group has
paid for would be free. Files of libraries stay in the cache, because other processes use them; the peak of the resident
memory (``VmHWM``) counts them too.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import faiss  # noqa: F401 -- so that opening the index does not count its import
import numpy as np

from toolenv.retrieval.index.choose import Choice
from toolenv.retrieval.index.dense import DenseIndex
from toolenv.retrieval.index.recall import ranked
from toolenv.retrieval.index.vectors import open_vectors

BATCH = 64
GROUPS = Path("/sys/fs/cgroup/memory")


class Limited:
    """A control group of this process alone (cgroup v1, as root)."""

    def __init__(self, limit_bytes: int) -> None:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
        own = next((line.split(":", 2)[2] for line in lines if line.split(":", 2)[1] == "memory"), None)
        if own is None:
            raise SystemExit("the proof needs the memory controller of cgroup v1; on v2 run it under systemd-run")
        name = f"index-proof-{os.getpid()}"
        self.home = GROUPS / own.removesuffix(f"/{name}").lstrip("/")
        self.folder = self.home / name
        if own.endswith(name):
            return  # begun again inside
        self.folder.mkdir()
        self.write("memory.limit_in_bytes", limit_bytes)
        self.write("cgroup.procs", os.getpid())
        # Begin again, so that the heap of Python and its libraries is charged to the group, too.
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.index_proof", *sys.argv[1:]])

    def write(self, name: str, value: int) -> None:
        """Set a value of the group."""
        (self.folder / name).write_text(str(value), encoding="ascii")

    def state(self) -> dict[str, int]:
        """What the group is charged with, in bytes, and how often it had to let go of something."""
        stat = dict(line.split() for line in (self.folder / "memory.stat").read_text(encoding="ascii").splitlines())
        read = {
            name: int((self.folder / f"memory.{name}").read_text(encoding="ascii"))
            for name in ("limit_in_bytes", "usage_in_bytes", "max_usage_in_bytes", "failcnt")
        }
        return read | {name: int(stat[name]) for name in ("rss", "cache", "mapped_file")}

    def leave(self) -> None:
        """Move back and remove the group."""
        (self.home / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        self.write("memory.force_empty", 0)
        self.folder.rmdir()


def drop_pages(path: Path) -> None:
    """Write back and drop the cached pages of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def milliseconds(times_s: list[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile, and the longest."""
    at = {"median": 50, "p95": 95, "p99": 99, "max": 100}
    return {name: round(1000 * float(np.percentile(times_s, place)), 2) for name, place in at.items()}


def peak_resident_bytes() -> int:
    """The most memory that was resident, libraries and mapped pages counted."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def prove(job: dict[str, Any]) -> dict[str, Any]:
    """Answer all queries inside the group; the rows found are written to ``job["found"]``."""
    index_path, vectors_path = Path(job["index"]), Path(job["vectors"])
    choice = Choice.from_record(job["choice"])
    group = Limited(job["limit_bytes"])
    drop_pages(index_path)
    drop_pages(vectors_path)
    before = group.state()
    started = time.perf_counter()
    vectors = open_vectors(vectors_path, choice.passages, choice.dimension)
    index = DenseIndex(index_path, vectors, choice)
    opened_s = time.perf_counter() - started
    queries = np.load(job["queries"], mmap_mode="r")
    found = np.full((len(queries), 3), -1, np.int64)
    times = []
    cpu_s = time.process_time()
    for start in range(0, len(queries), BATCH):
        batch = np.array(queries[start : start + BATCH])
        started = time.perf_counter()
        answers = ranked(index, batch, 3)
        times.append(time.perf_counter() - started)
        for place, (rows, _) in enumerate(answers):
            found[start + place, : len(rows)] = rows
    cpu_s = time.process_time() - cpu_s
    alone = []
    for query in queries[:500]:
        started = time.perf_counter()
        ranked(index, np.array(query)[None], 3)
        alone.append(time.perf_counter() - started)
    after = group.state()
    group.leave()
    np.save(job["found"], found)
    full = times[: len(queries) // BATCH]
    half = len(full) // 2
    return {
        "opened_ms": round(1000 * opened_s, 2),
        "first_batch_ms": round(1000 * full[0], 1),
        "cold_ms (first 10 batches)": milliseconds(full[:10]),
        "all_ms": milliseconds(full),
        "warm_ms (second half)": milliseconds(full[half:]),
        "cpu_ms_a_batch": round(
            1000 * cpu_s / len(times), 1
        ),  # of all threads: what a busy machine does not change much
        "one_query_ms": milliseconds(alone),
        "queries": len(queries),
        "group_before": before,
        "group_after": after,
        "peak_resident_bytes": peak_resident_bytes(),
    }


if __name__ == "__main__":
    print(json.dumps(prove(json.loads(sys.argv[1]))))
