"""Run a program as a notebook does: its value is that of its last expression, its error a short traceback."""

from __future__ import annotations

import ast
import atexit
import contextlib
import linecache
import sys
import threading
import traceback
import types
from typing import TextIO

FILENAME = "<code>"
FRAMES = 8


def run_code(code: str) -> tuple[int, str | None, str | None]:
    """Run a program: ``(exit code, repr of the last expression's value, traceback)``."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main
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


def finish(stdout: TextIO | None) -> None:
    """What an interpreter does at its end: wait for threads, run exit handlers, flush.

    Args:
        stdout: The stream that the program was given, which it may have replaced.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for each in {stdout, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}:
        with contextlib.suppress(Exception):
            if each is not None:
                each.flush()
