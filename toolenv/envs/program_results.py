"""What a model is shown of a program: as a notebook shows it, or as the environments of public checkpoints do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from toolenv.errors import ConfigError
from toolenv.formats.torl import last_boxed
from toolenv.sandbox.base import ExecResult

NOTEBOOK = "notebook"


class Results(Protocol):
    """How results of programs are shown."""

    def program(self, code: str) -> str:
        """What is run for a program that the model wrote."""
        ...

    def show(self, result: ExecResult) -> str:
        """The text that the model is shown."""
        ...

    def facts(self, result: ExecResult) -> Mapping[str, Any]:
        """What the record keeps beside the text."""
        ...


class Plain:
    """A program as it is, and no facts."""

    def program(self, code: str) -> str:
        """The program."""
        return code

    def facts(self, result: ExecResult) -> Mapping[str, Any]:
        """Nothing."""
        return {}


class ToRLResults(Plain):
    r"""Standard output where the program ended well or printed anything, else the errors; no more than 256 characters.

    Of a text with ``Error`` in it the last line is shown; for no text at all ToRL's environment claims that time was
    up, and its checkpoints know that.

    Source:
        GAIR-NLP/ToRL, ``verl/workers/rollout/vllm_rollout/vllm_rollout_spmd.py``.

    Example:
        >>> ToRLResults().show(ExecResult("a" * 300, "", "ok", 0, 0.1)) == "a" * 128 + "..." + "a" * 128
        True
        >>> ToRLResults().show(ExecResult("", "", "error", 1, 0.1, error="line 1\nNameError: name 'x'"))
        "NameError: name 'x'"
    """

    SILENT = "timeout_decorator.timeout_decorator.TimeoutError: 'Timed Out'"
    MAX_CHARS = 256

    def show(self, result: ExecResult) -> str:
        """The text."""
        text = result.stdout if result.exit_code == 0 or result.stdout else _errors(result)
        if result.status == "timeout" and not result.stdout:
            text = ""
        if "Error" in text:
            text = _last_line(text.strip())
        text = text.strip() or self.SILENT
        if len(text) < self.MAX_CHARS:
            return text
        return text[: self.MAX_CHARS // 2] + "..." + text[-(self.MAX_CHARS // 2) :]


class SimpleTIRResults:
    r"""Standard output, or the last line of the errors where there are any; no more than 512 characters of either.

    Programs may call ``final_answer``, and a box that they print is kept as a fact.

    Source:
        ltzheng/SimpleTIR, ``recipe/simpletir/agent_utils.py``.

    Example:
        >>> SimpleTIRResults().show(ExecResult("1\n", "a\nwarning", "ok", 0, 0.1))
        'warning'
        >>> SimpleTIRResults().facts(ExecResult("\\boxed{7}\n", "", "ok", 0, 0.1))
        {'boxed': '7'}
    """

    MAX_CHARS = 512
    HELPER = "def final_answer(result):\n    print(f'\\\\boxed{{{result}}}')\n\n"

    def program(self, code: str) -> str:
        """The program, after the function that it may answer with."""
        return self.HELPER + code

    def show(self, result: ExecResult) -> str:
        """The text."""
        errors = _errors(result)
        text = _last_line(errors) if errors else result.stdout
        if len(text) <= self.MAX_CHARS:
            return text
        half = self.MAX_CHARS // 2
        notice = f"\n..._This content has been truncated to stay below {self.MAX_CHARS} characters_...\n"
        return text[:half] + notice + text[-half:]

    def facts(self, result: ExecResult) -> Mapping[str, Any]:
        """The box that the program printed."""
        boxed = last_boxed(result.stdout)
        return {} if boxed is None else {"boxed": boxed}


class ReToolResults(Plain):
    r"""Standard output of a program that ended well, else the last line of what went wrong; nothing is cut.

    Source:
        ReTool-RL/ReTool, ``evaluation/eval.py``.

    Example:
        >>> ReToolResults().show(ExecResult("1\n", "", "error", 1, 0.1, error="line 1\nNameError: name 'x'"))
        "NameError: name 'x'"
    """

    def show(self, result: ExecResult) -> str:
        """The text."""
        return result.stdout if result.status == "ok" else _last_line(_errors(result))


STYLES: Mapping[str, Results] = {"torl": ToRLResults(), "simpletir": SimpleTIRResults(), "retool": ReToolResults()}


def results_of(name: str) -> Results | None:
    """The style of this name; ``None`` for a notebook's, which is the tool's own.

    Raises:
        ConfigError: There is no such style.
    """
    if name == NOTEBOOK:
        return None
    if name not in STYLES:
        raise ConfigError(f"results must be one of {', '.join((NOTEBOOK, *STYLES))}; got {name!r}")
    return STYLES[name]


def _errors(result: ExecResult) -> str:
    """All that Python would have written to standard error, the traceback at its end."""
    parts = (result.stderr.rstrip("\n"), result.error)
    return "\n".join(part for part in parts if part)


def _last_line(text: str) -> str:
    return text.splitlines()[-1] if text else ""
