"""Run a program as a notebook does: its value is that of its last expression, its error a short traceback."""

from __future__ import annotations

import ast
import atexit
import builtins
import contextlib
import linecache
import re
import sys
import threading
import traceback
import types
from typing import NamedTuple, TextIO

FRAMES = 8
SEMICOLON = re.compile(r"(?:[ \t\f]|\\\n)*;")
_BUILTINS = dict(vars(builtins))


class Ending(NamedTuple):
    """How a program ended.

    Attributes:
        exit_code: That of Python, for such an end.
        value: ``repr`` of the last expression's value.
        error: A short traceback of the program alone.
        usable: Whether another program can go on from here.
    """

    exit_code: int
    value: str | None = None
    error: str | None = None
    usable: bool = True


def new_main() -> types.ModuleType:
    """An empty ``__main__``, in the place of the worker's."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main
    return main


def run_code(code: str, main: types.ModuleType, count: int = 1) -> Ending:
    """Run a program.

    Args:
        code: Python source.
        main: Where its names live.
        count: How many programs there have been with this one; tracebacks tell their lines apart.
    """
    filename = "<code>" if count == 1 else f"<code {count}>"
    lines = source_lines(code)
    linecache.cache[filename] = (len(code), None, lines, filename)
    try:
        value = _run(code, lines, filename, main)
        return Ending(0, value=None if value is None else repr(value))
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            left = int(stop.code or 0) & 0xFF
            return Ending(left, error=f"SystemExit: {left}" if left else None)
        return Ending(1, error=f"SystemExit: {stop.code}")
    except MemoryError as error:
        traceback.clear_frames(error.__traceback__)  # to make room
        main.__dict__.clear()
        return Ending(1, error=tell(error), usable=False)
    except BaseException as error:
        return Ending(1, error=tell(error))
    finally:
        sys.settrace(None)
        sys.setprofile(None)


def source_lines(code: str) -> list[str]:
    """The lines that Python counts, all with an end: form feeds and Unicode's separators end none."""
    text = code.replace("\r\n", "\n").replace("\r", "\n")
    return [line + "\n" for line in text.removesuffix("\n").split("\n")]


def _run(code: str, lines: list[str], filename: str, main: types.ModuleType) -> object:
    tree = ast.parse(code, filename)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr) or _is_silenced(last, lines):
        exec(compile(tree, filename, "exec", dont_inherit=True), main.__dict__)
        return None
    tree.body.pop()
    exec(compile(tree, filename, "exec", dont_inherit=True), main.__dict__)
    return eval(compile(ast.Expression(last.value), filename, "eval", dont_inherit=True), main.__dict__)


def _is_silenced(last: ast.Expr, lines: list[str]) -> bool:
    """Whether a semicolon follows, by which a notebook's user says that the value is not to be shown."""
    assert last.end_lineno is not None
    line, *more = lines[last.end_lineno - 1 :]
    rest = line.encode()[last.end_col_offset :].decode()
    return SEMICOLON.match(rest + "".join(more)) is not None


def tell(error: BaseException) -> str:
    """A short traceback, whatever the program did to Python."""
    theirs = dict(vars(builtins))
    vars(builtins).update(_BUILTINS)
    try:
        return describe(error)
    except BaseException:  # a module of Python's that the program broke, or its own __str__
        return type(error).__name__
    finally:
        vars(builtins).clear()
        vars(builtins).update(theirs)


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
        frames = [frame for frame in part.stack if frame.filename.startswith("<code")]
        part.stack[:] = frames if len(frames) <= FRAMES else [*frames[:2], *frames[2 - FRAMES :]]
        pending += [part.__cause__, part.__context__]
    return "".join(told.format()).rstrip("\n")


def finish(ending: Ending, stdout: TextIO | None, *, leaves: bool) -> Ending:
    """What an interpreter does at the end of a program: wait for threads, run exit handlers, flush.

    Args:
        ending: How the program ended.
        stdout: The stream that it was given, which it may have replaced.
        leaves: Whether the interpreter ends, too.

    Returns:
        ``ending``, or the error that came up here, where the program left Python in a state that this fails in.
    """
    try:
        if stdout is not None:
            with contextlib.suppress(OSError, ValueError):  # closed
                stdout.flush()  # as a notebook does, which waits for no thread
        if leaves:
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
        else:
            _join_threads()
        for each in {stdout, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}:
            with contextlib.suppress(OSError, ValueError):  # closed
                if each is not None:
                    each.flush()
    except BaseException as error:
        return ending if ending.error else Ending(1, error=tell(error))
    return ending


def _join_threads() -> None:
    """Wait for the threads that an interpreter would wait for, but not for those of pools, which wait for work."""
    pools = sys.modules.get("concurrent.futures.thread")
    pooled = list(pools._threads_queues) if pools else []
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon and thread not in pooled:
            thread.join()
