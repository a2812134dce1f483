"""A search server under load, and what is lost when one of its replicas is killed: nothing.

Run: ``python -m benchmarks.bench_retrieval_server``. It writes ``benchmarks/results/retrieval_server.json``.

Two servers, in processes of their own, search one corpus. 32 clients, each with a ``ReplicatedRetriever`` of its own
over both, send 10,000 requests of one query. Half-way one server is killed (SIGKILL). Each answer, passages and scores,
must be what a search in this process finds. Beside it stands the search in this process, one query at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests

from toolenv.data.world import load_world, questions
from toolenv.retrieval import make_retriever
from toolenv.retrieval.base import Hit, ScoredRetriever
from toolenv.retrieval.shards import ReplicatedRetriever

RESULTS = Path(__file__).parent / "results" / "retrieval_server.json"
TOPK = 3
Asked = tuple[int, str]
Timed = tuple[list[Hit], float]


def world_retriever(name: str) -> ScoredRetriever:
    """The bundled encyclopaedia, searched as ``name`` says; what the servers run, too."""
    retriever = make_retriever(name, load_world().passages)
    assert isinstance(retriever, ScoredRetriever)
    return retriever


@contextmanager
def server(name: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own that is ready, and its address."""
    program = (
        "from benchmarks.bench_retrieval_server import world_retriever; from toolenv.retrieval.serve import serve;"
        f"serve(world_retriever({name!r}), port=0)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = re.search(r"at (http://\S+)/retrieve", process.stdout.readline())
        assert said, "the server did not start"
        while requests.get(f"{said[1]}/health", timeout=60).status_code != 200:
            time.sleep(0.05)
        yield process, said[1]
    finally:
        process.kill()
        process.communicate()


def under_load(
    urls: Sequence[str], queries: Sequence[str], clients: int, victim: subprocess.Popen[str] | None
) -> tuple[list[Timed], float, list[ReplicatedRetriever], int]:
    """Answers with their seconds, the wall time, the clients, and how many requests were under way at the kill."""
    retrievers = [ReplicatedRetriever(urls) for _ in range(clients)]
    turn = iter(range(len(queries)))
    lock = threading.Lock()
    answers: list[Timed | None] = [None] * len(queries)
    state = {"done": 0, "at_kill": 0}

    def client(retriever: ReplicatedRetriever) -> None:
        while True:
            with lock:
                place = next(turn, None)
            if place is None:
                return
            started = time.perf_counter()
            hits = retriever.search_scored([queries[place]], TOPK)[0]
            answers[place] = hits, time.perf_counter() - started
            with lock:
                state["done"] += 1
                if victim is not None and state["done"] == len(queries) // 2:
                    victim.send_signal(signal.SIGKILL)
                    state["at_kill"] = sum(status.in_flight for one in retrievers for status in one.status()[:1])

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        for ending in [threads.submit(client, retriever) for retriever in retrievers]:
            ending.result()
    wall_s = time.perf_counter() - started
    return [answer for answer in answers if answer is not None], wall_s, retrievers, state["at_kill"]


def in_process(retriever: ScoredRetriever, queries: Sequence[str]) -> tuple[list[Timed], float]:
    """The same searches here, one after the other."""
    answers: list[Timed] = []
    started = time.perf_counter()
    for query in queries:
        before = time.perf_counter()
        hits = retriever.search_scored([query], TOPK)[0]
        answers.append((hits, time.perf_counter() - before))
    return answers, time.perf_counter() - started


def speed(answers: Sequence[Timed], wall_s: float) -> dict[str, float]:
    seconds = np.array([s for _, s in answers])
    return {
        "requests_a_second": round(len(answers) / wall_s, 1),
        "p50_ms": round(1e3 * float(np.quantile(seconds, 0.5)), 2),
        "p99_ms": round(1e3 * float(np.quantile(seconds, 0.99)), 2),
        "max_ms": round(1e3 * float(seconds.max()), 2),
    }


def batch_size(url: str) -> float:
    """Mean number of queries of a server's searches, from its metrics."""
    lines = requests.get(f"{url}/metrics", timeout=60).text.splitlines()
    numbers = dict(line.split() for line in lines if line.startswith("toolenv_search_") and "{" not in line)
    return round(float(numbers["toolenv_search_searched_total"]) / float(numbers["toolenv_search_batches_total"]), 2)


def measure(name: str, num_requests: int, clients: int) -> dict[str, Any]:
    tasks = questions("train", hops=(1, 2, 3))
    queries = [tasks[i % len(tasks)].prompt for i in range(num_requests)]
    local = world_retriever(name)
    in_process(local, queries[:10])
    expected, local_s = in_process(local, queries)
    right = [hits for hits, _ in expected]
    rounds: dict[str, Any] = {"in process, one query at a time": speed(expected, local_s)}
    for label, num_servers, is_killed in (
        ("1 server", 1, False),
        ("2 replicas", 2, False),
        ("2 replicas, one killed half-way", 2, True),
    ):
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that one is passed over, which is counted below
            servers = [stack.enter_context(server(name)) for _ in range(num_servers)]
            victim = servers[0][0] if is_killed else None
            urls = [url for _, url in servers]
            answers, wall_s, retrievers, at_kill = under_load(urls, queries, clients, victim)
            wrong = sum(hits != expected for (hits, _), expected in zip(answers, right, strict=True))
            rounds[label] = {
                **speed(answers, wall_s),
                "answered": len(answers),
                "wrong": wrong,
                "queries_a_batch": batch_size(urls[-1]),
            }
            if is_killed:
                states = [one.status() for one in retrievers]
                rounds[label] |= {
                    "in_flight_at_the_killed_one": at_kill,
                    "asked_again_of_the_other": sum(replicas[0].failed for replicas in states),
                    "answered_by_the_killed_one": sum(replicas[0].answered for replicas in states),
                    "clients_that_report_it_dead": sum(not replicas[0].alive for replicas in states),
                }
        print(label, json.dumps(rounds[label]), flush=True)
    return {
        "retriever": name,
        "passages": len(local.passages),  # type: ignore[attr-defined]
        "requests": num_requests,
        "clients": clients,
        "topk": TOPK,
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--retriever", default="bm25")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    measured = measure(options.retriever, options.requests, options.clients)
    load = os.getloadavg()[0]
    record = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_at_the_end": round(load, 1),
        **measured,
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    lost = [r for r in record["rounds"].values() if r.get("wrong") or r.get("answered", num := options.requests) != num]
    print(f"{options.output}: {'answers were lost or wrong' if lost else 'no answer lost, none wrong'}")
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
