"""Mathematics with a Python interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from toolenv.data.math import load_math_jsonl, math_tasks
from toolenv.env import ToolEnv
from toolenv.envs.program_results import NOTEBOOK
from toolenv.envs.python_tool import PythonTool
from toolenv.episode import Task
from toolenv.errors import ConfigError
from toolenv.formats import Format, Parsed, last_boxed
from toolenv.messages import ToolCall
from toolenv.sandbox.base import Limits, Sandbox
from toolenv.vector import vector_entry_point


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
        max_output_bytes: A longer result is cut in its middle.
        workers: How many calls run at once, here or on the server.
        stateful: Whether variables, imports and files are kept from call to call within an episode, see ``PythonTool``.
        results: What the model is shown of a program: ``"notebook"``, ``"torl"``, ``"simpletir"`` or ``"retool"``.
        limits: What a program may use, as for ``make_sandbox``; like the next two, for the name of a sandbox alone.
        image: Docker image.
        runtime: Runtime of the Docker engine.
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
        max_output_bytes: int = 2000,
        workers: int = 2,
        stateful: bool = False,
        results: str = NOTEBOOK,
        limits: Limits | Mapping[str, int] | None = None,
        image: str | None = None,
        runtime: str | None = None,
        format: str | Format = "hermes",
        **kwargs: Any,
    ) -> None:
        made_of: dict[str, Any] = {"limits": limits, "image": image, "runtime": runtime}
        shown: dict[str, Any] = {"stateful": stateful, "results": results}
        if not isinstance(sandbox, PythonTool):
            sandbox = PythonTool(sandbox, timeout_s, max_output_bytes, workers, **shown, **made_of)
        elif stateful and not sandbox.stateful:
            raise ConfigError(f"stateful=True, but {sandbox!r} keeps no state; make it with stateful=True")
        elif results not in (NOTEBOOK, sandbox.results):
            raise ConfigError(f"results={results!r}, but {sandbox!r} shows results as {sandbox.results!r}")
        elif given := [name for name, value in made_of.items() if value is not None]:
            raise ConfigError(f"{given[0]} cannot be set beside {sandbox!r}; give it to the PythonTool")
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


def load_tasks_of(tasks: Sequence[Task] | str | Path | None, split: str) -> Sequence[Task]:
    """The tasks that the argument ``tasks`` of the environment means."""
    if tasks is None:
        return math_tasks(split)
    return load_math_jsonl(tasks) if isinstance(tasks, str | Path) else tasks
