"""Mathematics with a Python interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from toolenv.data.math import load_math_jsonl, math_tasks
from toolenv.env import ToolEnv
from toolenv.episode import Task, TaskSet
from toolenv.errors import ConfigError, SandboxError
from toolenv.formats import Format, Parsed, last_boxed
from toolenv.messages import ToolCall
from toolenv.sandbox.base import ExecJob, ExecResult, Sandbox
from toolenv.sandbox.choosing import check_kind, shared_sandbox
from toolenv.sandbox.pool import run_jobs
from toolenv.tools import ToolOutput
from toolenv.vector import vector_entry_point

NO_OUTPUT = "(no output; print() what you want to see)"

SCHEMA: Mapping[str, Any] = {
    "name": "python",
    "description": (
        "Run a Python program and read what it prints, and the value of its last expression. "
        "numpy and sympy are installed. Every call starts afresh: no variable is kept."
    ),
    "parameters": {
        "type": "object",
        "properties": {"code": {"type": "string", "description": "The program."}},
        "required": ["code"],
    },
}


class PythonTool:
    """The tool ``python``: the programs of all calls of a step run as one list of work in a pool of sandboxes.

    The model is shown what a notebook shows: what was printed, the last value, a short traceback. The result's data
    is ``{"status": "ok" | "error" | "timeout" | "killed"}``.

    Args:
        sandbox: ``"auto"``, ``"docker"``, ``"bwrap"``, ``"process"``, or a sandbox or pool of your own. The pool
            behind a name is shared by all tools of the process and starts with the first call.
        timeout_s: Wall-clock limit of a call, in seconds.
        max_output_chars: A longer result is cut in its middle.
        workers: How many calls run at once.

    Raises:
        ConfigError: An unknown sandbox, or a limit that is not positive.

    Example:
        >>> PythonTool("process")(code="sum(range(101))").content
        '5050'
    """

    name = "python"
    schema = SCHEMA

    def __init__(
        self,
        sandbox: str | Sandbox = "auto",
        timeout_s: float = 5.0,
        max_output_chars: int = 2000,
        workers: int = 2,
    ) -> None:
        if isinstance(sandbox, str):
            check_kind(sandbox)
        if timeout_s <= 0:
            raise ConfigError(f"timeout_s must be positive, not {timeout_s!r}")
        if max_output_chars < 1 or workers < 1:
            raise ConfigError(f"max_output_chars and workers must be at least 1, not {max_output_chars}, {workers}")
        self.sandbox = sandbox
        self.timeout_s = timeout_s
        self.max_output_chars = max_output_chars
        self.workers = workers

    def __call__(self, **arguments: Any) -> ToolOutput:
        """Run the argument ``code``.

        Raises:
            SandboxError: The sandbox was lost, or none could be started.
        """
        output = self.batch([arguments])[0]
        if isinstance(output, SandboxError):
            raise output
        return output

    def batch(self, arguments: Sequence[Mapping[str, Any]]) -> list[ToolOutput | SandboxError]:
        """Run all programs, as many at once as there are workers.

        Raises:
            SandboxError: No sandbox could be started.
        """
        sandbox = self.sandbox
        if isinstance(sandbox, str):
            sandbox = shared_sandbox(sandbox, workers=self.workers)
        kept = 4 * self.max_output_chars + 1000
        results = run_jobs(sandbox, [ExecJob(a["code"], self.timeout_s, kept) for a in arguments])
        return [result if isinstance(result, SandboxError) else self._render(result) for result in results]

    def _render(self, result: ExecResult) -> ToolOutput:
        text = result.output
        if result.status == "ok" and not text.strip():
            text = result.stderr.rstrip("\n") or NO_OUTPUT
        error = {"ok": None, "timeout": "timeout"}.get(result.status, "tool_error")
        return ToolOutput(shorten(text, self.max_output_chars), {"status": result.status}, error)

    def __deepcopy__(self, memo: dict[int, Any]) -> PythonTool:
        # Reading env.spec deep-copies constructor arguments, and copies would no longer share a list of work.
        return self

    def __repr__(self) -> str:
        return f"PythonTool({self.sandbox!r}, timeout_s={self.timeout_s})"


def shorten(text: str, limit: int) -> str:
    r"""The head and the tail of a text that has more than ``limit`` characters.

    Example:
        >>> shorten("abcdefgh", 4)
        'ab\n... [4 characters left out] ...\ngh'
    """
    if len(text) <= limit:
        return text
    head = (limit + 1) // 2
    tail = limit - head
    return f"{text[:head]}\n... [{len(text) - limit} characters left out] ...\n{text[len(text) - tail :]}"


class PythonMathEnv(ToolEnv):
    r"""Solve a mathematical problem with the help of Python.

    Besides the format's own way, a turn without a call that holds ``\boxed{...}`` gives the final answer too.

    Args:
        tasks: What may be asked: tasks, a path to a file of problems (see ``load_math_jsonl``), or ``None`` for the
            bundled ones.
        split: Split of the bundled tasks: ``"train"``, ``"validation"`` or ``"test"``.
        sandbox: As for ``PythonTool``; or a ``PythonTool``, which several environments may share, so that their calls
            are one list of work.
        timeout_s: Wall-clock limit of a call, in seconds.
        max_output_chars: A longer result is cut in its middle.
        workers: How many calls run at once.
        format: How the model speaks.
        **kwargs: As for ``ToolEnv``.

    Raises:
        ConfigError: Settings that do not fit together.
        DataError: A file of problems that cannot be read.

    Example:
        >>> env = PythonMathEnv([Task(id="t", prompt="What is 17 * 23?", answers=("391",))], sandbox="process")
        >>> _ = env.reset(seed=0)
        >>> call = env.format.write_call(ToolCall("python", {"code": "print(17 * 23)"}))
        >>> env.step(call)[0][-1].content
        '<tool_response>\n391\n</tool_response>'
        >>> env.step("It is \\boxed{391}.")[2]
        True
    """

    grading: ClassVar[str] = "math"
    instruction: ClassVar[str] = (
        "Solve the problem. Write Python programs where they help. When you are sure, give the final answer alone, "
        "exactly, as a number or an expression, inside <answer></answer>."
    )

    def __init__(
        self,
        tasks: Sequence[Task] | str | Path | None = None,
        split: str = "train",
        *,
        sandbox: str | Sandbox | PythonTool = "auto",
        timeout_s: float = 5.0,
        max_output_chars: int = 2000,
        workers: int = 2,
        format: str | Format = "hermes",
        **kwargs: Any,
    ) -> None:
        if not isinstance(sandbox, PythonTool):
            sandbox = PythonTool(sandbox, timeout_s, max_output_chars, workers)
        super().__init__(load_tasks_of(tasks, split), [sandbox], format=format, **kwargs)

    def final_answer(self, parsed: Parsed) -> str | None:
        """The marked answer, or the last box of a turn without calls."""
        if parsed.answer is not None or parsed.calls:
            return parsed.answer
        return last_boxed(parsed.reply)

    def example_actions(self) -> tuple[str, ...]:
        """Texts that reach every path, a program that fails and one without output among them."""
        programs = ("print(2 ** 100)", "1 / 0", "x = 1")
        calls = [self.format.write_call(ToolCall("python", {"code": code})) for code in programs]
        return (*super().example_actions(), *calls)


make_vec = vector_entry_point(PythonMathEnv)


def load_tasks_of(tasks: Sequence[Task] | str | Path | None, split: str) -> TaskSet:
    """The tasks that the argument ``tasks`` of the environment means."""
    if tasks is None:
        return math_tasks(split)
    if isinstance(tasks, str | Path):
        return load_math_jsonl(tasks)
    return tasks if isinstance(tasks, TaskSet) else TaskSet(tasks)
