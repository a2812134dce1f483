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
        uid: User to become where the worker was started by root: the worker itself where it is process 1 of its own
            namespace, else each child.
        tmp: Folder for temporary files. Process 1 owns it and uses it as it is; else each call gets a folder in it.
    """

    path: list[str]
    warm: list[str]
    memory_bytes: int
    max_processes: int | None
    max_file_bytes: int
    uid: int | None
    tmp: str


class Request(TypedDict):
    """One program to run."""

    id: int
    code: str
    timeout_s: float
    max_output_bytes: int
    stdin: str


Answer = dict[str, Any]
"""The request's ``id``, ``clean`` (nothing of the call is left), and the fields of ``ExecResult``."""
