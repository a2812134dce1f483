"""Search-R1's text format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from toolenv.episode import Task
from toolenv.errors import ConfigError
from toolenv.formats.base import Parsed, read_template
from toolenv.messages import Message, ToolCall, ToolResult


class SearchR1:
    """Search-R1's text format: ``<search>`` queries, ``<information>`` results, an ``<answer>``.

    The text counts up to the first ``</search>``, else up to the first ``</answer>``. Our prompt and our words for an
    action that cannot be read are our own; public checkpoints want theirs, which you pass as ``template`` and
    ``invalid``, and ``max_observation_tokens=500``.

    Args:
        template: Template of the user message; ``$question`` is filled in, with a question mark at its end.
        invalid: What the model is told where an action cannot be read.
        tool: Name of the tool that a query calls.
        max_observation_tokens: Of a longer observation so many tokens are kept, its tags counted, so that
            ``</information>`` may be cut off; by default nothing is cut here (the tool ``search`` has limits of its
            own, within the tags).
        tokenizer: Whose tokens: a tokenizer of transformers, or the folder or name of one.

    Raises:
        ConfigError: Tokens without a tokenizer, or the other way round.

    Source:
        PeterGriffinJin/Search-R1, ``search_r1/llm_agent/generation.py``.

    Example:
        >>> SearchR1().parse("<search> Lyon </search> and more").calls[0].arguments
        {'query': 'Lyon'}
    """

    name = "search_r1"
    stop: tuple[str, ...] = ("</search>", "</answer>")
    continues = True

    TEMPLATE = (
        "Answer the question below. Think inside <think></think> whenever you learn something. To look something up, "
        "write a query inside <search></search>; what is found comes back inside <information></information>. Search "
        "as often as you need. When you know the answer, write it inside <answer></answer>, without explanation."
        "\nQuestion: $question\n"
    )
    INVALID = (
        "\nThat action could not be read. A query stands inside <search></search>, the final answer inside "
        "<answer></answer>.\n"
    )

    def __init__(
        self,
        template: str | Path = TEMPLATE,
        invalid: str | Path = INVALID,
        tool: str = "search",
        *,
        max_observation_tokens: int | None = None,
        tokenizer: Any = None,
    ) -> None:
        self.template = read_template(template)
        self.invalid = read_template(invalid)
        self.tool = tool
        self.limit = None
        if max_observation_tokens is not None or tokenizer is not None:
            from toolenv.envs.limits import make_limit  # on use: environments import formats

            if max_observation_tokens is None:
                raise ConfigError("a tokenizer is for max_observation_tokens; give how many, or no tokenizer")
            self.limit = make_limit(1, max_observation_tokens, tokenizer)

    def prompt(self, instruction: str, task: Task, schemas: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        """One user message."""
        question = task.prompt.strip()
        asked = question if question.endswith("?") else question + "?"
        text = Template(self.template).safe_substitute(question=asked, instruction=instruction)
        return (*task.history, Message("user", text))

    def parse(self, action: str) -> Parsed:
        """The first complete tag of the text that counts."""
        action = counted(action)
        found = [(action.find(f"<{tag}>"), tag) for tag in ("search", "answer")]
        for start, tag in sorted(item for item in found if item[0] >= 0):
            end = action.find(f"</{tag}>", start)
            if end >= 0:
                content = action[start + len(tag) + 2 : end].strip()
                if tag == "answer":
                    return Parsed(answer=content)
                return Parsed((ToolCall(self.tool, {"query": content}),))
        return Parsed(error="no complete <search> or <answer> in the action")

    def render(self, results: Sequence[ToolResult]) -> tuple[Message, ...]:
        """All results in one ``<information>`` block."""
        text = "\n".join(result.content for result in results).strip()
        return self._kept(f"\n\n<information>{text}</information>\n\n")

    def render_error(self, error: str) -> tuple[Message, ...]:
        """The fixed text for an action that cannot be read."""
        return self._kept(self.invalid)

    def cut(self, action: str) -> str:
        """The part of a turn that counts."""
        return counted(action)

    def _kept(self, observation: str) -> tuple[Message, ...]:
        return (Message("tool", observation if self.limit is None else self.limit.cut(observation)),)

    def write_call(self, call: ToolCall) -> str:
        """The query inside ``<search>`` tags."""
        return f"<search> {call.arguments.get('query', '')} </search>"

    def write_answer(self, answer: str) -> str:
        """The answer inside ``<answer>`` tags."""
        return f"<answer> {answer} </answer>"


def counted(action: str) -> str:
    """The part of a turn that counts: up to the first ``</search>``, else up to the first ``</answer>``.

    Example:
        >>> counted("<answer>Lyon</answer> or Paris")
        '<answer>Lyon</answer>'
    """
    for tag in ("</search>", "</answer>"):
        end = action.find(tag)
        if end >= 0:
            return action[: end + len(tag)]
    return action
