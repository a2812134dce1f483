"""What the worker is told and what it answers.

A request is a header, JSON that is padded to ``HEADER_BYTES`` and ends a line, and then the bytes of the program and of
its standard input. An answer is a line of JSON, and then the bytes that were kept of standard output, of standard error
and of the program's report, as many as the line says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypedDict

HEADER_BYTES = 256


class Settings(TypedDict):
    """The worker's argument.

    Attributes:
        path: Folders to append to ``sys.path``.
        warm: Statements to run once at the start, so that no call pays for them; one that fails is reported.
        memory_bytes: Memory of each process.
        max_processes: Processes of the user; ``None``: not limited here.
        max_file_bytes: Size of each file that a program writes.
        max_files: Files in each folder that programs can write to, where the worker has to limit them: it is then
            started with the right to.
        uid: User to become where the worker was started by root: the worker itself where it is process 1 of its own
            namespace, else each child.
        tmp: Folder of programs. Process 1 empties it, and ``/dev/shm``, after each call; else it is emptied alone.
    """

    path: list[str]
    warm: list[str]
    memory_bytes: int
    max_processes: int | None
    max_file_bytes: int
    max_files: int | None
    uid: int | None
    tmp: str


class Request(TypedDict):
    """The header of a program to run.

    Attributes:
        id: What the answer is known by.
        timeout_s: Wall-clock limit, in seconds.
        max_output_bytes: Most that is kept of each stream, of the value and of the error.
        keep: Run it in the session, whose variables and files the next such request finds. The first one opens it, and
            ``{"id": ..., "end": true}`` ends it; between the two there is no request without ``keep``.
        code_bytes: Length of the program in UTF-8 (surrogates as they are).
        stdin_bytes: Length of what it reads, likewise.
    """

    id: int
    timeout_s: float
    max_output_bytes: int
    keep: bool
    code_bytes: int
    stdin_bytes: int


Answer = dict[str, Any]
"""The line of an answer.

``id``; ``clean``: nothing of the call is left but the session; ``status``, ``exit_code`` and ``wall_s`` as in
``ExecResult``; ``said``: why it was ended, ``None`` where it ended by itself; ``note``: more to say of it, or ``None``;
``streams``: for each of the three ``[bytes kept, bytes of them that are its head, bytes in all]``.

A report is the letter ``v`` and the value of the last expression, or ``e`` and a traceback, or ``d`` for neither. Where
a program with no traceback fails after that, as it ends, ``\\0e`` and a traceback follow. There is no report where the
program was ended while it ran. The program can write it as well, so it is only shown.
"""


def header(request: Mapping[str, Any]) -> bytes:
    """The header of a request."""
    return json.dumps(request).encode("ascii").ljust(HEADER_BYTES - 1) + b"\n"
