"""A small environment for tests: a lookup tool over four capitals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolenv import SandboxError, Task, TaskSet, ToolEnv, ToolError, ToolVectorEnv, tool
from toolenv.tools import ToolOutput

CAPITALS = {"France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Peru": "Lima"}
TASKS = TaskSet(
    [
        Task(id=country, prompt=f"What is the capital of {country}?", answers=(capital,), gold_passages=((country,),))
        for country, capital in CAPITALS.items()
    ],
    name="capitals",
)


@tool
def search(query: str) -> str | ToolOutput:
    """Look up a country.

    Args:
        query: Name of the country.
    """
    if query not in CAPITALS:
        raise ToolError(f"nothing found for {query!r}")
    return ToolOutput(f"The capital of {query} is {CAPITALS[query]}.", {"passages": [query]})


@tool
def python(code: str) -> str:
    """Pretend to run a program."""
    return f"ran {len(code)} characters"


def toy_env(**kwargs: Any) -> ToolEnv:
    return ToolEnv(TASKS, [search, python], **{"max_turns": 4, **kwargs})


def toy_vector(count: int = 4, mode: str = "NextStep", **kwargs: Any) -> ToolVectorEnv:
    return ToolVectorEnv([lambda: toy_env(**kwargs)] * count, autoreset_mode=mode)


class CountingTool:
    """A batched tool that counts its batches and can be told to fail."""

    name = "search"
    schema: Mapping[str, Any] = search.schema

    def __init__(self, failures: int = 0) -> None:
        self.batches: list[int] = []
        self.failures = failures

    def __call__(self, **arguments: Any) -> str | ToolOutput:
        output = self.batch([arguments])[0]
        if isinstance(output, Exception):
            raise output
        return output

    def batch(self, arguments: Sequence[Mapping[str, Any]]) -> list[str | ToolOutput | Exception]:
        self.batches.append(len(arguments))
        if self.failures:
            self.failures -= 1
            return [SandboxError("worker lost") for _ in arguments]
        return [f"found {a['query']}" for a in arguments]
