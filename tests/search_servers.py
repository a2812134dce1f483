"""Search servers for tests: real ones, in processes of their own; and a retriever with exact scores."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from retrieval_fakes import WordEncoder

from toolenv.errors import RetrieverError
from toolenv.retrieval.base import Hit, Passage, check_k, in_order, ranked

ROOT = Path(__file__).resolve().parents[1]
LONG_S = 30.0


class DotRetriever:
    """Inner products with every passage, nothing else; it fails while it has a ``failure``."""

    def __init__(self, passages: Iterable[Passage], scores: str = "inner product", identity: str = "") -> None:
        self.passages = in_order(passages)
        self.scores, self.identity = scores, identity
        self.encoder = WordEncoder()
        self.vectors = self.encoder.encode([p.contents for p in self.passages]).astype(np.float64)
        self.failure = ""
        self.batches: list[list[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        return [[hit.passage for hit in hits] for hits in self.search_scored(queries, k)]

    def search_scored(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        check_k(k)
        if self.failure:
            raise RetrieverError(self.failure)
        self.batches.append(list(queries))
        rows = np.arange(len(self.passages))
        vectors = [self.encoder.encode([query])[0].astype(np.float64) for query in queries]
        return [ranked(self.passages, rows, (self.vectors * v).sum(axis=1), k) for v in vectors]

    def __repr__(self) -> str:
        return f"DotRetriever({len(self.passages)} passages)"


@contextmanager
def search_server(
    retriever: str = "DotRetriever(CORPUS, identity='one')", **settings: Any
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own that is ready, and its address; killed in the end if it is still there."""
    for module in ("starlette", "uvicorn"):
        pytest.importorskip(module, reason=f"{module} is not installed; run: pip install 'toolenv[serve]'")
    program = (
        "import sys, time; sys.path.insert(0, 'tests'); from retrieval_fakes import CORPUS, WordEncoder;"
        "from search_servers import DotRetriever; from toolenv.retrieval.base import Passage;"
        "from toolenv.retrieval.index import open_index; from toolenv.retrieval.serve import serve;"
        f"serve({retriever}, port=0, **{settings!r})"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        said = re.search(r"at (http://127\.0\.0\.1:\d+)/retrieve", line)
        assert said, line
        deadline = time.monotonic() + LONG_S
        while requests.get(f"{said[1]}/health", timeout=LONG_S).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process, said[1]
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=LONG_S)


def ended(process: subprocess.Popen[str], number: signal.Signals) -> int:
    """The exit status of a server that was ended by a signal."""
    process.send_signal(number)
    process.communicate(timeout=LONG_S)
    return process.returncode
