"""The base environment: one ``step`` is one turn is plan, execute, finish."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded

from toolenv.episode import Episode, Task, TaskSet, Turn, conversation
from toolenv.errors import ConfigError, DataError, InfrastructureError
from toolenv.formats import Format, Parsed, letter, make_format
from toolenv.messages import Message, ToolCall, ToolResult
from toolenv.spaces import Conversation, UnicodeText
from toolenv.tool_sessions import OpenSessions
from toolenv.tools import Job, Tool, describe_problem, execute, tools_by_name

MAX_ACTION_CHARS = 100_000
MAX_CALLS_PER_TURN = 16

StepResult = tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Plan:
    """A turn that is read but not executed.

    Attributes:
        action: The model's text.
        parsed: What the format read in it.
        jobs: The calls to execute.
        rejected: Position among the calls, and result, of the calls that cannot be executed.
    """

    action: str
    parsed: Parsed
    jobs: tuple[Job, ...] = ()
    rejected: Mapping[int, ToolResult] | None = None


class ToolEnv(gym.Env[tuple[Message, ...], str]):
    """An environment in which a language model calls tools, then answers.

    The action is the raw text of one turn; the observation is the conversation so far. The reward is 0.0: what an
    episode is worth is for a reward to say, and rewards plug in as wrappers (package ``rewards``).

    Whatever text the action holds, ``step`` does not raise: the model is told what was wrong, and the episode goes on
    until an answer or the turn limit.

    Args:
        tasks: What may be asked; ``reset(seed=s)`` chooses by the seed alone.
        tools: Tools that every task offers.
        format: How the model speaks: a name, with settings or without (see ``make_format``), or a ``Format``.
        max_turns: Cut the episode after so many turns; ``None``: never. The environment counts itself, since
            Gymnasium's ``TimeLimit`` neither writes the cut into the record nor follows ``set_state``.
        max_action_chars: Longest action that is read; a longer one is an error that the model is told.
        max_calls_per_turn: Most calls that one turn may make.
        render_mode: ``"ansi"`` or ``None``.
        **unknown: Nothing: what is given under another name is refused, with the names that there are.

    Raises:
        ConfigError: Settings that do not fit together, or that there are not.

    ``info`` holds ``task_id``; after a step also ``num_calls`` (calls in that turn) and, at the end, ``reason``.
    ``reset(options={"task": id_or_index})`` chooses a task by hand.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 1}  # type: ignore[misc]
    grading: ClassVar[str] = "em"
    instruction: ClassVar[str] = "Use the tools to do what the user asks, then give the final answer."

    def __init__(
        self,
        tasks: Sequence[Task],
        tools: Sequence[Tool] = (),
        *,
        format: str | Format = "hermes",
        max_turns: int | None = None,
        max_action_chars: int = MAX_ACTION_CHARS,
        max_calls_per_turn: int = MAX_CALLS_PER_TURN,
        render_mode: str | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise ConfigError(_unknown_argument(type(self), next(iter(unknown))))
        if render_mode not in (None, "ansi"):
            raise ConfigError(f"render_mode must be 'ansi' or None, not {render_mode!r}")
        if max_turns is not None and not is_count(max_turns):
            raise ConfigError(f"max_turns must be a whole number of at least 1 or None, not {max_turns!r}")
        for name, value in (("max_action_chars", max_action_chars), ("max_calls_per_turn", max_calls_per_turn)):
            if not is_count(value):
                raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}")
        self.tasks = tasks if isinstance(tasks, TaskSet) else TaskSet(tasks)
        self.tools = tools_by_name(tools)
        self.format = make_format(format)
        self.max_turns = max_turns
        self.max_calls_per_turn = max_calls_per_turn
        self.render_mode = render_mode
        self.observation_space = Conversation()
        self.action_space = UnicodeText(max_action_chars, self.example_actions())
        self._task: Task | None = None
        self._seed: int | None = None
        self._prompt: tuple[Message, ...] = ()
        self._conversation: tuple[Message, ...] = ()
        self._turns: list[Turn] = []
        self._terminated = self._truncated = False
        self._reason: str | None = None
        self._sessions = OpenSessions()
        self._check_format()

    # What a subclass may change ------------------------------------------------------------------------------------

    def tools_for(self, task: Task) -> Mapping[str, Tool]:
        """Tools that this task offers, by name."""
        return self.tools

    def final_answer(self, parsed: Parsed) -> str | None:
        """The answer that ends the episode, ``None`` where the turn does not end it."""
        return parsed.answer

    def follow_up(self) -> tuple[Message, ...]:
        """What the user says after an answer instead of letting the episode end; nothing where it ends."""
        return ()

    def example_actions(self) -> tuple[str, ...]:
        """What ``action_space.sample`` draws from: texts that reach every path."""
        calls = [self.format.write_call(ToolCall(tool.name, _example_arguments(tool))) for tool in self.tools.values()]
        return (
            "I am not sure what to do.",
            *calls,
            '<tool_call>{"name": "search", "arguments": {"query": </tool_call>',
            self.format.write_call(ToolCall("serach", {"query": "x"})),
            self.format.write_answer("42"),
        )

    # Gymnasium -----------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Chooses the task; the same seed, the same task.
            options: ``{"task": id_or_index}`` chooses the task by hand.

        Returns:
            The first messages, and ``info`` with the task's id.

        Raises:
            DataError: No task has that id or index.
            ConfigError: An option that does not exist.
        """
        super().reset(seed=seed)
        task = self.tasks[self._choose(options)]
        self._start(task, seed)
        return self._conversation, {"task_id": task.id}

    def step(self, action: str) -> StepResult:
        """Play one turn.

        Args:
            action: The raw text of the turn.

        Returns:
            The conversation so far, 0.0, terminated, truncated and ``info``.

        Raises:
            ResetNeeded: No episode is running.
            InvalidAction: The action is not a string.
            InfrastructureError: A tool could not be served for no fault of the model; drop the episode.
        """
        plan = self.plan(action)
        results = execute(plan.jobs)
        failure = next((r for r in results if isinstance(r, InfrastructureError)), None)
        if failure is not None:
            raise failure
        return self.finish(plan, [r for r in results if isinstance(r, ToolResult)])

    def render(self) -> str | None:
        """The conversation as text, in mode ``"ansi"``."""
        if self.render_mode != "ansi":
            return None
        return "\n".join(f"[{m.role}] {m.content}" for m in self._conversation)

    def close(self) -> None:
        """End what tools keep of the running episode."""
        self._sessions.end()

    # The three parts of a step -------------------------------------------------------------------------------------

    def plan(self, action: str) -> Plan:
        """Read a turn: pure, no I/O."""
        if self._task is None or self._terminated or self._truncated:
            raise ResetNeeded("no episode is running; call reset() first")
        if not isinstance(action, str):
            raise InvalidAction(f"an action is a string, the text of one turn; got {type(action).__name__}")
        limit = self.action_space.max_length  # type: ignore[attr-defined]
        if len(action) > limit:
            error = f"the turn has {len(action)} characters; at most {limit} are read"
            return Plan(action, Parsed(error=error))
        parsed = self.format.parse(action)
        if not parsed.calls:
            return Plan(action, parsed)
        if len(parsed.calls) > self.max_calls_per_turn:
            error = f"the turn makes {len(parsed.calls)} calls; at most {self.max_calls_per_turn} are allowed"
            return Plan(action, Parsed(error=error))
        return self._plan_calls(action, parsed)

    def finish(self, plan: Plan, results: Sequence[ToolResult]) -> StepResult:
        """Record the turn and reply: pure, no I/O.

        Args:
            plan: What ``plan`` returned.
            results: One result for each of its jobs, in order.
        """
        assert self._task is not None
        parsed = plan.parsed
        answer = None if parsed.error else self.final_answer(parsed)
        error = parsed.error
        observation: tuple[Message, ...] = ()
        merged: tuple[ToolResult, ...] = ()
        if parsed.calls:
            merged = _merge(parsed.calls, results, plan.rejected)
            observation = letter.render_after(self.format, self._shown(plan.action), merged)
            answer = letter.answer_in(self.format, merged) if answer is None else answer
        elif answer is None:
            error = error or "the turn holds neither a tool call nor an answer"
            observation = () if parsed.ends else self.format.render_error(error)
        elif observation := self.follow_up():
            answer = None
        turn = Turn(len(self._turns), plan.action, parsed.calls, merged, answer, error, parsed.lenient, observation)
        self._turns.append(turn)
        self._conversation = (*self._conversation, Message("assistant", self._shown(plan.action)), *observation)
        if answer is not None:
            self._terminated, self._reason = True, "answer"
        elif parsed.ends:
            self._terminated, self._reason = True, "no_answer"
        elif self.max_turns is not None and len(self._turns) >= self.max_turns:
            self._truncated, self._reason = True, "max_turns"
        info: dict[str, Any] = {"task_id": self._task.id, "num_calls": len(parsed.calls)}
        if self._reason is not None:
            info["reason"] = self._reason
            self._sessions.end()
        return self._conversation, 0.0, self._terminated, self._truncated, info

    # The record ----------------------------------------------------------------------------------------------------

    @property
    def episode(self) -> Episode:
        """The record of the running episode: a frozen snapshot."""
        if self._task is None:
            raise ResetNeeded("there is no episode yet; call reset() first")
        return Episode(
            env_id=self.spec.id if self.spec is not None else type(self).__name__,
            task=self._task,
            format=self.format.name,
            prompt=self._prompt,
            turns=tuple(self._turns),
            terminated=self._terminated,
            truncated=self._truncated,
            reason=self._reason,
            seed=self._seed,
            grading=self.grading,
        )

    @property
    def last_turn(self) -> Turn | None:
        """The last turn of the running episode, ``None`` before the first."""
        return self._turns[-1] if self._turns else None

    def truncate(self, reason: str) -> None:
        """Mark the running episode as cut from outside: by a step limit, a token budget, a lost worker."""
        if not self._terminated and not self._truncated:
            self._truncated, self._reason = True, reason
        self._sessions.end()

    def get_state(self) -> dict[str, Any]:
        """The state between two turns; ``set_state`` goes on from it, in this environment or in one like it."""
        return {"episode": self.episode, "np_random": self.np_random.bit_generator.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that ``get_state`` returned, any number of times."""
        episode: Episode = state["episode"]
        self._start(episode.task, episode.seed)
        self._prompt, self._turns = episode.prompt, list(episode.turns)
        self._conversation = conversation(episode.prompt, episode.turns, self._shown)
        self._terminated, self._truncated = episode.terminated, episode.truncated
        self._reason = episode.reason
        self.np_random.bit_generator.state = state["np_random"]

    def sibling(self) -> Self:
        """Another environment over the same tasks, tools and format, not yet reset."""
        twin = copy.copy(self)
        twin.action_space = copy.deepcopy(self.action_space)
        twin.observation_space = copy.deepcopy(self.observation_space)
        twin._np_random = twin._np_random_seed = None
        twin._task, twin._turns, twin._sessions = None, [], OpenSessions()
        return twin

    # Inside --------------------------------------------------------------------------------------------------------

    def _check_format(self) -> None:
        """Refuse a format that cannot call any of the tools: the model could never use them."""
        calls = [ToolCall(tool.name, _example_arguments(tool)) for tool in self.tools.values()]
        read = [self.format.parse(self.format.write_call(call)).calls for call in calls]
        if calls and not any(made and made[0].name == call.name for made, call in zip(read, calls, strict=True)):
            raise ConfigError(f"format {self.format.name!r} cannot call {', '.join(self.tools)}; choose another")

    def _choose(self, options: Mapping[str, Any] | None) -> int:
        drawn = int(self.np_random.integers(len(self.tasks)))
        if not options:
            return drawn
        unknown = sorted(set(options) - {"task"})
        if unknown:
            raise ConfigError(f"unknown reset option {unknown[0]!r}; there is 'task', an id or an index")
        chosen = options.get("task")
        if chosen is None:
            return drawn
        if isinstance(chosen, str):
            return self.tasks.index_of(chosen)
        if not isinstance(chosen, int | np.integer) or not 0 <= chosen < len(self.tasks):
            raise DataError(f"task must be an id or an index from 0 to {len(self.tasks) - 1}; got {chosen!r}")
        return int(chosen)

    def _start(self, task: Task, seed: int | None) -> None:
        self._sessions.end()
        self._task, self._seed = task, seed
        self._turns = []
        schemas = [tool.schema for tool in self.tools_for(task).values()]
        self._prompt = self._conversation = self.format.prompt(self.instruction, task, schemas)
        self._terminated = self._truncated = False
        self._reason = None

    def _shown(self, action: str) -> str:
        """The action as the conversation repeats it: what counts of it; of one too long to read, head and tail."""
        limit: int = self.action_space.max_length  # type: ignore[attr-defined]
        if len(action) <= limit:
            return letter.opening(self.format) + letter.cut(self.format, action)
        return f"{action[: limit // 2]}\n[... {len(action) - limit} characters ...]\n{action[-(limit // 2) :]}"

    def _plan_calls(self, action: str, parsed: Parsed) -> Plan:
        assert self._task is not None
        tools = self.tools_for(self._task)
        jobs: list[Job] = []
        rejected: dict[int, ToolResult] = {}
        for index, call in enumerate(parsed.calls):
            problem = describe_problem(call, tools)
            if problem is None:
                jobs.append(Job(tools[call.name], call, self._sessions.of(tools[call.name], self._turns)))
            else:
                kind, message = problem
                rejected[index] = ToolResult(call, f"Error: {message}", kind)
        return Plan(action, parsed, tuple(jobs), rejected)


def _merge(
    calls: Sequence[ToolCall], results: Sequence[ToolResult], rejected: Mapping[int, ToolResult] | None
) -> tuple[ToolResult, ...]:
    """Results of executed and rejected calls, in the order of the calls."""
    if not rejected:
        return tuple(results)
    executed = iter(results)
    return tuple(rejected[i] if i in rejected else next(executed) for i in range(len(calls)))


_EXAMPLES: dict[str, Any] = {"string": "1 + 1", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}


def _example_arguments(tool: Tool) -> dict[str, Any]:
    parameters = tool.schema.get("parameters", {})
    properties = parameters.get("properties", {})
    return {name: _example(properties.get(name, {})) for name in parameters.get("required", ())}


def _example(schema: Mapping[str, Any]) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "string")
    return _EXAMPLES.get(kind if isinstance(kind, str) else kind[0], "1 + 1")


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 1."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _unknown_argument(env_class: type[ToolEnv], name: str) -> str:
    """What is wrong with an argument that an environment does not take."""
    known: dict[str, None] = {}
    for base in env_class.__mro__[: env_class.__mro__.index(ToolEnv) + 1]:
        if "__init__" in vars(base):
            parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            known.update((p.name, None) for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{env_class.__name__} takes no argument {name!r}{hint}; it takes {', '.join(known)}"
