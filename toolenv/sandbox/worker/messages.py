"""What the worker is told and what it answers: JSON objects, one a line."""

from __future__ import annotations

from typing import Any, TypedDict


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
    """One program to run.

    Attributes:
        id: What the answer is known by.
        code: The program.
        timeout_s: Wall-clock limit, in seconds.
        max_output_bytes: Most that is kept of each stream, of the value and of the error.
        stdin: What the program reads.
        keep: Run it in the session, whose variables and files the next such request finds. The first one opens it, and
            ``{"id": ..., "end": true}`` ends it; between the two there is no request without ``keep``.
    """

    id: int
    code: str
    timeout_s: float
    max_output_bytes: int
    stdin: str
    keep: bool


Answer = dict[str, Any]
"""The request's ``id``, ``clean`` (nothing of the call is left but the session), and the fields of ``ExecResult``."""
