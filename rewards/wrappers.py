"""One reward, three call sites: around an environment, around a vector environment, and on stored episodes.

All three give a turn the same score, since all three show a reward the same ``TurnView``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from rewards.base import RewardFn, RewardTerms, Scores, TurnView, check_name, needs_hindsight, score_views
from toolenv.env import ToolEnv
from toolenv.episode import Episode, Turn
from toolenv.errors import ConfigError
from toolenv.messages import Message
from toolenv.wrappers import note_cut, tool_env

Observation = tuple[Message, ...]


class RewardWrapper(gym.Wrapper[Observation, str, Observation, str], gym.utils.RecordConstructorArgs):
    """Adds ``weight * score`` to the reward of every turn.

    The score alone stands in ``info["reward_terms"][name]``; there is none where the reward has no opinion. Wrappers
    only add, so their order does not matter.

    Args:
        env: A tool environment, under any wrappers.
        fn: The reward.
        weight: Its weight in the sum.

    Raises:
        ConfigError: The reward needs hindsight, or the environment is no tool environment.
    """

    def __init__(self, env: gym.Env[Observation, str], fn: RewardFn, weight: float = 1.0) -> None:
        # Not copied: a reward may hold a model.
        gym.utils.RecordConstructorArgs.__init__(self, fn=fn, weight=weight, _disable_deepcopy=True)
        gym.Wrapper.__init__(self, env)
        self.fn = fn
        self.weight = check_weight(fn.name, weight)
        self.term = _free_term(env, fn)
        self._inner = tool_env(env)

    def step(self, action: str) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Step, score the turn, add."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        note_cut(self._inner, truncated, info)
        score = score_views(self.fn, [TurnView(self._inner.episode)])[0]
        terms = info.setdefault("reward_terms", {})
        if score is not None:
            terms[self.term] = score
            reward = float(reward) + self.weight * score
        return observation, reward, terminated, truncated, info


class VectorRewardWrapper(VectorWrapper[Any, Any, Any, Any, Any]):
    """Adds ``weight * score`` to the reward of every environment that played a turn: one ``score`` call a step.

    Args:
        envs: A ``ToolVectorEnv``, or Gymnasium's ``SyncVectorEnv`` of tool environments.
        fn: The reward.
        weight: Its weight in the sum.

    Raises:
        ConfigError: The reward needs hindsight; the sub-environments are out of reach (wrap each of them in
            ``RewardWrapper`` instead); or the vector environment resets in the same step, which loses the last turn.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], fn: RewardFn, weight: float = 1.0) -> None:
        super().__init__(envs)
        inner = getattr(envs.unwrapped, "envs", None)
        if inner is None:
            raise ConfigError(
                f"{type(envs.unwrapped).__name__} keeps its environments out of reach; wrap each in RewardWrapper"
            )
        if envs.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP:
            raise ConfigError("autoreset mode SAME_STEP loses the last turn; use NEXT_STEP or DISABLED")
        self.fn = fn
        self.weight = check_weight(fn.name, weight)
        self.term = _free_term(envs, fn)
        self._inner: list[ToolEnv] = [tool_env(env) for env in inner]
        self._scored: list[Turn | None] = [None] * len(self._inner)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset; nothing is scored yet."""
        result = self.env.reset(seed=cast("Any", seed), options=options)
        self._scored = [env.last_turn for env in self._inner]
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, score the turns that were played, add."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        played = self._played(truncations)
        scores = score_views(self.fn, [TurnView(self._inner[i].episode) for i in played]) if played else []
        rewards = np.asarray(rewards, dtype=np.float64).copy()
        terms = infos.setdefault("reward_terms", {})
        column = np.zeros(self.num_envs, dtype=np.float64)
        mask = np.zeros(self.num_envs, dtype=np.bool_)
        for i, score in zip(played, scores, strict=True):
            if score is not None:
                column[i], mask[i] = score, True
                rewards[i] += self.weight * score
        terms[self.term], terms[f"_{self.term}"] = column, mask
        return observations, rewards, terminations, truncations, infos

    def _played(self, truncations: Any) -> list[int]:
        """Environments whose last turn is new: a phantom step of NEXT_STEP, or one that ended before, has none."""
        played = []
        for i, env in enumerate(self._inner):
            turn = env.last_turn
            if turn is not None and turn is not self._scored[i]:
                played.append(i)
                if truncations[i]:
                    env.truncate("max_turns")
            self._scored[i] = turn
        return played


def score_episodes(fn: RewardFn, episodes: Sequence[Episode]) -> list[Scores]:
    """Score stored episodes: every turn of every episode, in one call of the reward.

    Args:
        fn: The reward.
        episodes: Finished episodes.

    Returns:
        One array ``(T,)`` float64 an episode, NaN where the reward has no opinion.

    Raises:
        RewardError: See ``score_views``.
    """
    hindsight = needs_hindsight(fn)
    views = [TurnView(e, t, hindsight) for e in episodes for t in range(len(e.turns))]
    scores = iter(score_views(fn, views))
    return [
        np.array([np.nan if (s := next(scores)) is None else s for _ in e.turns], dtype=np.float64) for e in episodes
    ]


class RewardSum:
    """A weighted sum of named rewards, for all three call sites.

    Args:
        terms: By name, a reward or a pair of a reward and its weight. The names here are the names of the terms.

    Raises:
        ConfigError: No term, or a weight that is not a finite number.

    Example:
        >>> from rewards import OutcomeFn, ToolFn
        >>> reward = RewardSum({"outcome": OutcomeFn(), "tool": (ToolFn(), 0.1)})
        >>> sorted(reward.weights.items())
        [('outcome', 1.0), ('tool', 0.1)]
    """

    def __init__(self, terms: Mapping[str, RewardFn | tuple[RewardFn, float]]) -> None:
        if not terms:
            raise ConfigError("a RewardSum needs at least one term; got none")
        pairs = {name: term if isinstance(term, tuple) else (term, 1.0) for name, term in terms.items()}
        self.fns = {name: _Named(name, fn) for name, (fn, _) in pairs.items()}
        self.weights = {name: check_weight(name, weight) for name, (_, weight) in pairs.items()}

    def wrap(self, env: gym.Env[Observation, str]) -> gym.Env[Observation, str]:
        """Wrap an environment in every term."""
        for name, fn in self.fns.items():
            env = RewardWrapper(env, fn, self.weights[name])
        return env

    def wrap_vector(self, envs: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
        """Wrap a vector environment in every term."""
        for name, fn in self.fns.items():
            envs = VectorRewardWrapper(envs, fn, self.weights[name])
        return envs

    def score(self, episodes: Iterable[Episode]) -> list[RewardTerms]:
        """Score stored episodes by every term."""
        played = list(episodes)
        columns = {name: score_episodes(fn, played) for name, fn in self.fns.items()}
        return [RewardTerms({name: c[i] for name, c in columns.items()}, self.weights) for i in range(len(played))]


class _Named:
    """A reward under the name of its term."""

    def __init__(self, name: str, fn: RewardFn) -> None:
        self.name = name
        self.fn = fn
        self.hindsight = needs_hindsight(fn)

    def score(self, views: Sequence[TurnView]) -> Sequence[float | None]:
        return self.fn.score(views)


def check_weight(name: str, weight: float) -> float:
    """The weight as a float; ``ConfigError`` where it is not a finite number."""
    if not np.isfinite(weight):
        raise ConfigError(f"the weight of term {name!r} must be a finite number, not {weight!r}")
    return float(weight)


def _free_term(env: Any, fn: RewardFn) -> str:
    """The name of the reward's term, which no wrapper further in may have."""
    name = check_name(fn)
    if needs_hindsight(fn):
        raise ConfigError(
            f"reward {fn.name!r} needs whole episodes, and a wrapper pays while one runs; use score_episodes instead"
        )
    while isinstance(env, gym.Wrapper | VectorWrapper):
        if getattr(env, "term", None) == name:
            raise ConfigError(
                f"there is a reward {name!r} already; RewardSum({{...}}).wrap(env) gives names of your own"
            )
        env = env.env
    return name
