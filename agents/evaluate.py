"""Evaluate a policy: each task at most once, and a success rate with its interval."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agents.behaviour import behaviour_metrics
from agents.rollout import CollectResult, Progress, collect
from agents.sampling.base import Sampler
from agents.tokens import Encoder
from rewards import OutcomeFn, RewardFn, RewardSum
from rewards.base import OnError
from rewards.intervals import wilson_interval as wilson_interval
from toolenv.episode import Episode
from toolenv.errors import ConfigError, RewardError
from toolenv.seeding import rng
from toolenv.vector import ToolVectorEnv

logger = logging.getLogger("agents.evaluate")


@dataclass(frozen=True, slots=True)
class Summary:
    """What an evaluation came to.

    Attributes:
        episodes: How many ended, and were scored.
        successes: How many of them scored 1.
        mean_score: Mean score of the outcome.
        calls_per_episode: Mean number of calls that the model wrote.
        turns_per_episode: Mean number of turns.
        reasons: Why episodes ended, and how many did so.
        unscored: Further episodes, on which the reward had no opinion: they count nowhere else.
        masked: Further episodes, on which the reward failed: they count nowhere else either.
        behaviour: What the model did with its tools, see ``agents.behaviour.behaviour_metrics``.
    """

    episodes: int
    successes: int
    mean_score: float
    calls_per_episode: float
    turns_per_episode: float
    reasons: dict[str, int]
    unscored: int = 0
    masked: int = 0
    behaviour: Mapping[str, float] = field(default_factory=dict)

    @property
    def success_rate(self) -> float:
        """Share of episodes that scored 1."""
        return self.successes / self.episodes

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the success rate."""
        return wilson_interval(self.successes, self.episodes)

    def __str__(self) -> str:
        low, high = self.interval
        reasons = ", ".join(f"{name} {count}" for name, count in sorted(self.reasons.items()))
        left_out = f"; {self.unscored} more were not scored" if self.unscored else ""
        left_out += f"; on {self.masked} more the reward failed" if self.masked else ""
        return (
            f"success {self.successes}/{self.episodes} = {self.success_rate:.3f} (95 % interval {low:.3f} to "
            f"{high:.3f}), {self.calls_per_episode:.2f} calls and {self.turns_per_episode:.2f} turns an episode; "
            f"ended by: {reasons}{left_out}"
        )


def summarise(episodes: Sequence[Episode], reward: RewardFn | None = None, on_error: OnError = "stop") -> Summary:
    """Score finished episodes and count.

    Args:
        episodes: Finished episodes, at least one.
        reward: What decides success, summed over an episode's turns: 1 is success. ``None``: ``OutcomeFn()``, which
            grades each environment as it is made for. An episode on which it has no opinion is left out and counted.
        on_error: What becomes of an episode on which the reward fails: ``"stop"`` raises; ``"mask"`` leaves it out and
            counts it.

    Raises:
        ConfigError: No episode, or none that was scored.
        RewardError: The reward failed, and the policy is to stop, or it failed on so many that no score is left.
    """
    if not episodes:
        raise ConfigError("there is no episode to summarise; were all dropped?")
    reward = reward or OutcomeFn()
    rows = RewardSum({reward.name: reward}, on_error).score(episodes)
    failures = [error for row in rows for error in row.errors.values()]
    columns = [row.columns[reward.name] for row in rows]
    scored = [i for i, row in enumerate(rows) if not row.errors and not np.isnan(columns[i]).all()]
    unscored = len(episodes) - len(scored) - len(failures)
    if failures:
        logger.warning("%d of %d evaluated episodes are masked: %s", len(failures), len(episodes), failures[0])
    if not scored and failures:
        raise RewardError(f"no episode has a score; the reward failed on {len(failures)} of {len(rows)}: {failures[0]}")
    if not scored:
        raise ConfigError(f"the reward had no opinion on any of {unscored} episodes; is it made for this environment?")
    episodes, scores = [episodes[i] for i in scored], np.array([np.nansum(columns[i]) for i in scored])
    return Summary(
        episodes=len(episodes),
        successes=int((scores >= 1.0).sum()),
        mean_score=float(scores.mean()),
        calls_per_episode=float(np.mean([episode.num_calls for episode in episodes])),
        turns_per_episode=float(np.mean([len(episode.turns) for episode in episodes])),
        reasons=dict(Counter(str(episode.reason) for episode in episodes)),
        unscored=unscored,
        masked=len(failures),
        behaviour=behaviour_metrics(episodes),
    )


def choose_tasks(available: int, count: int, seed: int) -> list[int]:
    """Indices of ``count`` different tasks, drawn by the seed.

    Raises:
        ConfigError: More than there are.

    Example:
        >>> sorted(choose_tasks(3, 3, seed=0))
        [0, 1, 2]
    """
    if not 1 <= count <= available:
        raise ConfigError(f"asked for {count} different tasks; the task set has {available}")
    return [int(index) for index in rng(seed, "evaluate").permutation(available)[:count]]


def evaluate(
    sampler: Sampler,
    envs: ToolVectorEnv,
    count: int,
    *,
    encoder: Encoder,
    seed: int = 0,
    max_tokens: int | None = None,
    reward: RewardFn | None = None,
    on_error: OnError = "stop",
    progress: Progress | None = None,
) -> tuple[CollectResult, Summary]:
    """Play ``count`` different tasks once each, and summarise.

    Two policies evaluated with one seed play the same tasks.

    Args:
        sampler: The policy.
        envs: Environments with ``autoreset_mode=DISABLED``.
        count: How many tasks.
        encoder: As for ``collect``.
        seed: Chooses the tasks and what is sampled.
        max_tokens: As for ``collect``.
        reward: As for ``summarise``.
        on_error: As for ``summarise``.
        progress: As for ``collect``.

    Raises:
        ConfigError: More tasks than there are, or no episode was left.
        RewardError: As for ``summarise``.
    """
    tasks = choose_tasks(len(envs.envs[0].tasks), count, seed)
    played = collect(
        sampler,
        envs,
        seeds=tasks,
        encoder=encoder,
        sampler_seed=seed,
        tasks=tasks,
        max_tokens=max_tokens,
        progress=progress,
    )
    return played, summarise([rollout.episode for rollout in played.rollouts], reward, on_error)
