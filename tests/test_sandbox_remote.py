"""Programs over HTTP: what a server's answers mean, and what our own server answers."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from servers import Request, serve

from toolenv.envs.python_math import PythonMathEnv
from toolenv.envs.python_tool import PythonTool
from toolenv.episode import Task
from toolenv.errors import ConfigError, MissingExtraError, SandboxError
from toolenv.messages import ToolCall
from toolenv.sandbox import ExecJob, ExecResult, check_sandbox
from toolenv.sandbox.fusion import answer_of, failure_of, result_of
from toolenv.sandbox.pool import run_jobs
from toolenv.sandbox.remote import RemoteSandbox
from toolenv.sandbox.serve import serve as serve_sandbox

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("no_proxy")]

LONG_S = 30.0
TOKEN = "open sesame"
TRACEBACK = "Traceback (most recent call last):\n"


def fusion_answer(**run: Any) -> str:
    """What SandboxFusion answers, in its own fields."""
    whole = {"status": "Finished", "execution_time": 0.25, "return_code": 0, "stdout": "", "stderr": "", **run}
    good = whole["status"] == "Finished" and whole["return_code"] == 0
    return json.dumps(
        {
            "status": "Success" if good else "Failed",
            "message": "",
            "compile_result": None,
            "run_result": whole,
            "executor_pod_name": None,
            "files": {},
        }
    )


# What an answer means ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "result"),
    [
        ({"stdout": "3\n", "stderr": "w"}, ExecResult("3\n", "w", "ok", 0, 0.25)),
        (
            {"status": "TimeLimitExceeded", "return_code": None, "stdout": "a"},
            ExecResult("a", "", "timeout", None, 0.25, error="timed out after 2.5 s"),
        ),
        (
            {
                "return_code": 1,
                "stderr": f'w\n{TRACEBACK}  File "/tmp/t1/x.py", line 1, in <module>\nNameError: n',
            },
            ExecResult(
                "", "w\n", "error", 1, 0.25,
                error=f'{TRACEBACK}  File "<code>", line 1, in <module>\nNameError: n',
            ),
        ),
        ({"return_code": 3, "stderr": "sorry\n"}, ExecResult("", "", "error", 3, 0.25, error="sorry")),
        ({"return_code": 3}, ExecResult("", "", "error", 3, 0.25, error="exited with code 3")),
        ({"return_code": -11}, ExecResult("", "", "killed", -11, 0.25, error="killed by SIGSEGV")),
        ({"return_code": 137}, ExecResult("", "", "killed", -9, 0.25, error="killed by SIGKILL (out of memory?)")),
        ({"stdout": None, "stderr": None}, ExecResult("", "", "ok", 0, 0.25)),
    ],
)  # fmt: skip
def test_an_answer_is_read(run: dict[str, Any], result: ExecResult) -> None:
    assert result_of(json.loads(fusion_answer(**run)), 2.5, 1000) == result


@pytest.mark.parametrize(
    "answer",
    [
        failure_of("no room"),
        json.loads(fusion_answer(status="Error", return_code=None, stderr="no room")),
        {"message": "no room"},
        ["no room"],
        json.loads(fusion_answer(execution_time="no room")),
    ],
)
def test_a_servers_own_failure_is_no_result(answer: Any) -> None:
    with pytest.raises(SandboxError, match="no room"):
        result_of(answer, 1.0, 1000)


@pytest.mark.parametrize(
    "result",
    [
        ExecResult("out", "err", "ok", 0, 0.5),
        ExecResult("out", "", "error", 1, 0.5, error='Traceback (most recent call last):\n  File "<code>", line 1\nX'),
        ExecResult("out", "err", "timeout", None, 0.5, error="timed out after 1 s"),
        ExecResult("", "", "killed", -6, 0.5, error="killed by SIGABRT"),
    ],
)
def test_there_and_back(result: ExecResult) -> None:
    back = result_of(json.loads(json.dumps(answer_of(result))), 1.0, 1000)
    assert (back.stdout, back.status, back.exit_code, back.error) == (
        result.stdout, result.status, result.exit_code, result.error
    )  # fmt: skip


def test_output_is_cut_here_where_the_server_did_not() -> None:
    result = result_of(json.loads(fusion_answer(stdout="a" * 500 + "b" * 500)), 1.0, 10)
    assert result.stdout == "aaaaa\n... [990 bytes left out] ...\nbbbbb"


# The client ----------------------------------------------------------------------------------------------------------


def test_a_request_has_the_fields_of_the_interface() -> None:
    with serve(lambda request: (200, {}, fusion_answer(stdout="1\n"))) as served:
        for url in (served.url, f"{served.url}/", f"{served.url}/run_code"):
            sandbox = RemoteSandbox(url, TOKEN, memory_bytes=512 << 20)
            assert sandbox.exec("print(1)", timeout_s=2.5, stdin="in").stdout == "1\n"
            sandbox.close()
        RemoteSandbox(served.url).exec("print(1)", timeout_s=1)
        first, *_, last = served.requests
    assert (first.path, first.headers["Authorization"], first.headers["Content-Type"]) == (
        "/run_code", f"Bearer {TOKEN}", "application/json",
    )  # fmt: skip
    assert first.body == {
        "code": "print(1)", "language": "python", "stdin": "in", "run_timeout": 2.5, "memory_limit_MB": 512,
        "files": {}, "fetch_files": [],
    }  # fmt: skip
    assert (last.headers["Authorization"], last.body["stdin"], last.body["memory_limit_MB"]) == (None, None, -1)


@pytest.mark.parametrize("failure", [(429, "busy"), (503, "busy"), (504, "late")])
def test_what_passes_is_asked_again(failure: tuple[int, str]) -> None:
    def play(request: Request) -> tuple[int, dict[str, str], str]:
        return (200, {}, fusion_answer(stdout="1")) if request.number == 2 else (failure[0], {}, failure[1])

    with serve(play) as served:
        assert RemoteSandbox(served.url, backoff_s=0.0).exec("1", timeout_s=1).stdout == "1"
        assert len(served.requests) == 3


@pytest.mark.parametrize(
    ("answer", "asked", "part"),
    [
        ((503, "broken"), 3, "after 3 tries.*broken"),
        ((401, "who?"), 1, "check the token"),
        ((404, "what?"), 1, "there is no /run_code"),
        ((200, json.dumps(failure_of("out of workers"))), 2, "out of workers"),
        ((200, "<html>"), 2, "no JSON"),
    ],
)
def test_what_does_not_pass_is_a_sandbox_error(answer: tuple[int, str], asked: int, part: str) -> None:
    with serve(lambda request: (answer[0], {}, answer[1])) as served:
        with pytest.raises(SandboxError, match=part):
            RemoteSandbox(served.url, backoff_s=0.0).exec("1", timeout_s=1)
        assert len(served.requests) == asked


def test_nobody_answers() -> None:
    with serve(lambda request: (200, {}, "")) as served:
        url = served.url
    with pytest.raises(SandboxError, match=r"no answer from .* after 2 tries"):
        RemoteSandbox(url, retries=1, backoff_s=0.0).exec("1", timeout_s=1)


def test_an_answer_that_does_not_come_has_an_end() -> None:
    let_go = threading.Event()

    def play(request: Request) -> tuple[int, dict[str, str], str]:
        let_go.wait(LONG_S)
        return 200, {}, ""

    with serve(play) as served:
        with pytest.raises(SandboxError, match="no answer"):
            RemoteSandbox(served.url, retries=0, wait_s=0.2).exec("1", timeout_s=0.1)
        let_go.set()


def test_a_list_of_work_runs_side_by_side_and_keeps_its_order() -> None:
    barrier = threading.Barrier(3)

    def play(request: Request) -> tuple[int, dict[str, str], str]:
        barrier.wait(LONG_S)
        return 200, {}, fusion_answer(stdout=request.body["code"])

    with serve(play) as served:
        results = run_jobs(RemoteSandbox(served.url, max_in_flight=3), [ExecJob(c) for c in "abcdef"])
    assert [r.stdout for r in results if isinstance(r, ExecResult)] == list("abcdef")


def test_it_stands_for_any_sandbox() -> None:
    task = Task(id="t", prompt="?", answers=("1",))
    with serve(lambda request: (200, {}, fusion_answer(stdout="42\n"))) as served:
        sandbox = RemoteSandbox(served.url, backoff_s=0.0)
        env = PythonMathEnv([task], sandbox=sandbox)
        env.reset(seed=0)
        observation, *_ = env.step(env.format.write_call(ToolCall("python", {"code": "print(42)"})))
        assert "42" in observation[-1].content
    with pytest.raises(SandboxError, match="no answer"):
        env.step(env.format.write_call(ToolCall("python", {"code": "print(42)"})))
    with pytest.raises(ConfigError, match="SandboxPool"):
        PythonTool(sandbox, stateful=True)


def test_it_is_pickled_without_its_connections() -> None:
    with serve(lambda request: (200, {}, fusion_answer(stdout="1"))) as served:
        sandbox = RemoteSandbox(served.url, TOKEN)
        sandbox.exec("1", timeout_s=1)
        other = pickle.loads(pickle.dumps(sandbox))
        assert other.exec("1", timeout_s=1).stdout == "1"
        assert served.requests[-1].headers["Authorization"] == f"Bearer {TOKEN}"
        assert copy.deepcopy(sandbox) is sandbox
        assert TOKEN not in repr(other)
        sandbox.close()
        with pytest.raises(SandboxError, match="closed"):
            sandbox.exec("1", timeout_s=1)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="'localhost:8080'"):
        RemoteSandbox("localhost:8080")
    with pytest.raises(ConfigError, match="retries"):
        RemoteSandbox("http://localhost", retries=-1)


# The server ----------------------------------------------------------------------------------------------------------


def start_server(**settings: Any) -> tuple[subprocess.Popen[str], str]:
    """A server in a process of its own, and its address."""
    pytest.importorskip("starlette", reason="starlette is not installed; run: pip install 'toolenv[serve]'")
    pytest.importorskip("uvicorn", reason="uvicorn is not installed; run: pip install 'toolenv[serve]'")
    program = f"from toolenv.sandbox.serve import serve; serve('process', port=0, **{settings!r})"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    said = re.search(r"at (http://127\.0\.0\.1:\d+)/run_code \(sandbox: process, workers: (\d)\)", line)
    assert said, line
    return process, said[1]


def ended(process: subprocess.Popen[str], number: signal.Signals) -> int:
    """The exit status of a server that was ended by a signal."""
    process.send_signal(number)
    process.communicate(timeout=LONG_S)
    return process.returncode


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    process, url = start_server(token=f"{TOKEN}\n")  # as a file has it
    yield url
    assert ended(process, signal.SIGINT) == 0


@pytest.fixture(scope="module")
def open_server() -> Iterator[str]:
    process, url = start_server()
    yield url
    assert ended(process, signal.SIGINT) == 0


def ask(server: str, token: str | None = TOKEN, **fields: Any) -> requests.Response:
    """A request as verl sends it."""
    payload = {
        "compile_timeout": 10, "run_timeout": 10, "code": "print(1)", "stdin": None, "memory_limit_MB": 1024,
        "language": "python", "files": {}, "fetch_files": [], **fields,
    }  # fmt: skip
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return requests.post(f"{server}/run_code", data=json.dumps(payload), headers=headers, timeout=LONG_S)


def test_the_server_keeps_the_promises_of_a_sandbox(server: str) -> None:
    check_sandbox(RemoteSandbox(server, TOKEN), value=False, isolation={"environment"}, margin_s=20.0)


def test_what_verl_reads(server: str) -> None:
    good = ask(server, code="a = input()\nprint(a[::-1])\n7 * 7", stdin="abc\n").json()
    assert (good["status"], good["compile_result"], good["message"]) == ("Success", None, "")
    run = good["run_result"]
    assert (run["status"], run["return_code"], run["stdout"], run["stderr"]) == ("Finished", 0, "cba\n", "")
    assert run["execution_time"] > 0
    bad = ask(server, code="print('x')\n1 / 0").json()
    assert (bad["status"], bad["run_result"]["status"], bad["run_result"]["return_code"]) == ("Failed", "Finished", 1)
    assert (bad["run_result"]["stdout"], "ZeroDivisionError" in bad["run_result"]["stderr"]) == ("x\n", True)
    left = ask(server, code="import sys; sys.exit(3)").json()["run_result"]
    assert (left["return_code"], left["stderr"]) == (3, "")
    late = ask(server, code="print('x', flush=True)\nwhile True: pass", run_timeout=0.5).json()
    assert (late["status"], late["run_result"]["status"]) == ("Failed", "TimeLimitExceeded")
    assert (late["run_result"]["stdout"], late["run_result"]["return_code"]) == ("x\n", None)
    dead = ask(server, code="import os; os.abort()").json()
    assert (dead["status"], dead["run_result"]["status"], dead["run_result"]["return_code"]) == (
        "Failed", "Finished", -6
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"language": "cpp"}, "'python'"),
        ({"files": {"a": "eA=="}}, "'files'"),
        ({"fetch_files": ["a"]}, "'fetch_files'"),
        ({"run_timeout": 61}, "at most 60 seconds"),
        ({"run_timeout": 0}, "above 0"),
        ({"run_timeout": True}, "run_timeout"),
        ({"code": None}, "'code'"),
        ({"stdin": 5}, "stdin"),
    ],
)
def test_what_it_cannot_do_it_says(server: str, fields: dict[str, Any], part: str) -> None:
    response = ask(server, **fields)
    assert response.status_code == 422
    assert part in response.json()["detail"]


def test_who_has_no_token_gets_nothing(server: str) -> None:
    for token in (None, "", "open sesam", TOKEN + "!", "ä"):
        headers = {} if token is None else {"Authorization": f"Bearer {token}".encode()}
        response = requests.post(f"{server}/run_code", json={"code": "1"}, headers=headers, timeout=LONG_S)
        assert response.status_code == 401
    with pytest.raises(SandboxError, match="check the token"):
        RemoteSandbox(server).exec("1", timeout_s=1)
    assert requests.get(f"{server}/health", timeout=LONG_S).json() == {"status": "ok"}
    assert requests.get(f"{server}/v1/ping", timeout=LONG_S).json() == "pong"


def test_without_a_token_no_page_of_a_browser_gets_in(open_server: str) -> None:
    """A page may have its name lead to loopback, and then send what it likes to a server of its own origin."""

    def status(host: str) -> int:
        body = {"code": "1", "language": "python"}
        return requests.post(f"{open_server}/run_code", json=body, headers={"Host": host}, timeout=LONG_S).status_code

    for host in (
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "[",
    ):
        assert status(host) == 403, host
    for host in ("localhost", "LOCALHOST:8080", "127.0.0.1:9", "[::1]:8080"):
        assert status(host) == 200, host


def test_with_a_token_a_server_may_have_any_name(server: str) -> None:
    headers = {"Host": "sandbox.example", "Authorization": f"Bearer {TOKEN}"}
    body = {"code": "1", "language": "python"}
    assert requests.post(f"{server}/run_code", json=body, headers=headers, timeout=LONG_S).status_code == 200


def test_bodies_are_bounded_and_json(server: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}

    def post(data: bytes, **other: str) -> int:
        return requests.post(f"{server}/run_code", data=data, headers={**headers, **other}, timeout=LONG_S).status_code

    assert post(b" " * (2 << 20) + b"{}") == 413
    assert post(b"{") == 422
    assert post(b"[" * 100_000) == 422
    assert post(json.dumps({"code": "1", "language": "python"}).encode(), **{"Content-Type": "text/plain"}) == 415
    assert requests.get(f"{server}/run_code", timeout=LONG_S).status_code == 405


def test_many_clients_at_once(server: str) -> None:
    sandbox = RemoteSandbox(server, TOKEN)
    results = sandbox.run([ExecJob(f"print({i})") for i in range(40)])
    assert [r.stdout for r in results if isinstance(r, ExecResult)] == [f"{i}\n" for i in range(40)]


def test_beyond_its_room_it_says_to_come_again_and_who_has_left_is_forgotten() -> None:
    process, url = start_server(workers=1, max_waiting=1)
    try:
        slow = "import time; time.sleep(2)"
        with ThreadPoolExecutor(6) as threads:
            answers = list(threads.map(lambda _: ask(url, None, code=slow), range(6)))
        codes = sorted(answer.status_code for answer in answers)
        assert codes[:1] == [200]
        assert codes[-1] == 429
        assert next(a for a in answers if a.status_code == 429).headers["Retry-After"] == "1"

        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(ask, url, None, code=slow)
            time.sleep(0.5)  # it has come, and runs
            body = json.dumps({"code": "import time; time.sleep(50)", "language": "python", "run_timeout": 60}).encode()
            with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as client:
                client.sendall(
                    b"POST /run_code HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                time.sleep(0.5)
            assert running.result(LONG_S).status_code == 200
        assert RemoteSandbox(url, wait_s=20, retries=0).exec("print(1)", timeout_s=1).stdout == "1\n", (
            "nobody waits for the long one"
        )
    finally:
        assert ended(process, signal.SIGINT) == 0


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_its_workers(end: signal.Signals) -> None:
    process, url = start_server(workers=2)
    children = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and parent_of(pid) == process.pid]
    assert len(children) == 2
    assert ended(process, end) == (0 if end == signal.SIGINT else -signal.SIGTERM)
    deadline = time.monotonic() + LONG_S
    while left := [pid for pid in children if is_running(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=LONG_S)


def parent_of(pid: str) -> int | None:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return None


def is_running(pid: int) -> bool:
    """Whether a process is there, and is more than what its parent has yet to take note of."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_where_it_may_listen() -> None:
    try:
        for host in ("0.0.0.0", "::", "192.0.2.1", "example.org", ""):
            for token in (None, "", " \n"):
                with pytest.raises(ConfigError, match="needs a token"):
                    serve_sandbox("process", host=host, port=0, token=token)
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="cannot listen"):
            serve_sandbox("process", port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match="'dokcer'"):
            serve_sandbox("dokcer", port=0)
    except MissingExtraError as error:
        pytest.skip(str(error))
