"""``check_sandbox``: what every sandbox promises, tried on one of yours."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args

from toolenv.errors import ConfigError, SandboxError
from toolenv.sandbox.base import MAX_OUTPUT_BYTES, ExecResult, Sandbox, Status
from toolenv.sandbox.check_isolation import ISOLATION, check_isolation

CALL_S = 20.0
LIMIT_S = 1.0
MARK_BYTES = 200
DAEMON_S = 20


def check_sandbox(
    sandbox: Sandbox,
    *,
    value: bool = True,
    stdin: bool = True,
    isolation: Collection[str] = (),
    margin_s: float = 2.0,
    close: bool = True,
) -> None:
    r"""Check that a sandbox keeps the promises of ``Sandbox``; harmless wherever it runs.

    1. *result*: every answer is a whole ``ExecResult``; no program, however odd, makes ``exec`` raise.
    2. *isolation*: what ``isolation`` names, and no more.
    3. *output*: what is printed arrives, each stream by itself; a program of 300 kB runs.
    4. *status*: errors, exit codes and signals are told apart.
    5. *value*: the last expression's value is shown. (Not with ``value=False``.)
    6. *stdin*: the program reads it; without it input is at its end. (Not with ``stdin=False``.)
    7. *fresh state*: names, patched modules, environment, folder and files of a call are gone in the next.
    8. *output limit*: head and tail are kept.
    9. *text*: odd characters arrive, or are replaced; surrogates and NUL in a program are its error.
    10. *timeout*: the limit holds, even for what ignores signals; output is kept, and the error says the limit.
    11. *descendants*: what a call started ends with it, and does not keep the call waiting.
    12. *threads*: several threads may call at once, and each gets its own answer.
    13. *close*: it may be closed twice; a call after that is a ``SandboxError``. (Not with ``close=False``.)

    Args:
        sandbox: The sandbox; not started yet if its environment is to be checked. It is closed in the end.
        value: Whether it shows the last expression's value.
        stdin: Whether it takes standard input.
        isolation: What it hides: any of ``"environment"``, ``"files"``, ``"network"``, ``"processes"``. These are
            looked for on this machine.
        margin_s: Seconds that a call may take beyond its limit.
        close: Whether to close it.

    Raises:
        AssertionError: A promise is broken; the message says which, what was expected and what came.
        SandboxError: The sandbox does not start.
        ConfigError: ``isolation`` holds an unknown name.

    Example:
        >>> from toolenv.sandbox.process import ProcessSandbox
        >>> check_sandbox(ProcessSandbox(packages=(), warm=()), isolation={"environment"}, margin_s=10)
    """
    if unknown := sorted(set(isolation) - set(ISOLATION)):
        raise ConfigError(f"unknown isolation {unknown[0]!r}; choose from {', '.join(ISOLATION)}")
    if not isinstance(sandbox, Sandbox):
        raise AssertionError(f"check_sandbox: a sandbox has the methods exec and close; {sandbox!r} has not")
    check_isolation(lambda code: _Probe(sandbox, "isolation", margin_s).exec(code), isolation)
    checks: dict[str, Callable[[_Probe], None]] = {"output": _check_output, "status": _check_status}
    checks |= {"value": _check_value} if value else {}
    checks |= {"stdin": _check_stdin} if stdin else {}
    checks |= {"fresh state": _check_fresh_state, "output limit": _check_output_limit, "text": _check_text}
    checks |= {"timeout": _check_timeout, "descendants": _check_descendants, "threads": _check_threads}
    checks |= {"close": _check_close} if close else {}
    for promise, check in checks.items():
        check(_Probe(sandbox, promise, margin_s))


@dataclass(frozen=True, slots=True)
class _Probe:
    """One promise that is being looked at."""

    sandbox: Sandbox
    promise: str
    margin_s: float

    def exec(
        self, code: str, *, timeout_s: float = CALL_S, max_output_bytes: int = MAX_OUTPUT_BYTES, stdin: str = ""
    ) -> ExecResult:
        arguments: dict[str, Any] = {"timeout_s": timeout_s, "max_output_bytes": max_output_bytes}
        if stdin:
            arguments["stdin"] = stdin
        started = time.monotonic()
        try:
            result = self.sandbox.exec(code, **arguments)
        except Exception as error:
            self.fail(f"exec raised {error!r}, expected a result; the program: {_short(code)}", error)
        elapsed_s = time.monotonic() - started
        if elapsed_s > timeout_s + self.margin_s:
            self.fail(f"a call with a limit of {timeout_s:g} s took {elapsed_s:.1f} s; the program: {_short(code)}")
        self._check_fields(result, code)
        return result

    def expect(self, what: str, expected: object, actual: object, result: ExecResult) -> None:
        if actual != expected:
            self.fail(f"{what}: expected {_short(expected)}, got {_short(actual)}; the whole result: {_short(result)}")

    def fail(self, message: str, cause: BaseException | None = None) -> NoReturn:
        raise AssertionError(f"check_sandbox: {self.promise}: {message}") from cause

    def _check_fields(self, result: ExecResult, code: str) -> None:
        fields: dict[str, tuple[Any, ...]] = {
            "stdout": (str,),
            "stderr": (str,),
            "exit_code": (int, type(None)),
            "wall_s": (float, int),
            "value": (str, type(None)),
            "error": (str, type(None)),
        }
        if not isinstance(result, ExecResult):
            self.fail(f"exec returned {_short(result)}, expected an ExecResult; the program: {_short(code)}")
        for name, types in fields.items():
            if not isinstance(getattr(result, name), types):
                self.fail(f"{name} of the result is {getattr(result, name)!r}, expected a {types[0].__name__}")
        if result.status not in get_args(Status):
            self.fail(f"the status is {result.status!r}, expected one of {', '.join(get_args(Status))}")
        if (result.error is None) != (result.status == "ok"):
            self.fail(f"a result has an error where its status is not 'ok', and there alone; got {_short(result)}")


def _short(thing: object) -> str:
    text = repr(thing)
    return text if len(text) <= 300 else f"{text[:200]} ... {text[-80:]}"


def _check_output(probe: _Probe) -> None:
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\nprint('end', end='')"
    result = probe.exec(code)
    probe.expect("standard output", "out\nend", result.stdout, result)
    probe.expect("'err' in standard error", True, "err" in result.stderr, result)
    probe.expect("status and exit code", ("ok", 0), (result.status, result.exit_code), result)
    probe.expect("0 <= wall_s < limit", True, 0 <= result.wall_s < CALL_S, result)
    result = probe.exec(f"x = '{'a' * 300_000}'\nprint(len(x))")
    probe.expect("the output of a program of 300 kB", "300000\n", result.stdout, result)


def _check_status(probe: _Probe) -> None:
    cases: list[tuple[str, Status, set[int | None]]] = [
        ("pass", "ok", {0}),
        ("import sys; sys.exit(0)", "ok", {0}),
        ("import sys; sys.exit(3)", "error", {3}),
        ("import os; os._exit(7)", "error", {7}),
        ("1 / 0", "error", {1}),
        ("1 +", "error", {1}),
        ("import os; os.kill(os.getpid(), 9)", "killed", {-9, None}),
    ]
    for code, status, exit_codes in cases:
        result = probe.exec(code)
        probe.expect(f"the status of {code!r}", status, result.status, result)
        probe.expect(f"the exit code of {code!r} is one of {exit_codes}", True, result.exit_code in exit_codes, result)
    result = probe.exec("print('before')\n1 / 0")
    probe.expect("the output before an error", "before\n", result.stdout, result)
    probe.expect("'ZeroDivisionError' in the error", True, "ZeroDivisionError" in str(result.error), result)


def _check_value(probe: _Probe) -> None:
    for code, value in [("[1, 2] * 2", "[1, 2, 1, 2]"), ("'a'", "'a'"), ("None", None), ("x = 1", None), ("1/0", None)]:
        result = probe.exec(code)
        probe.expect(f"the value of {code!r}", value, result.value, result)
    result = probe.exec("'a' * 5000", max_output_bytes=1000)
    if len(result.value or "") > 1000 + MARK_BYTES:
        probe.fail(f"a value of 5002 characters is cut to 1000; got {len(result.value or '')}")


def _check_fresh_state(probe: _Probe) -> None:
    spoil = (
        "import builtins, math, os, sys\nleft = 1\nmath.pi = 3\nbuiltins.left_too = 1\nos.environ['LEFT'] = '1'\n"
        "sys.path.append('/left')\nopen('left', 'w').close()\nos.mkdir('folder')\nos.chdir('folder')\nprint('spoilt')"
    )
    result = probe.exec(spoil)
    probe.expect("the output of a program that changes all that it can", "spoilt\n", result.stdout, result)
    looks = {
        "a name": "'left' in globals()",
        "a patched module": "__import__('math').pi == 3",
        "a patched builtin": "hasattr(__import__('builtins'), 'left_too')",
        "an environment variable": "'LEFT' in __import__('os').environ",
        "a path of imports": "'/left' in __import__('sys').path",
        "a file in the working directory": "__import__('os').path.exists('left')",
        "a working directory": "__import__('os').path.basename(__import__('os').getcwd()) == 'folder'",
    }
    result = probe.exec("\n".join(f"print({look})" for look in looks.values()))
    for what, left in zip(looks, result.stdout.split(), strict=False):
        probe.expect(f"{what} of an earlier call is still there", "False", left, result)
    probe.expect("the number of answers", len(looks), len(result.stdout.split()), result)


def _check_timeout(probe: _Probe) -> None:
    for end in ("import time; time.sleep(60)", "while True: pass"):
        code = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('before', flush=True)\n{end}"
        started = time.monotonic()
        result = probe.exec(code, timeout_s=LIMIT_S)
        elapsed_s = time.monotonic() - started
        probe.expect(f"the status of {end!r} at its limit", "timeout", result.status, result)
        if elapsed_s < 0.9 * LIMIT_S:
            probe.fail(f"a call with a limit of {LIMIT_S:g} s was ended after {elapsed_s:.2f} s")
        probe.expect("the output before the limit", "before\n", result.stdout, result)
        probe.expect(f"'{LIMIT_S:g}' in the error", True, f"{LIMIT_S:g}" in str(result.error), result)
    result = probe.exec("print('after')")
    probe.expect("the output of the next call", "after\n", result.stdout, result)


def _check_output_limit(probe: _Probe) -> None:
    body = "stream.write('head\\n' + 'x' * 200_000 + '\\ntail\\n')"
    for name in ("stdout", "stderr"):
        result = probe.exec(f"import sys\nstream = sys.{name}\n{body}", max_output_bytes=1000)
        text: str = getattr(result, name)
        probe.expect("the status of a program that prints 200 kB", "ok", result.status, result)
        probe.expect(f"{name} starts with its head", "head\nxxx", text[:8], result)
        probe.expect(f"{name} ends with its tail", "xxx\ntail\n", text[-9:], result)
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > 1000 + MARK_BYTES:
            probe.fail(f"{name} holds {size} bytes; max_output_bytes was 1000, and a mark takes a few more")


def _check_text(probe: _Probe) -> None:
    result = probe.exec("print('\\0 \\x1b é 漢 😀')")
    probe.expect("odd characters in the output", "\0 \x1b é 漢 😀\n", result.stdout, result)
    result = probe.exec("print('é 漢 😀')")
    probe.expect("odd characters in the program", "é 漢 😀\n", result.stdout, result)
    result = probe.exec("import os\n_ = os.write(1, b'a\\xff\\xfeb')")
    probe.expect("output that is not UTF-8", ("a", "b", "ok"), (*_ends(result.stdout), result.status), result)
    for code in ("x = 1\0", "x ="):
        result = probe.exec(code)
        probe.expect(f"the status of the program {code!r}", "error", result.status, result)
    for code in ("x = '\ud800'", "print('\\ud800')", "raise ValueError('\\udfff')"):
        probe.exec(code)  # any status will do, but no exception
    result = probe.exec("")
    probe.expect("the empty program", ("ok", ""), (result.status, result.output), result)


def _ends(text: str) -> tuple[str, str]:
    return text[:1], text[-1:]


def _check_stdin(probe: _Probe) -> None:
    read = "import sys\ntext = sys.stdin.read()\nprint(len(text), text[:3])"
    result = probe.exec(read, stdin="é\n漢" + "x" * 300_000)
    probe.expect("300 kB of input", "300003 é\n漢\n", result.stdout, result)
    result = probe.exec("print('unread')", stdin="x" * 300_000)
    probe.expect("a program that leaves its input unread", ("ok", "unread\n"), (result.status, result.stdout), result)
    result = probe.exec("print(input(), input())", stdin="a\nb\n")
    probe.expect("two lines of input", "a b\n", result.stdout, result)
    result = probe.exec("input()")
    probe.expect("'EOFError' where there is no input", True, "EOFError" in str(result.error), result)


def _check_descendants(probe: _Probe) -> None:
    """Daemons carry a mark as their name, which the host and the next call look for; where none can, all is well."""
    mark = f"check{secrets.token_hex(4)}"  # a process name holds 15 characters
    daemon = (
        "import ctypes, os, signal, time\nif hasattr(os, 'fork') and os.fork() == 0:\n"
        "    os.setsid()\n    if os.fork() == 0:\n"
        f"        try: ctypes.CDLL(None).prctl(15, b'{mark}', 0, 0, 0)  # PR_SET_NAME\n        except Exception: pass\n"
        f"        time.sleep({DAEMON_S})\n    os._exit(0)\ntime.sleep(0.2)\nprint('main', flush=True)\n"
    )
    started = time.monotonic()
    result = probe.exec(daemon)
    elapsed_s = time.monotonic() - started
    probe.expect("the output of a program with a daemon", ("ok", "main\n"), (result.status, result.stdout), result)
    if elapsed_s > DAEMON_S / 2:
        probe.fail(f"a call waited {elapsed_s:.1f} s for a daemon that holds its output; expected it to end at once")
    _expect_gone(probe, mark, "a call that ended well")
    result = probe.exec(f"{daemon}while True: pass", timeout_s=LIMIT_S)
    probe.expect("the status of a loop with a daemon", "timeout", result.status, result)
    _expect_gone(probe, mark, "a call that ran into its limit")


def _expect_gone(probe: _Probe, mark: str, after: str) -> None:
    look = (
        "import glob\nfor path in glob.glob('/proc/[0-9]*/comm'):\n    try: name = open(path).read().strip()\n"
        f"    except OSError: continue\n    if name == '{mark}': print(path)"
    )
    result = probe.exec(look)
    probe.expect(f"processes that the call after {after} still sees", "", result.stdout, result)
    if left := _processes_named(mark):
        probe.fail(f"after {after} its daemon still runs: process {left[0]}; end all that a call started")


def _processes_named(name: str) -> list[int]:
    """Processes of this machine, a container's too, whose name is ``name``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm") if sys.platform == "linux" else ():
        try:
            found += [int(path.parent.name)] if path.read_text().strip() == name else []
        except OSError:  # ended in the meantime
            continue
    return found


def _check_threads(probe: _Probe) -> None:
    numbers = range(12)
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda number: probe.exec(f"print({number})"), numbers))
    for number, result in zip(numbers, results, strict=True):
        probe.expect("the answer to one of four threads", f"{number}\n", result.stdout, result)


def _check_close(probe: _Probe) -> None:
    for time_of in ("first", "second"):
        try:
            probe.sandbox.close()
        except Exception as error:
            probe.fail(f"the {time_of} close() raised {error!r}; expected nothing", error)
    try:
        result = probe.sandbox.exec("print(1)", timeout_s=CALL_S)
    except SandboxError:
        return
    except Exception as error:
        probe.fail(f"a call after close() raised {error!r}; expected a SandboxError", error)
    probe.fail(f"a call after close() gave {_short(result)}; expected a SandboxError")
