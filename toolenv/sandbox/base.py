"""What a sandbox is: code in, what came of it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Literal, Protocol, runtime_checkable

from toolenv.errors import ConfigError
from toolenv.sandbox.arguments import check_text, seconds, whole

MAX_OUTPUT_BYTES = 64_000
MAX_TIMEOUT_S = 1e6  # beyond some weeks, the kernel's clocks overflow
MAX_LIMIT = (1 << 63) - 1  # what a kernel takes for a limit

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

    Raises:
        ConfigError: Code or input that is no text, or a limit that is no sensible number.
    """

    code: str
    timeout_s: float = 5.0
    max_output_bytes: int = MAX_OUTPUT_BYTES
    stdin: str = ""

    def __post_init__(self) -> None:
        check_text("code", self.code)
        check_text("stdin", self.stdin)
        object.__setattr__(self, "timeout_s", seconds("timeout_s", self.timeout_s, most=MAX_TIMEOUT_S))
        most = whole("max_output_bytes", self.max_output_bytes, like="64_000", least=2)
        object.__setattr__(self, "max_output_bytes", most)

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

    Raises:
        ConfigError: One that is no whole number, or is below 1.
    """

    memory_bytes: int = 512 << 20
    max_processes: int = 64
    max_file_bytes: int = 32 << 20

    def __post_init__(self) -> None:
        for field in fields(self):
            like = "64" if field.name == "max_processes" else "512 << 20"
            number = whole(field.name, getattr(self, field.name), like=like, most=MAX_LIMIT)
            object.__setattr__(self, field.name, number)


def limits_of(given: Limits | Mapping[str, int] | None) -> Limits:
    """Limits as a caller may give them: as such, as a mapping (of JSON), or ``None`` for the usual ones.

    Raises:
        ConfigError: Another type, an unknown limit, or one that is no sensible number.

    Example:
        >>> limits_of({"max_processes": 16}).max_processes
        16
    """
    if given is None or isinstance(given, Limits):
        return given or Limits()
    if not isinstance(given, Mapping):
        raise ConfigError(f"limits must be a Limits, or a mapping such as {{'memory_bytes': 512 << 20}}; got {given!r}")
    names = [field.name for field in fields(Limits)]
    if unknown := [name for name in given if name not in names]:
        raise ConfigError(f"there is no limit {unknown[0]!r}; choose from {', '.join(names)}")
    return Limits(**given)


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
            ConfigError: Arguments that make no sense, see ``ExecJob``.
            SandboxError: The sandbox was lost for no fault of the code.
        """
        ...

    def close(self) -> None:
        """End the sandbox and all that runs in it."""
        ...
