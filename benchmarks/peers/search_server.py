"""The search server of a run: its questions and answers from the bundled encyclopaedia, and its process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.peers.catalogue import FOLDER
from benchmarks.peers.works import SEARCHES, TOP_K
from toolenv.data.world import questions
from toolenv.retrieval import default_retriever
from toolenv.retrieval.search_r1 import document_of


def asked_and_answered() -> tuple[list[tuple[str, str]], dict[str, list[dict[str, Any]]]]:
    """Queries with the title that must be found, and for each query the passages that BM25 finds."""
    queries = [task.prompt for task in islice(questions("test", hops=(1,)), 10 * SEARCHES)]
    found = zip(queries, default_retriever("bm25").search(queries, TOP_K), strict=True)
    plain = [(query, hits) for query, hits in found if hits[0].title.isascii()][:SEARCHES]  # some shows are JSON
    answers = {
        query: [{"document": document_of(one), "score": float(TOP_K - place)} for place, one in enumerate(hits)]
        for query, hits in plain
    }
    return [(query, hits[0].title) for query, hits in plain], answers


@contextmanager
def serving() -> Iterator[dict[str, Any]]:
    """A running server; gives what a job needs to know of it."""
    queries, answers = asked_and_answered()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.json"
        path.write_text(json.dumps(answers))
        words = [sys.executable, str(FOLDER / "search_stub.py"), str(path)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                base = f"http://127.0.0.1:{int(server.stdout.readline())}"
                yield {
                    "url": base,
                    "nested_url": f"{base}/one/retrieve",
                    "msgpack_url": f"{base}/msgpack",
                    "queries": queries,
                }
            finally:
                server.terminate()
