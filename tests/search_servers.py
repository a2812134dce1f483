"""Search servers for tests: real ones, in threads or in processes of their own; and a retriever with exact scores."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
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
from toolenv.retrieval.base import Hit, Passage, Retriever, check_k, in_order, ranked
from toolenv.retrieval.serve import make_app
from toolenv.serving import address_of, listen

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
def local_server(retriever: Retriever, *, port: int = 0, **settings: Any) -> Iterator[str]:
    """A server in a thread, which starts at once, and its address, when it is ready."""
    pytest.importorskip("starlette", reason="starlette is not installed; run: pip install 'toolenv[serve]'")
    uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed; run: pip install 'toolenv[serve]'")
    app, listening = make_app(retriever, **settings), listen("127.0.0.1", port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        url = address_of("127.0.0.1", listening)
        wait_until_ready(url)
        yield url
    finally:
        server.should_exit = True
        thread.join(LONG_S)
        listening.close()


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + LONG_S
    while requests.get(f"{url}/health", timeout=LONG_S).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def search_server(
    retriever: str = "DotRetriever(CORPUS, identity='one')", **settings: Any
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own that is ready, and its address; killed in the end if it is still there."""
    for module in ("starlette", "uvicorn"):
        pytest.importorskip(module, reason=f"{module} is not installed; run: pip install 'toolenv[serve]'")
    program = (
        "import sys, time; sys.path.insert(0, 'tests'); from retrieval_fakes import CORPUS;"
        "from search_servers import DotRetriever; from toolenv.retrieval.serve import serve;"
        f"serve({retriever}, port=0, **{settings!r})"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        said = re.search(r"at (http://127\.0\.0\.1:\d+)/retrieve", line)
        assert said, line
        wait_until_ready(said[1])
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
