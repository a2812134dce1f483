"""The worker that runs model-written code: one throw-away child a call, forked from a warm interpreter.

This file runs as a script, alone, with the standard library only; no other file of the package is there. All
backends start it: plainly, under bubblewrap, or in a container. Its settings are one JSON argument:

- ``path``: folders to append to ``sys.path``.
- ``warm``: statements to run once at the start, so that no call pays for them; one that fails is reported.
- ``memory_bytes``, ``max_processes``, ``max_file_bytes``: limits of a call (``max_processes`` may be ``null``).
- ``uid``: user to become where the worker was started by root: the worker itself where it is process 1 of its own
  namespace, else each child.
- ``tmp``: folder for temporary files. Process 1 owns it and uses it as it is; else each call gets a folder in it.

It reads one request a line from what was its standard input and writes one answer a line to what was its standard
output: ASCII JSON, so that any text survives. A call ends with its main process, its deadline or a flood of output;
then every process that it started is killed and reaped, and its files are removed. The child has no descriptor of the
protocol, so it cannot forge an answer.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import ctypes
import fcntl
import gc
import io
import json
import linecache
import math
import os
import random
import resource
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
from typing import Any, NoReturn

Settings = dict[str, Any]
Request = dict[str, Any]
Answer = dict[str, Any]

FILENAME = "<code>"
FLOOD_BYTES = 8 << 20
CLEAN_S = 3.0
REPORT_FD = 3
FRAMES = 8
LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_CHILD_SUBREAPER = 1, 4, 8, 36
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 38, 47, 2
CAP_DAC_READ_SEARCH = 2


# Keeping the walls up -----------------------------------------------------------------------------------------------


def prctl(option: int, value: int = 0, third: int = 0) -> None:
    """Call ``prctl``; a no-op where there is none."""
    if LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, third, 0, 0)


def drop_root(uid: int, settings: Settings) -> None:
    """Become ``uid`` for good; keep only the right to read Python's own files where they lie out of its reach."""
    folders = [os.path.dirname(os.__file__), *settings["path"]]
    reachable = all(_others_may_enter(folder) for folder in folders)
    if not reachable:
        prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if not reachable and LINUX:
        keep = 1 << CAP_DAC_READ_SEARCH
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)(keep, keep, keep, 0, 0, 0)
        ctypes.CDLL(None, use_errno=True).capset(header, sets)
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH)


def _others_may_enter(folder: str) -> bool:
    folder = os.path.realpath(folder)
    while True:
        if os.path.exists(folder) and not os.stat(folder).st_mode & 0o001:
            return False
        if folder == "/":
            return True
        folder = os.path.dirname(folder)


def set_limits(settings: Settings, timeout_s: float) -> None:
    """Limits of one call, for the child and all that it starts."""
    memory = settings["memory_bytes"]
    cpu = math.ceil(timeout_s) + 1
    limits = {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": cpu,
        "RLIMIT_FSIZE": settings["max_file_bytes"],
        "RLIMIT_NOFILE": 64,
        # DATA gives a MemoryError; AS is wider, since each thread reserves far more than it uses.
        "RLIMIT_DATA": memory,
        "RLIMIT_AS": 4 * memory,
        "RLIMIT_NPROC": settings["max_processes"],
    }
    for name, value in limits.items():
        if value is None:
            continue
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (ValueError, OSError):
            if LINUX:  # macOS refuses some of them
                raise


def kill_all() -> bool:
    """Kill and reap every process that the call started; whether none is left."""
    deadline = time.monotonic() + CLEAN_S
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] > 0:
                continue
        except ChildProcessError:
            # Orphans come to this process, as process 1 or as subreaper: no child means no descendant.
            return True
        if time.monotonic() > deadline:
            return False
        if os.getpid() == 1:
            _kill(-1)
        else:
            for pid in descendants(os.getpid()):
                _kill(pid)
        time.sleep(0.0005)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def descendants(root: int) -> set[int]:
    """Ids of all processes below ``root``."""
    parents = {}
    for name in os.listdir("/proc") if LINUX else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    below, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in below} - below
        grown = bool(more)
        below |= more
    return below - {root}


def wipe(folder: str) -> None:
    """Empty a folder, however deep it is; subfolders are moved up before they are emptied."""
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    count = 0
    try:
        while names := os.listdir(top):
            for name in names:
                try:
                    os.unlink(name, dir_fd=top)
                    continue
                except (IsADirectoryError, PermissionError):
                    os.chmod(name, 0o700, dir_fd=top)
                sub = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
                try:
                    for inner in os.listdir(sub):
                        count += 1
                        os.rename(inner, f".wipe-{count}-{os.getpid()}", src_dir_fd=sub, dst_dir_fd=top)
                finally:
                    os.close(sub)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


# The child ----------------------------------------------------------------------------------------------------------


def child(request: Request, settings: Settings, out: int, err: int, report: int, home: str) -> NoReturn:
    """Run one request and exit; never returns."""
    code = 70
    try:
        _prepare(request, settings, out, err, report, home)
        main_pid = os.getpid()
        code, value, error = run_code(request["code"])
        code = _finish(code)
        if os.getpid() == main_pid:  # a fork in the code comes past here too
            limit = request["max_output_bytes"]
            text = json.dumps({"value": clip(value, limit), "error": clip(error, limit)}).encode("ascii")
            while text:
                text = text[os.write(REPORT_FD, text) :]
    finally:
        os._exit(code)


def _prepare(request: Request, settings: Settings, out: int, err: int, report: int, home: str) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
    os.dup2(report, REPORT_FD, inheritable=False)
    os.closerange(REPORT_FD + 1, 4096)
    os.chdir(home)
    os.umask(0o022)
    if settings["uid"] is not None and os.getuid() == 0:
        drop_root(settings["uid"], settings)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # out of memory, the kernel takes the code, not the worker
    set_limits(settings, request["timeout_s"])
    os.environ["TMPDIR"] = os.environ["HOME"] = tempfile.tempdir = home
    sys.stdout, sys.stderr = _writer(1), _writer(2)
    vars(sys).update(__stdout__=sys.stdout, __stderr__=sys.stderr)
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)


def _writer(fd: int) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", errors="backslashreplace", line_buffering=True)


def run_code(code: str) -> tuple[int, str | None, str | None]:
    """Run a program as a notebook does: ``(exit code, repr of the last expression's value, traceback)``."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main
    sys.argv = [""]
    linecache.cache[FILENAME] = (len(code), None, code.splitlines(keepends=True), FILENAME)
    try:
        tree = ast.parse(code, FILENAME)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        exec(compile(tree, FILENAME, "exec", dont_inherit=True), main.__dict__)
        value = None
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), FILENAME, "eval", dont_inherit=True), main.__dict__)
        return 0, None if value is None else repr(value), None
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            left = int(stop.code or 0) & 0xFF
            return left, None, f"SystemExit: {left}" if left else None
        return 1, None, f"SystemExit: {stop.code}"
    except BaseException as error:
        if isinstance(error, MemoryError):  # make room to tell of it
            main.__dict__.clear()
            traceback.clear_frames(error.__traceback__)
        return 1, None, describe(error)


def describe(error: BaseException) -> str:
    """A short traceback: the frames of the program alone, the first and the last ones."""
    told = traceback.TracebackException.from_exception(error)
    pending: list[traceback.TracebackException | None] = [told]
    seen: set[int] = set()
    while pending:
        part = pending.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        frames = [frame for frame in part.stack if frame.filename == FILENAME]
        part.stack[:] = frames if len(frames) <= FRAMES else [*frames[:2], *frames[2 - FRAMES :]]
        pending += [part.__cause__, part.__context__]
    return "".join(told.format()).rstrip("\n")


def _finish(code: int) -> int:
    """What an interpreter does at its end: wait for threads, run exit handlers, flush."""
    stream = sys.stdout
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for each in {stream, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}:
        with contextlib.suppress(Exception):
            if each is not None:
                each.flush()
    return code


def clip(text: str | None, limit: int) -> str | None:
    """Head and tail of a text that is longer than ``limit`` characters."""
    if text is None or len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... [{len(text) - limit} characters left out] ...\n{text[len(text) - limit + half :]}"


# The worker ---------------------------------------------------------------------------------------------------------


class Capture:
    """Head and tail of a stream, at most ``limit`` bytes together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.total = limit, 0
        self.head, self.tail = bytearray(), bytearray()

    def feed(self, data: bytes) -> None:
        """Take more bytes."""
        self.total += len(data)
        room = self.limit // 2 - len(self.head)
        self.head += data[: max(room, 0)]
        self.tail += data[max(room, 0) :]
        excess = len(self.tail) - (self.limit - self.limit // 2)
        if excess > 0:
            del self.tail[:excess]

    def text(self) -> str:
        """What was kept, with a mark where something was left out."""
        left_out = self.total - len(self.head) - len(self.tail)
        if not left_out:
            return bytes(self.head + self.tail).decode("utf-8", "replace")
        mark = f"\n... [{left_out} bytes left out] ...\n"
        return self.head.decode("utf-8", "replace") + mark + self.tail.decode("utf-8", "replace")


Captures = dict[int, Capture]


class Worker:
    """Serves requests, one after the other."""

    def __init__(self, settings: Settings, requests: int, replies: int, wake: int) -> None:
        self.settings, self.requests, self.replies, self.wake = settings, requests, replies, wake
        self.private = os.getpid() == 1

    def serve(self) -> None:
        """Answer requests until their pipe closes."""
        buffer = b""
        while True:
            line, newline, rest = buffer.partition(b"\n")
            if newline:
                buffer = rest
                self.reply(self.call(json.loads(line)))
                continue
            data = os.read(self.requests, 1 << 16)
            if not data:
                return
            buffer += data

    def reply(self, message: Answer) -> None:
        """Write one line."""
        data = json.dumps(message).encode("ascii") + b"\n"
        while data:
            data = data[os.write(self.replies, data) :]

    def call(self, request: Request) -> Answer:
        """Run one request in a child, then remove every trace of it."""
        home = self.settings["tmp"] if self.private else tempfile.mkdtemp(dir=self.settings["tmp"])
        if not self.private and self.settings["uid"] is not None:
            os.chown(home, self.settings["uid"], self.settings["uid"])
        pipes = [os.pipe() for _ in range(3)]
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            (_, out), (_, err), (_, told) = pipes
            child(request, self.settings, out, err, told, home)
        for read, write in pipes:
            os.close(write)
            os.set_blocking(read, False)
        limit = request["max_output_bytes"]
        captures = {read: Capture(limit) for read, _ in pipes[:2]}
        captures[pipes[2][0]] = Capture(FLOOD_BYTES)
        end, status = self.watch(pid, captures, started + request["timeout_s"])
        wall_s = time.monotonic() - started
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        clean = kill_all()
        for read in list(captures):
            self._drain(read, captures)
            os.close(read)
        stdout, stderr, report = captures.values()
        clean = self._clear(home) and clean
        answer = {"id": request["id"], "stdout": stdout.text(), "stderr": stderr.text()}
        answer |= {"wall_s": wall_s, "clean": clean}
        return answer | outcome(end, status, report, request["timeout_s"])

    def watch(self, pid: int, captures: Captures, deadline: float) -> tuple[str, int]:
        """Read output until the child ends: ``(why it ended, wait status)``."""
        poll = select.poll()
        for fd in (*captures, self.wake):
            poll.register(fd, select.POLLIN)
        poll.register(self.requests, 0)  # only its end is news
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return "timeout", 0
            for fd, _ in poll.poll(left * 1000 + 1):
                if fd == self.requests:
                    end()
                if fd == self.wake:
                    os.read(fd, 4096)
                elif self._drain(fd, captures):
                    poll.unregister(fd)
            if sum(capture.total for capture in captures.values()) > FLOOD_BYTES:
                return "flood", 0
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return "exit", status

    def _drain(self, fd: int, captures: Captures) -> bool:
        """Read what is there, up to a flood; whether the stream is at its end."""
        while captures[fd].total <= FLOOD_BYTES:
            try:
                data = os.read(fd, 1 << 16)
            except BlockingIOError:
                return False
            if not data:
                return True
            captures[fd].feed(data)
        return False

    def _clear(self, home: str) -> bool:
        try:
            wipe(home)
            if self.private and os.path.isdir("/dev/shm"):
                wipe("/dev/shm")
            if not self.private:
                os.rmdir(home)
        except OSError:
            return False
        return True


def outcome(end: str, status: int, report: Capture, timeout_s: float) -> Answer:
    """Status, exit code, value and error of a call that ended."""
    if end == "timeout":
        return {"status": "timeout", "exit_code": None, "value": None, "error": f"timed out after {timeout_s:g} s"}
    if end == "flood":
        error = f"killed: wrote more than {FLOOD_BYTES >> 20} MB of output"
        return {"status": "killed", "exit_code": None, "value": None, "error": error}
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return {"status": "timeout", "exit_code": code, "value": None, "error": "timed out: used too much CPU time"}
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return {"status": "killed", "exit_code": code, "value": None, "error": f"killed by {name}{hint}"}
    told = {}
    with contextlib.suppress(ValueError):
        told = json.loads(bytes(report.head + report.tail) or b"{}")
    fields = {key: told.get(key) if isinstance(told, dict) else None for key in ("value", "error")}
    fields = {key: value if isinstance(value, str) else None for key, value in fields.items()}
    if code and fields["error"] is None:
        fields["error"] = f"exited with code {code}"
    return {"status": "error" if code else "ok", "exit_code": code, **fields}


def main() -> None:
    """Set up, warm up, serve."""
    settings = json.loads(sys.argv[1])
    requests, replies = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (0, 1))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getpid() == 1 and settings["uid"] is not None and os.getuid() == 0:
        drop_root(settings["uid"], settings)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getpid() == 1:  # no signal from inside reaches it that it does not handle
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        signal.signal(signal.SIGTERM, lambda *_: end())
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    wake_read, wake_write = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in os.pipe())
    os.closerange(3, 10)  # whatever the starter left open
    for fd in (wake_read, wake_write):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    sys.path += settings["path"]
    builtin_exits()
    failed = [problem for statement in settings["warm"] if (problem := warm(statement))]
    gc.collect()
    gc.freeze()
    worker = Worker(settings, requests, replies, wake_read)
    code = "open('file', 'w').close()\n1 + 1"
    trial = worker.call({"id": 0, "code": code, "timeout_s": 10.0, "max_output_bytes": 1000})
    ready = trial["value"] == "2" and trial["clean"]
    worker.reply({"ready": ready, "problem": None if ready else trial, "cold": failed})
    worker.serve()
    os._exit(0)


def end() -> NoReturn:
    """Leave, and leave nothing behind."""
    kill_all()
    os._exit(0)


def builtin_exits() -> None:
    """``exit`` and ``quit``, which programs use and which Python's option ``-S`` leaves out."""
    import site

    site.setquit()
    site.sethelper()


def warm(statement: str) -> str | None:
    """Run a statement of the warm-up; what failed, ``None`` where nothing did."""
    try:
        exec(statement, {})
    except Exception as error:
        return f"{statement}: {error}"
    return None


if __name__ == "__main__":
    main()
