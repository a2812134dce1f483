"""The tool ``python``: runs what the model wrote, and shows it what a notebook shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolenv.envs.fence import unfenced
from toolenv.envs.program_results import NOTEBOOK, results_of
from toolenv.envs.python_session import PythonSession
from toolenv.episode import Turn
from toolenv.errors import ConfigError, SandboxError
from toolenv.sandbox.arguments import seconds, whole
from toolenv.sandbox.base import MAX_OUTPUT_BYTES, MAX_TIMEOUT_S, ExecJob, ExecResult, Limits, Sandbox
from toolenv.sandbox.choosing import shared_pool
from toolenv.sandbox.pool import SandboxPool, run_jobs
from toolenv.sandbox.settings import PoolSettings, sandbox_of
from toolenv.sandbox.shortening import shorten
from toolenv.tools import RETRIES, ToolOutput

NO_OUTPUT = "(no output; print() what you want to see)"

FRESH = "Every call starts afresh: no variable is kept."
KEPT = (
    "Variables, imports and files are kept from call to call, also after an error; "
    "a call that runs out of time leaves the variables as they were."
)


class PythonTool:
    """The tool ``python``: the programs of all calls of a step run as one list of work in a pool of sandboxes.

    The model is shown what was printed, the last value, and a short traceback, as in a notebook; but standard error,
    where warnings are, only if the program ended well and showed nothing else. The result's data is
    ``{"status": "ok" | "error" | "timeout" | "killed"}``. Where the argument is one block in a Markdown fence, what is
    inside it is run.

    With ``stateful=True``, the calls of an episode share variables, imports and files, which end with the episode. Each
    running episode then has a worker for itself. From a state that was saved the episode's programs run again, once the
    next call comes. Such a tool is used through an environment, which knows what an episode is.

    Args:
        sandbox: ``"auto"``, ``"docker"``, ``"bwrap"``, ``"process"``; the address of a server, such as
            ``"http://localhost:8080"``, which is sent the token in ``TOOLENV_SANDBOX_TOKEN``; or a sandbox or pool of
            your own. The pool behind a name and its settings is shared by all tools of the process, and starts with the
            first call.
        timeout_s: Wall-clock limit of a call, in seconds.
        max_output_bytes: A longer result is cut in its middle.
        workers: How many calls run at once, here or on the server.
        stateful: Whether the calls of an episode share their state.
        results: What the model is shown: as in a ``"notebook"``; or as ``"torl"``, ``"simpletir"`` and ``"retool"``
            have it, whose checkpoints then read what they were trained on, and ``max_output_bytes`` cuts nothing.
        limits: What a program may use, as for ``make_sandbox``; like the next two, for a name alone.
        image: Docker image.
        runtime: Runtime of the Docker engine.

    Raises:
        ConfigError: An unknown sandbox, a setting that makes no sense or that the sandbox does not take, or a state
            that it cannot keep.

    Example:
        >>> PythonTool("process")(code="sum(range(101))").content
        '5050'
    """

    name = "python"

    def __init__(
        self,
        sandbox: str | Sandbox = "auto",
        timeout_s: float = 5.0,
        max_output_bytes: int = 2000,
        workers: int = 2,
        *,
        stateful: bool = False,
        results: str = NOTEBOOK,
        limits: Limits | Mapping[str, int] | None = None,
        image: str | None = None,
        runtime: str | None = None,
    ) -> None:
        source = sandbox_of(sandbox, workers=workers, limits=limits, image=image, runtime=runtime)
        if stateful and not isinstance(source, PoolSettings):
            if not isinstance(source, SandboxPool):
                raise ConfigError(f"stateful=True needs the name of a sandbox or a SandboxPool, not {source!r}")
            source.session().close()
        self.sandbox = sandbox
        self.timeout_s = seconds("timeout_s", timeout_s, most=MAX_TIMEOUT_S)
        if not self.timeout_s:
            raise ConfigError(f"timeout_s must be above 0, not {timeout_s!r}")
        self.max_output_bytes = whole("max_output_bytes", max_output_bytes, like="2000")
        self.workers = whole("workers", workers, like="2")
        self.stateful = stateful
        self.results = results
        self._results = results_of(results)
        self._source = source
        # A pool tries again by itself what was lost, and knows a program that is to blame.
        self.retries = 0 if isinstance(source, PoolSettings) or hasattr(source, "run") else RETRIES
        self.schema: Mapping[str, Any] = {
            "name": self.name,
            "description": (
                "Run a Python program and read what it prints, and the value of its last expression. "
                f"numpy and sympy are installed. {KEPT if stateful else FRESH}"
            ),
            "parameters": {
                "type": "object",
                "properties": {"code": {"type": "string", "description": "The program."}},
                "required": ["code"],
            },
        }

    def __call__(self, **arguments: Any) -> ToolOutput:
        """Run the argument ``code``.

        Raises:
            SandboxError: The sandbox was lost, or none could be started.
            ConfigError: The tool is stateful, and here is no episode.
        """
        output = self.batch([arguments])[0]
        if isinstance(output, SandboxError):
            raise output
        return output

    def batch(
        self, arguments: Sequence[Mapping[str, Any]], sessions: Sequence[PythonSession | None] = ()
    ) -> list[ToolOutput | SandboxError]:
        """Run all programs, as many at once as there are workers; those of one session one after the other.

        Args:
            arguments: Of each call.
            sessions: The session of each call, where the tool is stateful.

        Raises:
            SandboxError: No sandbox could be started.
            ConfigError: A call of a stateful tool without a session.
        """
        # Twice what is shown, so that what the sandbox itself leaves out always lies in what is left out here.
        most = 2 * self.max_output_bytes if self._results is None else MAX_OUTPUT_BYTES
        jobs = [ExecJob(self._program(call["code"]), self.timeout_s, most) for call in arguments]
        results = self._run_in_sessions(jobs, sessions) if self.stateful else run_jobs(self._started(), jobs)
        return [result if isinstance(result, SandboxError) else self._render(result) for result in results]

    def open_session(self, turns: Sequence[Turn]) -> PythonSession:
        """The state after these turns, of which the programs run again before the next one does."""
        return PythonSession(lambda: self._started().session(), self.name, turns, self.timeout_s)

    def _started(self) -> Any:
        """The sandbox; a pool in any case where the tool is stateful."""
        return shared_pool(self._source) if isinstance(self._source, PoolSettings) else self._source

    def _run_in_sessions(
        self, jobs: Sequence[ExecJob], sessions: Sequence[PythonSession | None]
    ) -> list[ExecResult | SandboxError]:
        results: dict[int, ExecResult | SandboxError] = {}
        own: dict[int, tuple[PythonSession, list[int]]] = {}
        for index, session in enumerate(sessions):
            if session is not None:
                own.setdefault(id(session), (session, []))[1].append(index)
        if sum(len(indices) for _, indices in own.values()) != len(jobs):
            raise ConfigError("a stateful python tool is called through an environment, which says what an episode is")

        def run(part: tuple[PythonSession, list[int]]) -> None:
            session, indices = part
            for index in indices:
                results[index] = session.run(jobs[index])

        self._started().map(run, list(own.values()))
        return [results[index] for index in range(len(jobs))]

    def _program(self, code: str) -> str:
        plain = unfenced(code)
        return plain if self._results is None else self._results.program(plain)

    def _render(self, result: ExecResult) -> ToolOutput:
        error = {"ok": None, "timeout": "timeout"}.get(result.status, "tool_error")
        if self._results is not None:
            facts = {"status": result.status, **self._results.facts(result)}
            return ToolOutput(self._results.show(result), facts, error)
        text = result.output
        if result.status == "ok" and not text.strip():
            text = result.stderr.rstrip("\n") or NO_OUTPUT
        shown = shorten(text, self.max_output_bytes, last_line=result.error is not None)
        return ToolOutput(shown, {"status": result.status}, error)

    def __deepcopy__(self, memo: dict[int, Any]) -> PythonTool:
        # Reading env.spec deep-copies constructor arguments, and copies would no longer share a list of work.
        return self

    def __repr__(self) -> str:
        stateful = ", stateful=True" if self.stateful else ""
        return f"PythonTool({self.sandbox!r}, timeout_s={self.timeout_s}{stateful})"
