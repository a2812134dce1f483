"""Sessions: what one program leaves to the next, and what it does not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandboxes import KINDS, is_shared, started
from toolenv.errors import SandboxError
from toolenv.sandbox import ExecResult
from toolenv.sandbox.client import WorkerSandbox
from toolenv.sandbox.process import PipeTransport, ProcessSandbox

pytestmark = pytest.mark.core

ROLLED_BACK = "variables are as they were before this program"
LOST = "the variables of this session are lost"


@pytest.fixture(scope="module", params=KINDS)
def worker(request: pytest.FixtureRequest) -> Iterator[WorkerSandbox]:
    with started(request.param) as made:
        yield made


@pytest.fixture
def sandbox(worker: WorkerSandbox) -> Iterator[WorkerSandbox]:
    yield worker
    worker.end_session()
    assert worker.ready, "the worker was replaced"


def keep(sandbox: WorkerSandbox, code: str, timeout_s: float = 10.0, stdin: str = "") -> ExecResult:
    return sandbox.exec_keeping(code, timeout_s=timeout_s, stdin=stdin)


def test_names_files_and_the_folder_stay(sandbox: WorkerSandbox) -> None:
    keep(
        sandbox,
        "import os, math as m\nx = 1\ndef f(): return x\nos.mkdir('d'); os.chdir('d')\nopen('a', 'w').write('b')",
    )
    result = keep(sandbox, "x += 1\nprint(open('a').read(), input())\nf(), m.floor(2.5), os.getcwd()[-2:]", stdin="in")
    assert (result.stdout, result.value) == ("b in\n", "(2, 2, '/d')")


def test_random_numbers_go_on(sandbox: WorkerSandbox) -> None:
    """Else a seed would be forgotten, and an episode that goes on from its record would not be what it was."""
    draw = "import random, numpy\nrandom.random(), numpy.random.rand()"
    at_once = keep(sandbox, f"{draw}\nrandom.random(), numpy.random.rand()").value
    sandbox.end_session()
    first, second = keep(sandbox, draw).value, keep(sandbox, draw).value
    assert first != second == at_once


def test_an_error_keeps_what_was_before_it(sandbox: WorkerSandbox) -> None:
    result = keep(sandbox, "x = 1\ndef f():\n    return 1 / 0\nf()")
    assert result.error is not None
    assert result.error.endswith("ZeroDivisionError: division by zero")
    assert keep(sandbox, "x").value == "1"
    again = keep(sandbox, "f()")  # its lines are still known
    assert again.error is not None
    assert "return 1 / 0" in again.error
    assert keep(sandbox, "import sys; x = 2; sys.exit(3)").exit_code == 3
    assert keep(sandbox, "x").value == "2"


@pytest.mark.parametrize(
    ("code", "timeout_s", "status", "said"),
    [
        ("while True: pass", 0.4, "timeout", "timed out after 0.4 s"),
        ("import os; os._exit(7)", 10, "error", "exited with code 7"),
        ("import os; os._exit(0)", 10, "error", "exited with code 0"),
        ("import os; os.abort()", 10, "killed", "killed by SIGABRT"),
        ("y = []\nwhile True: y.append(bytearray(1 << 20))", 60, "error", "MemoryError"),
        ("import os\nos.close(3)", 10, "error", "exited with code 0"),
        ("for _ in range(20): print('x' * 1_000_000)", 60, "killed", "more than 8 MB"),
        ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", 0.5, "timeout", "timed out"),
    ],
)
def test_the_session_is_rolled_back(
    sandbox: WorkerSandbox, code: str, timeout_s: float, status: str, said: str
) -> None:
    if "fork" in code and is_shared(sandbox):
        pytest.skip("no such program is run without a wall")
    keep(sandbox, "x = 1")
    result = keep(sandbox, f"x = 2\n{code}", timeout_s)
    assert result.status == status
    assert result.error is not None
    assert said in result.error
    assert result.error.endswith(ROLLED_BACK)
    assert keep(sandbox, "x").value == "1"


def test_what_is_known_is_told_though_a_thread_runs_on(sandbox: WorkerSandbox) -> None:
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
    waited = f"timed out after 0.5 s while waiting for its threads or exit handlers; {ROLLED_BACK}"
    result = keep(sandbox, f"{thread}6 * 7", 0.5)
    assert (result.status, result.value, result.error) == ("timeout", "42", waited)
    assert str(keep(sandbox, f"{thread}1/0", 0.5).error).endswith(f"ZeroDivisionError: division by zero\n{waited}")


def test_a_session_that_is_killed_is_said_to_be_lost(sandbox: WorkerSandbox) -> None:
    keep(sandbox, "x = 1")
    result = keep(sandbox, "import os\nos.kill(os.getppid(), 9)\nimport time; time.sleep(0.2)")
    assert (result.status, str(result.error).endswith(LOST)) == ("killed", True)
    assert "NameError" in keep(sandbox, "x").output


def test_nothing_runs_between_calls(sandbox: WorkerSandbox) -> None:
    """The process that goes on starts a thread; it stands still with the rest of it."""
    keep(
        sandbox,
        "import os, threading, time\ndef tick():\n    with open('log', 'a') as log:\n        while True:\n"
        "            print(time.monotonic(), file=log, flush=True)\n            time.sleep(0.001)\n"
        "os.register_at_fork(after_in_child=lambda: threading.Thread(target=tick, daemon=True).start())\n"
        "for _ in range(3):\n    if os.fork() == 0: time.sleep(60)",
    )
    time.sleep(0.5)
    result = keep(
        sandbox, "ticks = [float(t) for t in open('log')]\nmax(b - a for a, b in zip(ticks, ticks[1:])) > 0.45"
    )
    assert result.value == "True"
    if not is_shared(sandbox):
        seen = keep(
            sandbox, "sorted(int(p) for p in os.listdir('/proc') if p.isdigit()) == [1, os.getppid(), os.getpid()]"
        )
        assert seen.value == "True"


@pytest.mark.parametrize(
    "code",
    [
        "import socket; s = socket.socket(fileno=os.dup(3))\nfor i in range(50): s.send(b'ended %d 9' % i)",
        "for _ in range(20): os.write(3, b'new')",
        "for _ in range(20): os.write(3, b'new new new')",
        "r, w = os.pipe()\nif os.fork() == 0:\n    os.write(3, b'new')\n    os.write(w, b'.')\n"
        "    import time; time.sleep(60)\n_ = os.read(r, 1)",  # what is said last counts
    ],
)
def test_the_channel_is_not_believed(sandbox: WorkerSandbox, code: str) -> None:
    """A program can choose which of its processes goes on, and nothing else."""
    keep(sandbox, "import os\nx = 1")
    for _ in range(3):
        assert keep(sandbox, code).status == "ok"
    assert keep(sandbox, "x").value == "1"


def test_the_end_leaves_nothing(sandbox: WorkerSandbox) -> None:
    keep(sandbox, "import os, math\nx = math.pi = 3\nopen('file', 'w').close()\nos.mkdir('d'); os.chdir('d')")
    with pytest.raises(SandboxError, match="a session is open"):
        sandbox.exec("1", timeout_s=5)
    sandbox.end_session()
    sandbox.end_session()
    look = "import os, math\nprint('x' in globals(), math.pi > 3, os.listdir())"
    assert sandbox.exec(look, timeout_s=5).stdout == "False True []\n"
    assert keep(sandbox, look).stdout == "False True []\n"


def test_a_session_does_not_outlive_a_worker_that_is_killed() -> None:
    def heirs(folder: Path | None) -> list[str]:
        return [p.parent.name for p in Path("/proc").glob("[0-9]*/cwd") if os.path.realpath(p).startswith(str(folder))]

    sandbox = ProcessSandbox(packages=(), warm=())
    keep(sandbox, "x = 1")
    transport = sandbox._transport
    assert isinstance(transport, PipeTransport)
    assert len(heirs(transport._folder)) == 1
    transport._process.kill()
    with pytest.raises(SandboxError, match="process sandbox"):
        keep(sandbox, "x")
    deadline = time.monotonic() + 10  # the kernel takes its time to end what was killed
    while heirs(transport._folder):
        assert time.monotonic() < deadline, "the session outlives its worker"
        time.sleep(0.01)
    sandbox.close()
