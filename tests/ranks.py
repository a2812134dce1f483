"""Two processes that find each other by ``torchrun``: a test file is also the program that they run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TIMEOUT_S = 300


def child_environment() -> dict[str, str]:
    """This process's, in which a child finds the same modules, computes with one thread, and talks to this machine."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@contextmanager
def two_ranks(program: str, folder: Path) -> Iterator[None]:
    """Run ``python PROGRAM FOLDER`` as two ranks beside what is done within; both must have ended well in the end."""
    # Standalone, it binds a free port itself: one that was looked up before could be another's by then.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    with (folder / "ranks.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--nproc-per-node=2", program, str(folder)],
            env=child_environment(), stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield
        code = process.wait(TIMEOUT_S)
    finally:
        process.terminate()  # torchrun then ends its processes; killed, it would leave them behind
        process.wait()
    assert code == 0, (folder / "ranks.log").read_text()[-3000:]
