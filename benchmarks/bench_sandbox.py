"""A program in our sandboxes beside the usual ways to run one: a cold process, ``docker exec``, ``docker run``.

Run: ``python -m benchmarks.bench_sandbox``, on a machine that does nothing else. Prints medians and writes
``benchmarks/results/sandbox.json``. ``--soak CALLS`` runs the soak test instead, of good and hostile programs
(``benchmarks/soak_sandbox.py``), and adds what it found to that file.

All ways take turns, round after round: each runs each program, the slow ones once a round and ours several times, one
call right after the other. The first of these finds a worker that has rested, the others one that has just worked;
they are told apart. What a cold process runs is this Python. A pool of two is timed beside two threads of cold
processes, each with the SymPy program, as long as both have work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy
import sympy

import toolenv
from toolenv.errors import SandboxError
from toolenv.sandbox import ExecJob, SandboxPool
from toolenv.sandbox.bwrap import BwrapSandbox
from toolenv.sandbox.client import WorkerSandbox
from toolenv.sandbox.docker import DEFAULT_IMAGE, DockerSandbox, docker_problem
from toolenv.sandbox.engine import connect
from toolenv.sandbox.process import ProcessSandbox

from .soak_sandbox import soak

RESULTS = Path(__file__).with_name("results") / "sandbox.json"
TIMEOUT_S = 30.0
CALLS = 6
CORES = 2
POOL_CALLS = 100
COLD_CALLS = 6

# Each with what it prints.
PROGRAMS = {
    "print": ("print(6 * 7)", "42\n"),
    "numpy": (
        "import numpy as np\na = np.array([[2.0, 1.0], [1.0, 3.0]])\nprint(np.linalg.solve(a, [3.0, 5.0]))",
        "[0.8 1.4]\n",
    ),
    "sympy": (
        "from sympy import symbols, solve\nx, y = symbols('x y')\n"
        "print(solve([x + y - 5, x - y - 1], [x, y]))\nprint(solve(x**2 - 5*x + 6, x))",
        "{x: 3, y: 2}\n[2, 3]\n",
    ),
}

# (programs, way, ours, how many times less or more, at least)
TARGETS = (
    ("sympy", "cold process", "docker", 15.0),
    ("sympy", "docker run", "docker", 25.0),
)
POOL_TARGET = 15.0
GOAL_MS = 10.0

Way = Callable[[str], str]


def cold_process(code: str) -> str:
    """Start Python, as most tools do."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return done.stdout


def docker_run(code: str) -> str:
    """Start a container."""
    output: bytes = connect().containers.run(
        DEFAULT_IMAGE,
        ["-c", code],
        remove=True,
        network_mode="none",
        mem_limit="512m",
        log_config={"Type": "json-file"},  # the SDK reads a container's output from its log
    )
    return output.decode()


@contextlib.contextmanager
def docker_exec() -> Iterator[Way]:
    """Start Python in a container that runs already."""
    container = connect().containers.run(
        DEFAULT_IMAGE, ["-c", "import time; time.sleep(1e6)"], detach=True, network_mode="none", mem_limit="512m"
    )

    def run(code: str) -> str:
        output: bytes = container.exec_run(["python", "-c", code]).output
        return output.decode()

    try:
        yield run
    finally:
        container.remove(force=True)


def started(sandbox: WorkerSandbox, stack: ExitStack, *, keeping: bool = False) -> Way:
    """One of our sandboxes, with its worker up."""
    sandbox.start()
    stack.callback(sandbox.close)
    exec_ = sandbox.exec_keeping if keeping else sandbox.exec
    return lambda code: exec_(code, timeout_s=TIMEOUT_S).stdout


def open_ways(stack: ExitStack) -> tuple[dict[str, Way], dict[str, Way]]:
    """The usual ways and ours, those of them that work here."""
    usual: dict[str, Way] = {"cold process": cold_process}
    ours: dict[str, Way] = {"process": started(ProcessSandbox(), stack)}
    try:
        ours["bwrap"] = started(BwrapSandbox(), stack)
    except SandboxError as error:
        print(f"without bwrap: {error}")
    problem = docker_problem(DEFAULT_IMAGE)
    if problem is not None:
        print(f"without Docker: {problem}")
        return usual, ours
    usual |= {"docker run": docker_run, "docker exec": stack.enter_context(docker_exec())}
    ours["docker"] = started(DockerSandbox(), stack)
    ours["docker session"] = started(DockerSandbox(), stack, keeping=True)
    return usual, ours


def timed_ms(run: Way, name: str) -> float:
    """Milliseconds of one call, whose output must be right."""
    code, expected = PROGRAMS[name]
    start = time.perf_counter()
    output = run(code)
    took = time.perf_counter() - start
    assert output == expected, f"{name} printed {output!r}"
    return took * 1e3


def measure_latency(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each call, by way and program; the first calls of each round of ours also by themselves."""
    with ExitStack() as stack:
        usual, ours = open_ways(stack)
        for run in ours.values():
            for name in PROGRAMS:
                timed_ms(run, name)
        rested = [f"{way}, rested" for way in ours]
        times: dict[str, dict[str, list[float]]] = {
            way: {name: [] for name in PROGRAMS} for way in (*usual, *ours, *rested)
        }
        for _ in range(rounds):
            for name in PROGRAMS:
                for way, run in usual.items():
                    times[way][name].append(timed_ms(run, name))
                for way, run in ours.items():
                    first, *others = (timed_ms(run, name) for _ in range(CALLS))
                    times[f"{way}, rested"][name].append(first)
                    times[way][name] += others
    return times


def measure_throughput(rounds: int) -> dict[str, list[float]]:
    """SymPy calls a second on two cores."""
    code, expected = PROGRAMS["sympy"]
    kinds: dict[str, Callable[[], WorkerSandbox]] = {"bwrap": BwrapSandbox}
    if docker_problem(DEFAULT_IMAGE) is None:
        kinds["docker"] = DockerSandbox
    rates: dict[str, list[float]] = {way: [] for way in ("cold process", *kinds)}
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(CORES))
        pools = {}
        for kind, factory in kinds.items():
            pool = pools[kind] = SandboxPool(factory, CORES, kind=kind)
            stack.callback(pool.close)
            try:
                pool.start()
            except SandboxError as error:
                print(f"no pool of {kind}: {error}")
                del pools[kind], rates[kind]
        for _ in range(rounds):
            start = time.perf_counter()
            outputs = list(threads.map(cold_process, [code] * COLD_CALLS))
            rates["cold process"].append(COLD_CALLS / (time.perf_counter() - start))
            assert set(outputs) == {expected}
            for kind, pool in pools.items():
                start = time.perf_counter()
                results = pool.run([ExecJob(code, TIMEOUT_S)] * POOL_CALLS)
                rates[kind].append(POOL_CALLS / (time.perf_counter() - start))
                assert {getattr(result, "stdout", result) for result in results} == {expected}
    return rates


def summary(values: list[float]) -> dict[str, float]:
    """Median and 90th percentile."""
    ordered = sorted(values)
    p90 = ordered[min(len(ordered) * 9 // 10, len(ordered) - 1)]
    return {"median": round(statistics.median(ordered), 2), "p90": round(p90, 2), "count": len(ordered)}


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "sympy": sympy.__version__,
        "toolenv": toolenv.__version__,
    }
    if docker_problem(DEFAULT_IMAGE) is None:
        facts["docker"] = connect().version()["Version"]
    return facts


def verdicts(latency: dict[str, dict[str, dict[str, float]]], rates: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Each target and what was seen."""
    found: list[dict[str, Any]] = []
    for program, usual, own, least in TARGETS:
        if usual in latency and own in latency:
            ratio = latency[usual][program]["median"] / latency[own][program]["median"]
            what = f"{program}: {own} against {usual}, times faster"
            found.append({"what": what, "seen": round(ratio, 1), "at_least": least})
    for kind in set(rates) - {"cold process"}:
        pairs = zip(rates[kind], rates["cold process"], strict=True)
        ratio = statistics.median(own / cold for own, cold in pairs)
        what = f"sympy calls a second: pool of {CORES} {kind} against {CORES} cold processes, times"
        found.append({"what": what, "seen": round(ratio, 1), "at_least": POOL_TARGET})
    for way in ("docker", "docker, rested"):
        if way in latency:
            found.append({"what": f"sympy: {way}, ms", "seen": latency[way]["sympy"]["median"], "at_most": GOAL_MS})
    return sorted(found, key=lambda one: str(one["what"]))


def benchmark(rounds: int) -> dict[str, Any]:
    """Measure, and print."""
    facts = machine()
    times = measure_latency(rounds)
    latency = {way: {name: summary(values) for name, values in cases.items()} for way, cases in times.items()}
    rates = measure_throughput(rounds)
    print(f"\n{'ms: median (p90)':24}" + "".join(f"{name:>20}" for name in PROGRAMS))
    for way, cases in latency.items():
        cells = (f"{case['median']:.2f} ({case['p90']:.2f})" for case in cases.values())
        print(f"{way:24}" + "".join(f"{cell:>20}" for cell in cells))
    print(f"\nsympy calls a second, {CORES} at once:")
    for way, values in rates.items():
        print(f"{way:24}{statistics.median(values):>10.1f}  [{min(values):.1f} .. {max(values):.1f}]")
    targets = verdicts(latency, rates)
    print()
    for one in targets:
        bound = f"at least {one['at_least']:g}" if "at_least" in one else f"at most {one['at_most']:g}"
        print(f"{one['what']}: {one['seen']:g} ({bound})")
    rounded = {way: [round(value, 2) for value in values] for way, values in rates.items()}
    return {"machine": facts, "rounds": rounds, "latency_ms": latency, "calls_per_s": rounded, "targets": targets}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--soak", type=int, default=0, metavar="CALLS", help="run the soak test with so many calls")
    parser.add_argument("--kind", choices=("docker", "bwrap"), default="docker", help="sandbox of the soak test")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    record = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    if arguments.soak:
        record.setdefault("soak", {})[arguments.kind] = soak(arguments.kind, arguments.soak, say=print)
    else:
        record |= benchmark(arguments.rounds)
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
