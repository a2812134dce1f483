"""TRL: its ``GRPOTrainer`` plays our environments and is paid by our rewards.

TRL makes one object a rollout, shows its methods to the model as tools, and scores a rollout once, at its end. The
reward here is the sum over the episode's turns: TRL has one advantage a rollout, so credit for each turn needs the
trainers of ``agents``. Written for TRL 1.16, whose ``environment_factory`` is experimental.

What differs from ``gym.make``: TRL answers a call of an unknown tool in its own words, and the record holds ours; and
it makes the calls of a turn that holds an answer too, where ``env.step`` would make neither.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, Literal

import gymnasium as gym

from agents.bridges.played import Played, check_single_dialogue, playable, worth
from rewards.base import RewardFn
from rewards.wrappers import RewardSum
from toolenv.env import ToolEnv
from toolenv.episode import Episode
from toolenv.errors import ConfigError, InfrastructureError
from toolenv.extras import require

Schema = Mapping[str, Any]


class TRLBridge:
    """What a ``GRPOTrainer`` needs to train on one of our environments.

    Args:
        env: A Gymnasium id, or what makes an environment.
        reward: The reward; episodes that it has no opinion of are left out, as TRL does with ``None``.
        seeds: Seeds of the training tasks, one a row of the data set; TRL repeats a row for its group.
        eval_seeds: Seeds of the evaluation's tasks, where there is one.
        **settings: Keyword arguments of the environment.

    Attributes:
        arguments: Keyword arguments of ``GRPOTrainer``: environments, reward and data.
        max_tool_calling_iterations: For ``GRPOConfig``: how often TRL may call tools before the last turn.
        episodes: The episodes of the last batch, in the order of its rollouts; ``None`` where one was lost.

    Raises:
        ConfigError: The environment cannot be played by TRL.
        MissingExtraError: TRL is not installed.

    Example:
        >>> from rewards import OutcomeFn
        >>> bridge = TRLBridge("ToolSearchQA-v0", OutcomeFn(), seeds=range(4), retriever="bm25")
        >>> sorted(bridge.arguments), bridge.max_tool_calling_iterations
        (['environment_factory', 'reward_funcs', 'train_dataset'], 7)
    """

    def __init__(
        self,
        env: str | Callable[[], gym.Env[Any, Any]],
        reward: RewardFn | RewardSum,
        seeds: Iterable[int],
        eval_seeds: Iterable[int] | None = None,
        **settings: Any,
    ) -> None:
        self.reward = reward
        self.episodes: list[Episode | None] = []
        self._env = playable(env, settings)
        self._factories: dict[str, Callable[[], _Rollout]] = {}
        if self._env.max_turns is None:
            raise ConfigError("the environment has no limit of turns, and TRL needs one; give max_turns")
        self.max_tool_calling_iterations = self._env.max_turns - 1
        self.arguments: dict[str, Any] = {"train_dataset": self.dataset(seeds)}
        if eval_seeds is not None:
            self.arguments["eval_dataset"] = self.dataset(eval_seeds)
        self.arguments |= {"environment_factory": self._factories, "reward_funcs": [self.episode_reward]}

    def dataset(self, seeds: Iterable[int]) -> Any:
        """One row a seed: the prompt, the seed, and the name of the tools that its task offers."""
        return require("datasets", "train").Dataset.from_list([self._row(seed) for seed in seeds])

    def _row(self, seed: int) -> dict[str, Any]:
        messages, _ = self._env.reset(seed=seed)
        task = check_single_dialogue(self._env.episode.task)
        schemas = [tool.schema for tool in self._env.tools_for(task).values()]
        key = json.dumps(schemas, sort_keys=True)
        if key not in self._factories:
            self._factories[key] = _factory(self._env, schemas)
        prompt = [{"role": message.role, "content": message.content} for message in messages]
        return {"prompt": prompt, "seed": seed, "environment": key}

    def episode_reward(
        self, completions: Sequence[Any], environments: Sequence[_Rollout], log_metric: Any = None, **_: Any
    ) -> list[float | None]:
        """What each rollout was worth: the reward function that TRL calls."""
        self.episodes = [_ended(e._played, said) for e, said in zip(environments, completions, strict=True)]
        played = [episode for episode in self.episodes if episode is not None]
        paid = iter(worth(self.reward, played))
        if log_metric is not None:
            log_metric("toolenv/lost", float(len(self.episodes) - len(played)))
            log_metric("toolenv/turns", sum(len(e.turns) for e in played) / max(len(played), 1))
        return [None if episode is None else next(paid) for episode in self.episodes]


def _ended(played: Played, said: Sequence[Mapping[str, Any]]) -> Episode | None:
    """The episode; ``None`` where it was lost for no fault of the model, whatever TRL told it."""
    try:
        return None if played.lost is not None else played.finish(said)
    except InfrastructureError:
        return None


class _Rollout:
    """What TRL plays: its public methods other than ``reset`` are the tools, and a subclass has them."""

    def __init__(self, env: ToolEnv) -> None:
        self._played = Played(env)

    def reset(self, *, seed: int, **_: Any) -> None:
        """Start the episode of a row; the row holds the prompt already."""
        self._played.reset(seed)


def _factory(env: ToolEnv, schemas: Sequence[Schema]) -> Callable[[], _Rollout]:
    kind = type("Rollout", (_Rollout,), {schema["name"]: _method(schema) for schema in schemas})
    return lambda: kind(env)


def _method(schema: Schema) -> Callable[..., str]:
    """A method that TRL and transformers read the tool's schema from: its signature and docstring say it."""
    name, parameters = schema["name"], schema.get("parameters", {})
    if not name.isidentifier() or name.startswith("_") or name in ("reset", "get_reward"):
        raise ConfigError(f"TRL cannot call a tool named {name!r}; give it another name")

    def method(self: _Rollout, /, **arguments: Any) -> str:
        return self._played.call(name, arguments)

    required = set(parameters.get("required", ()))
    properties: Mapping[str, Schema] = parameters.get("properties", {})
    described = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
    lines = []
    for key in sorted(properties, key=lambda key: key not in required):
        default = inspect.Parameter.empty if key in required else properties[key].get("default")
        described.append(_parameter(name, key, default, _hint(properties[key])))
        lines.append(f"    {key}: {_one_line(properties[key])}")
    method.__name__ = method.__qualname__ = name
    method.__doc__ = "\n".join(
        [" ".join(schema.get("description", name).split()), *(["", "Args:"] if lines else []), *lines]
    )
    method.__annotations__ = {each.name: each.annotation for each in described[1:]} | {"return": str}
    method.__signature__ = inspect.Signature(described)  # type: ignore[attr-defined]
    return method


def _parameter(tool: str, name: str, default: Any, hint: Any) -> inspect.Parameter:
    try:
        return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=hint)
    except ValueError as error:
        raise ConfigError(f"TRL cannot call tool {tool!r}: its parameter {name!r} is no Python name") from error


def _one_line(schema: Schema) -> str:
    """The description; what a type hint cannot say of an object follows as JSON."""
    inner = schema.get("items", schema)
    nested = f" Schema: {json.dumps(inner)}" if "properties" in inner else ""
    return " ".join(str(schema.get("description", "")).split()) + nested or "No description."


_HINTS = {"string": str, "integer": int, "number": float, "boolean": bool, "object": dict, "null": type(None)}


def _hint(schema: Schema) -> Any:
    """The type hint that transformers turns into this schema again."""
    if schema.get("enum"):
        return Literal[tuple(schema["enum"])]
    kind = schema.get("type")
    if isinstance(kind, list):
        return reduce(or_, [_hint({**schema, "type": each}) for each in kind])
    if kind == "array":
        return list[_hint(schema["items"])] if schema.get("items") else list  # type: ignore[misc]
    return _HINTS.get(str(kind), Any)
