"""Environments on Ray actors: tools, sandboxes and indexes work on whatever machines a Ray cluster has.

Ray starts the actors, places them and notices when one is lost; where no cluster is connected, it starts one on this
machine. What stands here is a vector environment whose environments are elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

from toolenv.env import StepResult, ToolEnv
from toolenv.episode import Episode, TaskSet, Turn
from toolenv.errors import ConfigError, InfrastructureError, ToolEnvError
from toolenv.extras import require
from toolenv.formats import Format
from toolenv.messages import Message
from toolenv.tools import RETRIES
from toolenv.vector import ToolVectorEnv

MakeEnvs = Callable[[int], ToolVectorEnv]
"""Makes so many environments, which are reset by hand; it is pickled, and called on each actor."""

CLOSE_S = 10.0
"""How long an actor may take to close its environments before it is ended all the same."""


def make_ray_vec(
    env_id: str,
    num_envs: int,
    *,
    num_actors: int = 2,
    actor_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> RayToolVectorEnv:
    """What ``gym.make_vec`` makes, on Ray actors, and reset by hand.

    Args:
        env_id: Gymnasium id. One that a module of yours registers is written ``"module:id"``: actors import it.
        num_envs: How many environments.
        num_actors: Over how many actors they are spread.
        actor_options: As for ``RayToolVectorEnv``.
        **kwargs: What the environment takes.

    Raises:
        ConfigError: As ``RayToolVectorEnv``.
        MissingExtraError: Ray is not installed.

    Example:
        >>> make_ray_vec("ToolPythonMath-v0", 16, num_actors=4)  # doctest: +SKIP
        RayToolVectorEnv(num_envs=16)
    """
    make = partial(gym.make_vec, env_id, autoreset_mode=AutoresetMode.DISABLED.value, **kwargs)
    return RayToolVectorEnv(make, num_envs, num_actors, actor_options)  # type: ignore[arg-type]


class RayToolVectorEnv(ToolVectorEnv):
    """Tool environments on Ray actors, each of which has several, and a process of its own.

    A step sends each actor the actions of its environments, and the actor makes one ``execute`` of their calls. The
    environments in ``envs`` can also be stepped one by one, from several threads, as ``collect_async`` does: an actor
    plays as many turns at once as it has environments. Sandboxes and indexes are made on the actors, by the
    environments themselves.

    The record of each episode is kept here, turn by turn. So an actor that dies takes nothing along but the episodes
    that run on it: they are truncated with reason ``"infrastructure"``, to be dropped, and the next reset is on another
    actor in its place.

    Args:
        make: Makes the environments of one actor, with ``autoreset_mode=DISABLED``.
        num_envs: How many environments there are in all.
        num_actors: Over how many actors they are spread.
        actor_options: Options of Ray for each actor, such as ``{"num_cpus": 1, "resources": {"sandbox": 1}}``.

    Raises:
        ConfigError: Numbers that do not fit, or ``make`` fails.
        InfrastructureError: An actor died at once.
        MissingExtraError: Ray is not installed.
    """

    def __init__(
        self, make: MakeEnvs, num_envs: int, num_actors: int = 2, actor_options: Mapping[str, Any] | None = None
    ) -> None:
        if not 1 <= num_actors <= num_envs:
            raise ConfigError(f"num_actors must lie between 1 and num_envs; got {num_actors} and {num_envs}")
        counts = [len(share) for share in np.array_split(np.arange(num_envs), num_actors)]
        self.actors = [_Actor(make, count, dict(actor_options or {})) for count in counts]
        try:
            facts: list[Facts] = [actor.call(actor.handle, "facts") for actor in self.actors]
        except ToolEnvError:
            for actor in self.actors:
                actor.kill()
            raise
        self.remote = [RemoteEnv(actor, index, facts[0]) for actor in self.actors for index in range(actor.count)]
        # They are used as ToolEnvs are, but for what only their actor can do: plan, execute and finish.
        self._hold(cast("list[ToolEnv]", self.remote), AutoresetMode.DISABLED)

    def play_turns(self, actions: Mapping[int, str]) -> dict[int, StepResult]:
        """Play one turn in some of the environments: one call an actor, all at once; see ``ToolVectorEnv``."""
        calls: dict[int, list[int]] = {}
        for i in actions:
            calls.setdefault(id(self.remote[i].handle), []).append(i)
        asked = []
        for members in calls.values():
            handle = self.remote[members[0]].handle
            turns = {self.remote[i].index: actions[i] for i in members}
            asked.append((members, self.remote[members[0]].actor, handle, handle.play_turns.remote(turns)))
        steps: dict[int, StepResult] = {}
        for members, actor, handle, answer in asked:
            try:
                played = actor.get(handle, answer)
                steps |= {i: self.remote[i].took(played[self.remote[i].index]) for i in members}
            except InfrastructureError as failure:
                steps |= {i: self._fail(i, failure) for i in members}
        return steps

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments and end the actors."""
        for actor in self.actors:
            actor.close()


@dataclass(frozen=True, slots=True)
class Facts:
    """What is the same for all environments of a vector, as an actor reports it."""

    format: Format
    tasks: TaskSet
    metadata: dict[str, Any]
    render_mode: str | None
    action_space: Any
    observation_space: Any


@dataclass(frozen=True, slots=True)
class Played:
    """What a step of one environment came to, as an actor reports it.

    Attributes:
        turn: The turn; ``None`` where a tool could not be served.
        messages: What came to the conversation.
        reward: The step's reward.
        terminated: Whether the task ended by itself.
        truncated: Whether the episode was cut.
        info: The step's info.
    """

    turn: Turn | None
    messages: tuple[Message, ...]
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class RemoteEnv:
    """One environment on an actor, with the record of its episode; it is used as a ``ToolEnv`` is.

    Attributes:
        actor: Where it is.
        index: Its place there.
        handle: The incarnation of the actor that plays the running episode; ``None`` before the first reset.
        format: How the model speaks.
        tasks: What may be asked.
    """

    def __init__(self, actor: _Actor, index: int, facts: Facts) -> None:
        self.actor, self.index = actor, index
        self.handle: Any = None
        self.format, self.tasks = facts.format, facts.tasks
        self.metadata, self.render_mode = facts.metadata, facts.render_mode
        self.action_space, self.observation_space = facts.action_space, facts.observation_space
        self.spec: Any = None
        self._episode: Episode | None = None
        self._conversation: tuple[Message, ...] = ()

    @property
    def episode(self) -> Episode:
        """The record of the running episode: a frozen snapshot."""
        if self._episode is None:
            raise ResetNeeded("there is no episode yet; call reset() first")
        return self._episode

    @property
    def last_turn(self) -> Turn | None:
        """The last turn of the running episode, ``None`` before the first."""
        return self.episode.turns[-1] if self.episode.turns else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Start an episode; see ``ToolEnv.reset``.

        Raises:
            InfrastructureError: The actor died, and so did those that were started in its place.
        """
        self.handle, (self._episode, info) = self.actor.reset(self.index, seed, options)
        self._conversation = self._episode.prompt
        return self._conversation, info

    def step(self, action: str) -> StepResult:
        """Play one turn; see ``ToolEnv.step``.

        Raises:
            InfrastructureError: A tool could not be served, or the actor died; drop the episode.
        """
        if self.episode.terminated or self.episode.truncated:
            raise ResetNeeded("no episode is running; call reset() first")
        step = self.took(self.actor.call(self.handle, "play_turns", {self.index: action})[self.index])
        if "failure" in step[4]:
            raise InfrastructureError(step[4]["failure"])
        return step

    def took(self, played: Played) -> StepResult:
        """Take in a turn."""
        self._conversation += played.messages
        self._episode = replace(
            self.episode,
            turns=self.episode.turns if played.turn is None else (*self.episode.turns, played.turn),
            terminated=played.terminated,
            truncated=played.truncated,
            reason=played.info.get("reason"),
        )
        return self._conversation, played.reward, played.terminated, played.truncated, played.info

    def truncate(self, reason: str) -> None:
        """Mark the running episode as cut from outside; its actor need not know, for the next thing is a reset."""
        if self._episode is not None and not self._episode.terminated and not self._episode.truncated:
            self._episode = replace(self._episode, truncated=True, reason=reason)

    def render(self) -> str | None:
        """The conversation as text, in mode ``"ansi"``."""
        if self.render_mode != "ansi":
            return None
        return "\n".join(f"[{message.role}] {message.content}" for message in self._conversation)


class _Actor:
    """An actor, and another in its place where it died; threads may share it."""

    def __init__(self, make: MakeEnvs, count: int, options: dict[str, Any]) -> None:
        self.make, self.count, self.options = make, count, options
        self.ray = require("ray", "ray")
        self._lock = threading.Lock()
        self.handle = self._start()

    def _start(self) -> Any:
        host = self.ray.remote(Host).options(**{"max_concurrency": self.count, **self.options})
        return host.remote(self.make, self.count)

    def call(self, handle: Any, method: str, *args: Any) -> Any:
        """Call an incarnation's method, and wait for the answer; see ``get``."""
        return self.get(handle, getattr(handle, method).remote(*args))

    def get(self, handle: Any, answer: Any) -> Any:
        """Wait for an answer of an incarnation; where it has died, another is started.

        Raises:
            ConfigError: It could not make its environments.
            InfrastructureError: It died, or its answer is lost.
        """
        errors = self.ray.exceptions
        try:
            return self.ray.get(answer)
        except errors.RayTaskError as error:
            raise error.cause from error  # what the environment raised, as itself
        # Out of memory is how Ray ends an actor whose machine runs full; an answer can be lost with its machine.
        except (errors.RayActorError, errors.OutOfMemoryError, errors.NodeDiedError, errors.ObjectLostError) as error:
            if getattr(error, "actor_init_failed", False):
                why = str(error).strip().splitlines()[-1]  # the end of a traceback
                raise ConfigError(f"a Ray actor could not make its {self.count} environments: {why}") from error
            self._replace(handle)
            why = str(error).strip().partition("\n")[0]
            raise InfrastructureError(f"a Ray actor of {self.count} environments is lost: {why}") from error

    def reset(self, index: int, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, Any]:
        """Reset an environment; returns the incarnation that did it, and its answer.

        Raises:
            InfrastructureError: Several incarnations died one after the other.
        """
        retries = RETRIES
        while True:
            handle = self.handle
            try:
                return handle, self.call(handle, "reset", index, seed, options)
            except InfrastructureError:
                if retries == 0:
                    raise
                retries -= 1

    def close(self) -> None:
        """Close the environments, and end the actor."""
        if not self.ray.is_initialized():
            return  # it has ended with Ray
        exceptions = self.ray.exceptions
        with suppress(exceptions.RayActorError, exceptions.GetTimeoutError):
            self.ray.get(self.handle.close.remote(), timeout=CLOSE_S)
        self.kill()

    def kill(self) -> None:
        """End the actor as it is."""
        self.ray.kill(self.handle)

    def _replace(self, handle: Any) -> None:
        with self._lock:
            if self.handle is handle:  # of several threads that noticed, one starts another
                self.ray.kill(handle)  # one that merely cannot be reached still runs
                self.handle = self._start()


class Host:
    """What runs on an actor: a vector of environments.

    Args:
        make: Makes them.
        count: How many.

    Raises:
        ConfigError: They are none that can be reset by hand.
    """

    def __init__(self, make: MakeEnvs, count: int) -> None:
        self.envs = make(count)
        if not isinstance(self.envs, ToolVectorEnv) or self.envs.num_envs != count:
            raise ConfigError(f"make({count}) must return a ToolVectorEnv of {count}; got {self.envs!r}")
        if self.envs.autoreset_mode != AutoresetMode.DISABLED:
            raise ConfigError(f"make environments with autoreset_mode=DISABLED, not {self.envs.autoreset_mode}")

    def facts(self) -> Facts:
        """What is the same for all environments."""
        env = self.envs.envs[0]
        return Facts(env.format, env.tasks, env.metadata, env.render_mode, env.action_space, env.observation_space)

    def reset(self, index: int, seed: int | None, options: dict[str, Any] | None) -> tuple[Episode, dict[str, Any]]:
        """Reset one environment; returns its record and the info."""
        _, info = self.envs.envs[index].reset(seed=seed, options=options)
        return self.envs.envs[index].episode, info

    def play_turns(self, actions: Mapping[int, str]) -> dict[int, Played]:
        """Play one turn in some environments, with one ``execute`` for all."""
        played = {}
        for i, (conversation, reward, terminated, truncated, info) in self.envs.play_turns(actions).items():
            turn = None if "failure" in info else self.envs.envs[i].last_turn
            messages = () if turn is None else conversation[-1 - len(turn.observation) :]
            played[i] = Played(turn, messages, reward, terminated, truncated, info)
        return played

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()
