"""Episodes that another project's loop plays: it parses the model's text and calls tools one by one.

Our record needs more than the calls: which of them stood in one turn, calls of tools that do not exist, the text
around them, the answer. All this stands in the messages that the loop ends with. So the tools run while the loop
plays, and when it is over the messages are played again through ``plan`` and ``finish``, with the results that were
kept: nothing is executed twice, and the episode is the one that ``env.step`` would have made of the same turns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym

import toolenv  # noqa: F401  registers the ids
from rewards.base import RewardFn
from rewards.wrappers import RewardSum
from toolenv.env import Plan, ToolEnv
from toolenv.episode import Episode, Task
from toolenv.errors import ConfigError, InfrastructureError
from toolenv.formats import Hermes
from toolenv.messages import ToolResult
from toolenv.tools import execute
from toolenv.wrappers import tool_env

SYSTEM = "$instruction When you are done, write the final answer inside <answer></answer>."
"""System message without the tools and how to call them: the model's own chat template says that."""


def playable(env: str | Callable[[], gym.Env[Any, Any]], settings: Mapping[str, Any]) -> ToolEnv:
    """An environment whose tools another loop calls.

    Args:
        env: A Gymnasium id, or what makes an environment; reward wrappers around it are left out.
        settings: Keyword arguments of the environment; of the maker, where it is one.

    Raises:
        ConfigError: The environment's turns cannot be read from a chat template's messages.

    Example:
        >>> env = playable("ToolSearchQA-v0", {"retriever": "bm25"})
        >>> env.reset(seed=7)[0][0].content.endswith("write the final answer inside <answer></answer>.")
        True
    """
    if isinstance(env, str):
        env, settings = env_maker(env), {"format": Hermes(system=SYSTEM), **settings}
    made = tool_env(env(**settings))
    if not isinstance(made.format, Hermes):
        raise ConfigError(
            f"format {made.format.name!r} cannot be spoken here: the model calls tools as its chat template says, "
            "which is read as 'hermes'; leave the format out, or give a Hermes() with a system message of your own"
        )
    return made


def env_maker(env_id: str) -> Callable[..., gym.Env[Any, Any]]:
    """What makes environments of an id."""
    return lambda **settings: gym.make(env_id, **settings)


def check_single_dialogue(task: Task) -> Task:
    """The task, where the user speaks once: other loops end when the model calls nothing.

    Raises:
        ConfigError: The user goes on after an answer.
    """
    if task.metadata.get("follow_ups"):
        raise ConfigError(f"task {task.id!r} goes on after an answer (follow_ups), which this loop cannot play")
    return task


class Played:
    """One episode that another loop plays.

    Args:
        env: The environment, which is not touched: ``playable`` makes one.

    Example:
        >>> played = Played(playable("ToolSearchQA-v0", {"retriever": "bm25"}))
        >>> played.reset(seed=7)
        >>> found = played.call("search", {"query": "Lyon"})
        >>> call = {"function": {"name": "search", "arguments": {"query": "Lyon"}}}
        >>> said = [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": found}]
        >>> episode = played.finish([*said, {"role": "assistant", "content": "<answer>Lyon</answer>"}])
        >>> episode.num_calls, episode.answer, episode.reason
        (1, 'Lyon', 'answer')
    """

    def __init__(self, env: ToolEnv) -> None:
        self.record = env.sibling()
        self.tools = env.sibling()
        self.tools.max_turns = None  # there, each call is a turn of its own
        self.results: list[ToolResult | None] = []
        self.lost: InfrastructureError | None = None

    def reset(self, seed: int | None = None) -> None:
        """Start an episode."""
        for env in (self.record, self.tools):
            env.reset(seed=seed)
        self.results, self.lost = [], None

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Make a call.

        Raises:
            InfrastructureError: The tool could not be served; ``lost`` keeps it, and the episode is worth nothing.
        """
        try:
            self.tools.step(_write(name, arguments))
        except InfrastructureError as error:
            self.lost = error
            raise
        turn = self.tools.last_turn
        assert turn is not None
        self.results.append(turn.results[0] if turn.results else None)
        return turn.results[0].content if turn.results else f"Error: {turn.error}"

    def finish(self, messages: Sequence[Mapping[str, Any]]) -> Episode:
        """The record of the episode.

        Args:
            messages: What the loop ended with, in OpenAI's form; only what the assistant said is read.

        Raises:
            InfrastructureError: A call that the loop did not make could not be served.
        """
        kept = list(self.results)
        for message in messages:
            if message["role"] != "assistant":
                continue
            calls = [_name_and_arguments(call) for call in message.get("tool_calls") or ()]
            plan = self._plan(message, calls)
            known = [kept.pop(0) for name, _ in calls if kept and self._reaches_tools(name)]
            results = [result for result in known if result is not None and result.executed][: len(plan.jobs)]
            _, _, terminated, truncated, _ = self.record.finish(plan, [*results, *_run(plan, len(results))])
            if terminated or truncated:
                break
        self.record.truncate("stopped")  # by the loop: its own limit of turns or tokens
        return self.record.episode

    def _plan(self, message: Mapping[str, Any], calls: Sequence[tuple[str, Any]]) -> Plan:
        """The turn as the model may have written it; of one that the loop read otherwise, the calls alone."""
        thought = message.get("reasoning_content")
        texts = [f"<think>\n{thought}\n</think>"] if thought else []
        texts += [message["content"]] if message.get("content") else []
        written = [_write(name, arguments) for name, arguments in calls]
        plan = self.record.plan("\n".join([*texts, *written]))
        return plan if len(plan.parsed.calls) == len(calls) else self.record.plan("\n".join(written))

    def _reaches_tools(self, name: str) -> bool:
        return name in self.record.tools_for(self.record.episode.task)


def _run(plan: Plan, done: int) -> list[ToolResult]:
    """Calls that the loop did not make because it was over: ``env.step`` would have made them."""
    results = execute(plan.jobs[done:])
    for result in results:
        if isinstance(result, InfrastructureError):
            raise result
    return [result for result in results if isinstance(result, ToolResult)]


def _name_and_arguments(call: Any) -> tuple[str, Any]:
    """Of a call in OpenAI's form, whose arguments may be JSON text."""
    function = call.get("function", call)
    arguments = function.get("arguments") or {}
    try:
        return str(function.get("name")), json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return str(function.get("name")), arguments


def _write(name: str, arguments: Any) -> str:
    """A call, whatever its arguments are, as Hermes writes it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def worth(reward: RewardFn | RewardSum, episodes: Sequence[Episode]) -> list[float | None]:
    """What each episode is worth as a whole: the weighted sum of its turns' scores.

    Returns:
        One number an episode; ``None`` where no turn was scored, or a reward failed that masks.

    Raises:
        RewardError: A reward failed.

    Example:
        >>> from rewards import OutcomeFn
        >>> from toolenv import Turn
        >>> task, turns = Task("t", "?", answers=("Lima",)), (Turn(0, "hm"), Turn(1, "Lima", answer="Lima"))
        >>> ended, running = (Episode("x", task, "hermes", (), turns, terminated=t) for t in (True, False))
        >>> worth(OutcomeFn(), [ended, running])
        [1.0, None]
    """
    terms = (reward if isinstance(reward, RewardSum) else RewardSum({reward.name: reward})).score(episodes)
    scored = [any((column == column).any() for column in term.columns.values()) for term in terms]
    return [float(t.total.sum()) if some and not t.errors else None for t, some in zip(terms, scored, strict=True)]
