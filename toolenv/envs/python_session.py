"""The state that an episode's Python programs have led to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolenv.envs.fence import unfenced
from toolenv.episode import Turn
from toolenv.errors import SandboxError, SandboxUnavailable
from toolenv.sandbox.base import MAX_TIMEOUT_S, ExecJob, ExecResult
from toolenv.sandbox.patience import TRIAL_S, patiently
from toolenv.sandbox.session import Session

# A program that was ended from outside left files at the most, so it need not run again.
LASTING = ("ok", "error")
REPLAY_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Program:
    """A program that ran, and left something.

    Attributes:
        code: The program.
        status: How it ended, see ``ExecResult``.
    """

    code: str
    status: str


class PythonSession:
    """An episode's programs, each of which finds what the earlier ones left.

    Where the state is not at hand, because an episode goes on from a record or because a worker was lost, the programs
    run again in a fresh session before the next one.

    Args:
        open_session: Opens a session of a sandbox.
        tool: Name of the tool in the record.
        turns: The episode so far.
        timeout_s: Wall-clock limit of a program, in seconds.
    """

    def __init__(
        self, open_session: Callable[[], Session], tool: str, turns: Sequence[Turn] = (), timeout_s: float = 5.0
    ) -> None:
        self.tool = tool
        self.timeout_s = timeout_s
        self.done = self._programs(turns)
        self._open_session = open_session
        self._session: Session | None = None

    def is_at(self, turns: Sequence[Turn]) -> bool:
        """Whether this is the state after these turns."""
        return self.done == self._programs(turns)

    def run(self, job: ExecJob) -> ExecResult | SandboxError:
        """Run a program in the state; one whose worker is lost again and again is to blame, see ``patiently``."""

        def attempt(try_out: bool) -> ExecResult:
            session = self._session
            if session is None or session.closed:
                session = self._rebuilt(try_out)
            try:
                return job.run_by(session.exec)
            except SandboxError:
                self.close()
                raise

        result = patiently(attempt)
        if isinstance(result, ExecResult) and result.status in LASTING:
            self.done.append(Program(job.code, result.status))
        return result

    def close(self) -> None:
        """Give the worker back."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _programs(self, turns: Sequence[Turn]) -> list[Program]:
        """What the record's programs were; a result without a status was never run."""
        results = [result for turn in turns for result in turn.results if result.call.name == self.tool]
        return [
            Program(unfenced(result.call.arguments["code"]), result.data["status"])
            for result in results
            if result.data.get("status") in LASTING
        ]

    def _rebuilt(self, try_out: bool) -> Session:
        """A session in which the record's programs have run again.

        Raises:
            SandboxUnavailable: One of them is lost, or does not end as it did: the machine's fault, for they ran once.
        """
        session = self._open_session()
        try:
            if try_out:
                session.exec("", timeout_s=TRIAL_S)
            # With time to spare: that a program took as long as this once must not be the end of the episode.
            timeout_s = min(2 * self.timeout_s + 1, MAX_TIMEOUT_S)
            for program in self.done:
                result = session.exec(program.code, timeout_s=timeout_s, max_output_bytes=REPLAY_BYTES)
                if result.status != program.status:
                    raise SandboxError(
                        f"the episode's state cannot be built again: a program that ended with status "
                        f"{program.status!r} now ends with {result.status!r}"
                    )
        except BaseException as error:
            session.close()
            if isinstance(error, SandboxError):
                raise SandboxUnavailable(str(error)) from error
            raise
        self._session = session
        return session
