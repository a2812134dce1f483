"""What a sandbox is: code in, what came of it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

MAX_OUTPUT_BYTES = 64_000
MAX_TIMEOUT_S = 1e6  # beyond some weeks, the kernel's clocks overflow

Status = Literal["ok", "error", "timeout", "killed"]


@dataclass(frozen=True, slots=True)
class ExecResult:
    r"""What came of one execution.

    Attributes:
        stdout: What the code printed; head and tail where it was too much.
        stderr: Warnings and the like; a traceback of the code stands in ``error`` instead.
        status: ``"ok"``; ``"error"`` where the code raised or left with another code than 0; ``"timeout"``;
            ``"killed"`` where it was ended for another reason (a crash, a flood of output).
        exit_code: Exit code, negative for a signal, ``None`` where the sandbox ended it.
        wall_s: Seconds that it ran.
        value: ``repr`` of the last expression's value, as a notebook shows it; ``None`` where there is none.
        error: A short traceback of the code alone, or why it was ended; ``None`` where all went well.

    Example:
        >>> ExecResult("3\n", "", "ok", 0, 0.01, value="[1, 2]").output
        '3\n[1, 2]'
    """

    stdout: str
    stderr: str
    status: Status
    exit_code: int | None
    wall_s: float
    value: str | None = None
    error: str | None = None

    @property
    def output(self) -> str:
        """All that a notebook would show: what was printed, the value, the error."""
        parts = [self.stdout.rstrip("\n"), self.value, self.error]
        return "\n".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class ExecJob:
    """One execution that is to be done.

    Attributes:
        code: The program.
        timeout_s: Wall-clock limit, in seconds.
        max_output_bytes: Most that is kept of each stream.
        stdin: Text that the program reads from its standard input.
    """

    code: str
    timeout_s: float = 5.0
    max_output_bytes: int = MAX_OUTPUT_BYTES
    stdin: str = ""

    def run_by(self, run: Callable[..., ExecResult]) -> ExecResult:
        """Run it by a sandbox's ``exec``, or by what takes the same arguments.

        Standard input is passed on only where there is some, so that a sandbox that knows none runs all other jobs.
        """
        stdin = {"stdin": self.stdin} if self.stdin else {}
        return run(self.code, timeout_s=self.timeout_s, max_output_bytes=self.max_output_bytes, **stdin)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one execution may use.

    Attributes:
        memory_bytes: Memory of each process; in a container, of all together.
        max_processes: Processes and threads, where the sandbox can count them apart from those of the user.
        max_file_bytes: Size of each file that it writes.
    """

    memory_bytes: int = 512 << 20
    max_processes: int = 64
    max_file_bytes: int = 32 << 20


@runtime_checkable
class Sandbox(Protocol):
    """Runs programs, each in a fresh state."""

    def exec(
        self, code: str, *, timeout_s: float, max_output_bytes: int = MAX_OUTPUT_BYTES, stdin: str = ""
    ) -> ExecResult:
        """Run a program.

        Args:
            code: Python source: any text at all.
            timeout_s: Wall-clock limit, in seconds.
            max_output_bytes: Most that is kept of each stream.
            stdin: Text that the program reads from its standard input.

        Raises:
            SandboxError: The sandbox was lost for no fault of the code.
        """
        ...

    def close(self) -> None:
        """End the sandbox and all that runs in it."""
        ...
