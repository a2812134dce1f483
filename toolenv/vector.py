"""Many environments, one ``execute``: every step runs all their pending calls as one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from toolenv.env import Plan, StepResult, ToolEnv
from toolenv.errors import ConfigError, InfrastructureError
from toolenv.messages import Message, ToolResult
from toolenv.tools import Job, execute

Observations = tuple[tuple[Message, ...], ...]


class ToolVectorEnv(VectorEnv[Observations, Sequence[str], NDArray[Any]]):
    """Vectorised tool environments that gather their calls.

    A step plans every environment, executes all calls together (one search matrix, one sandbox work list), then
    finishes every environment. ``gym.make_vec`` returns this class for the ids of toolenv.

    An environment whose tool could not be served for no fault of the model is truncated with reason
    ``"infrastructure"`` and ``info["failure"]``; drop that episode.

    Args:
        env_fns: Functions that make the environments.
        autoreset_mode: ``NEXT_STEP`` (the step after a final one resets; it is no turn) or ``DISABLED`` (reset by
            hand, all at once or with ``options={"reset_mask": mask}``).

    Raises:
        ConfigError: No environment, or an autoreset mode that is not supported.
    """

    def __init__(
        self,
        env_fns: Iterable[Callable[[], ToolEnv]],
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        envs = [make() for make in env_fns]
        if not envs:
            raise ConfigError("ToolVectorEnv needs at least one environment; got none")
        other = next((env for env in envs if not isinstance(env, ToolEnv)), None)
        if other is not None:
            raise ConfigError(
                f"ToolVectorEnv takes bare ToolEnvs, not {type(other).__name__}; "
                "use gym.make_vec(id), and wrap the vector"
            )
        if AutoresetMode(autoreset_mode) == AutoresetMode.SAME_STEP:
            raise ConfigError("autoreset_mode SAME_STEP is not supported; use NEXT_STEP or DISABLED")
        self._hold(envs, AutoresetMode(autoreset_mode))

    def _hold(self, envs: list[ToolEnv], autoreset_mode: AutoresetMode) -> None:
        """Become the vector of these environments, none of which is running."""
        self.envs, self.num_envs, self.autoreset_mode = envs, len(envs), autoreset_mode
        self.metadata = {**self.envs[0].metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = self.envs[0].render_mode
        self.single_action_space = self.envs[0].action_space
        self.single_observation_space = self.envs[0].observation_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._spec: EnvSpec | None = None
        self._done = [False] * self.num_envs
        self._observations: list[tuple[Message, ...]] = [()] * self.num_envs

    @property
    def spec(self) -> EnvSpec | None:
        """How ``gym.make_vec`` made it; the environments' episodes name its id."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = spec
        for env in self.envs:
            env.spec = spec

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, dict[str, Any]]:
        """Reset all environments, or those of ``options["reset_mask"]``.

        Args:
            seed: One seed for the first environment (the others get the following integers), or one each.
            options: ``reset_mask``: booleans ``(num_envs,)``; ``task``: as for ``ToolEnv.reset``, one value for all or
                a list with one an environment.

        Returns:
            One conversation an environment, and ``info``.
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        seeds = self._spread_seeds(seed)
        chosen = options.pop("task", None)
        tasks = chosen if isinstance(chosen, list | tuple) else [chosen] * self.num_envs
        infos: dict[str, Any] = {}
        for i, env in enumerate(self.envs):
            if mask is not None and not mask[i]:
                continue
            self._observations[i], info = env.reset(seed=seeds[i], options={**options, "task": tasks[i]})
            self._done[i] = False
            infos = self._add_info(infos, info, i)
        return tuple(self._observations), infos

    def step(
        self, actions: Sequence[str]
    ) -> tuple[Observations, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Play one turn in every environment.

        Args:
            actions: One text an environment. The text for an environment that ended is ignored: with ``NEXT_STEP`` it
                is reset instead; with ``DISABLED`` it stays as it is, ended.

        Returns:
            Conversations, rewards ``(num_envs,)`` float64, terminations, truncations and ``info``.
        """
        if len(actions) != self.num_envs:
            raise ConfigError(f"step needs {self.num_envs} actions, one an environment; got {len(actions)}")
        # Lists until the end: setting numpy's elements one by one is several times slower.
        rewards = [0.0] * self.num_envs
        terminations = [False] * self.num_envs
        truncations = [False] * self.num_envs
        infos = _Infos(self.num_envs)
        running = {i: actions[i] for i in range(self.num_envs) if not self._done[i]}
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            for i in range(self.num_envs):
                if i not in running:
                    self._observations[i], info = self.envs[i].reset()
                    self._done[i] = False
                    infos.add(i, info)
        for i, step in self.play_turns(running).items():
            self._observations[i], rewards[i], terminations[i], truncations[i], info = step
            self._done[i] = terminations[i] or truncations[i]
            infos.add(i, info)
        return (
            tuple(self._observations),
            np.array(rewards, dtype=np.float64),
            np.array(terminations, dtype=np.bool_),
            np.array(truncations, dtype=np.bool_),
            infos.as_dict(),
        )

    def play_turns(self, actions: Mapping[int, str]) -> dict[int, StepResult]:
        """Play one turn in some of the environments, with one ``execute`` for all.

        Args:
            actions: A text for each environment that takes a turn; it must be running.

        Returns:
            What each one's step returned; truncated, with ``info["failure"]``, where a tool could not be served.
        """
        plans = [(i, self.envs[i].plan(action)) for i, action in actions.items()]
        steps: dict[int, StepResult] = {}
        for i, plan, results in self._execute(plans):
            if isinstance(results, InfrastructureError):
                steps[i] = self._fail(i, results)
            else:
                steps[i] = self.envs[i].finish(plan, results)
        return steps

    def truncate(self, index: int, reason: str) -> None:
        """Cut the running episode of one environment from outside; it has ended until its next reset.

        Args:
            index: Which environment.
            reason: What is written to the episode, such as ``"token_budget"``.
        """
        self.envs[index].truncate(reason)
        self._done[index] = True

    def _execute(
        self, plans: Sequence[tuple[int, Plan]]
    ) -> list[tuple[int, Plan, list[ToolResult] | InfrastructureError]]:
        """Run the jobs of all plans as one batch, and hand each plan its own results."""
        jobs: list[Job] = [job for _, plan in plans for job in plan.jobs]
        outcomes = iter(execute(jobs)) if jobs else iter(())
        done: list[tuple[int, Plan, list[ToolResult] | InfrastructureError]] = []
        for i, plan in plans:
            own = [next(outcomes) for _ in plan.jobs]
            failure = next((o for o in own if isinstance(o, InfrastructureError)), None)
            done.append((i, plan, failure or [o for o in own if isinstance(o, ToolResult)]))
        return done

    def _fail(self, i: int, failure: InfrastructureError) -> StepResult:
        env = self.envs[i]
        env.truncate("infrastructure")
        info = {
            "task_id": env.episode.task.id,
            "reason": "infrastructure",
            "failure": str(failure) or type(failure).__name__,
        }
        return self._observations[i], 0.0, False, True, info

    def _spread_seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ConfigError(f"reset needs {self.num_envs} seeds, one an environment; got {len(seed)}")
        return [None if s is None else int(s) for s in seed]

    def render(self) -> tuple[Any, ...] | None:
        """What each environment renders."""
        return tuple(env.render() for env in self.envs)

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()


def vector_entry_point(env_class: Callable[..., ToolEnv]) -> Callable[..., ToolVectorEnv]:
    """What ``gym.make_vec`` calls for a class of environments: they share tasks, tools and format.

    The function takes ``num_envs``, ``autoreset_mode``, and what the class takes; ``max_episode_steps`` is another name
    for its ``max_turns``.

    Example:
        >>> from toolenv import Task
        >>> make_vec = vector_entry_point(ToolEnv)
        >>> make_vec(2, tasks=[Task(id="t", prompt="?")], max_turns=3)
        ToolVectorEnv(num_envs=2)
    """

    def make_vec(
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **kwargs: Any,
    ) -> ToolVectorEnv:
        if max_episode_steps is not None:
            kwargs["max_turns"] = max_episode_steps
        first = env_class(**kwargs)
        return ToolVectorEnv([lambda: first, *[first.sibling] * (num_envs - 1)], autoreset_mode)

    return make_vec


class _Infos:
    """Builds Gymnasium's vector info (arrays with ``_key`` masks) faster than one entry at a time."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.columns: dict[str, list[tuple[int, Any]]] = {}

    def add(self, i: int, info: dict[str, Any]) -> None:
        for key, value in info.items():
            self.columns.setdefault(key, []).append((i, value))

    def as_dict(self) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for key, entries in self.columns.items():
            first = entries[0][1]
            dtype = type(first) if type(first) in (int, float, bool) else object
            array = np.full(self.num_envs, None if dtype is object else 0, dtype=dtype)
            mask = np.zeros(self.num_envs, dtype=np.bool_)
            rows = [i for i, _ in entries]
            array[rows] = [value for _, value in entries]
            mask[rows] = True
            infos[key], infos[f"_{key}"] = array, mask
        return infos
