"""Play episodes: a policy against environments, in lock-step, with every token kept as it was made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from agents.sampling.base import Generation, Sampler
from agents.sampling.scripted import ScriptedAgent
from agents.tokens import ConversationEncoder, TokenHistory
from toolenv.episode import Episode
from toolenv.errors import ConfigError
from toolenv.seeding import derive
from toolenv.vector import ToolVectorEnv
from toolenv.wrappers import tool_env

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Rollout:
    """An episode and its tokens.

    Attributes:
        episode: What happened.
        tokens: The tokens, with the turn that sampled each. Where the episode was cut after an observation, that
            observation is the tail.
        finish_reasons: How each action ended, one a turn: ``"stop"`` or ``"length"``.
    """

    episode: Episode
    tokens: TokenHistory
    finish_reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CollectResult:
    """What ``collect`` played.

    Attributes:
        rollouts: In the order of the seeds.
        dropped: Seed and reason of each episode that was lost for no fault of the model.
    """

    rollouts: list[Rollout]
    dropped: list[tuple[int, str]]


@dataclass(slots=True)
class _Running:
    """An episode that is being played in a slot."""

    index: int
    history: TokenHistory = field(default_factory=TokenHistory)
    finish_reasons: list[str] = field(default_factory=list)


def collect(
    sampler: Sampler,
    envs: ToolVectorEnv,
    seeds: Sequence[int],
    *,
    encoder: ConversationEncoder,
    sampler_seed: int,
    tasks: Sequence[str | int] | None = None,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> CollectResult:
    """Play one episode a seed.

    All running episodes take their turns together: one ``generate`` and one ``envs.step``, hence one ``execute``, a
    turn. An episode that ends gives its slot to the next seed.

    Args:
        sampler: The policy.
        envs: Environments, with ``autoreset_mode=DISABLED``; any number.
        seeds: A seed names a task; a repeated seed is a group, whose episodes differ by what is sampled.
        encoder: Writes the tokens of prompts and observations.
        sampler_seed: With an episode's position among the seeds and its turn, the seed of a draw.
        tasks: Ids or indices of tasks, one a seed, which then choose instead of the seeds: for evaluation.
        max_tokens: Longest history that the sampler is given. An episode that grows longer is truncated with reason
            ``"token_budget"``, without the observation that did not fit. Together with an action it is at most
            ``max_tokens + max_new_tokens`` long.
        progress: Called with the number of episodes that have ended, and of all.

    Raises:
        ConfigError: Environments that reset by themselves, a format that is not the encoder's, or not one task a seed.
        SamplerError: The sampler failed.
    """
    if envs.autoreset_mode != AutoresetMode.DISABLED:
        raise ConfigError(f"collect resets by hand; make envs with autoreset_mode=DISABLED, not {envs.autoreset_mode}")
    if envs.envs[0].format.name != encoder.format.name:
        raise ConfigError(f"the envs speak {envs.envs[0].format.name!r}, the encoder {encoder.format.name!r}")
    if tasks is not None and len(tasks) != len(seeds):
        raise ConfigError(f"tasks must be one a seed, {len(seeds)}; got {len(tasks)}")
    return _Collector(sampler, envs, seeds, encoder, sampler_seed, tasks, max_tokens, progress).run()


class _Collector:
    """The state of one ``collect``: slots, and what has ended."""

    def __init__(
        self,
        sampler: Sampler,
        envs: ToolVectorEnv,
        seeds: Sequence[int],
        encoder: ConversationEncoder,
        sampler_seed: int,
        tasks: Sequence[str | int] | None,
        max_tokens: int | None,
        progress: Progress | None,
    ) -> None:
        self.sampler, self.envs, self.encoder = sampler, envs, encoder
        self.seeds, self.tasks, self.sampler_seed = seeds, tasks, sampler_seed
        self.max_tokens, self.progress = max_tokens, progress
        self.queue = deque(range(len(seeds)))
        self.slots: dict[int, _Running] = {}
        self.ended: dict[int, Rollout | str] = {}

    def run(self) -> CollectResult:
        self._close_spare_slots()
        self._fill(range(self.envs.num_envs))
        while self.slots:
            self._turn()
        rollouts = [r for _, r in sorted(self.ended.items()) if isinstance(r, Rollout)]
        dropped = [(int(self.seeds[i]), r) for i, r in sorted(self.ended.items()) if isinstance(r, str)]
        return CollectResult(rollouts, dropped)

    def _turn(self) -> None:
        """One turn of every running episode."""
        order = sorted(self.slots)
        running = [self.slots[slot] for slot in order]
        generations = self.sampler.generate(
            [r.history for r in running],
            seeds=[derive(self.sampler_seed, r.index, r.history.num_turns) for r in running],
        )
        actions = [""] * self.envs.num_envs
        for slot, run, generation in zip(order, running, generations, strict=True):
            _append(run, generation)
            actions[slot] = generation.text
        _, _, terminated, truncated, info = self.envs.step(actions)
        failed = info.get("_failure", np.zeros(self.envs.num_envs, dtype=np.bool_))
        for slot in order:
            if failed[slot]:
                self._end(slot, str(info["failure"][slot]))
            elif terminated[slot]:
                self._end(slot)
            elif not self._observe(slot) or truncated[slot]:
                self.envs.truncate(slot, "token_budget")  # no effect where the environment has cut it already
                self._end(slot)
        self._fill([slot for slot in order if slot not in self.slots])

    def _observe(self, slot: int) -> bool:
        """Append the last observation; ``False`` where it does not fit the budget."""
        run = self.slots[slot]
        observation = self.envs.envs[slot].episode.turns[-1].observation
        ids = self.encoder.encode_observation(observation, closed=self.encoder.is_closed(run.history))
        if self._too_long(len(run.history) + len(ids)):
            return False
        run.history.append_context(ids)
        return True

    def _end(self, slot: int, failure: str | None = None) -> None:
        run = self.slots.pop(slot)
        episode = self.envs.envs[slot].episode
        # A failure may have nothing to say, and is one all the same.
        played = Rollout(episode, run.history, tuple(run.finish_reasons))
        self.ended[run.index] = played if failure is None else failure
        if self.progress is not None:
            self.progress(len(self.ended), len(self.seeds))

    def _fill(self, free: Sequence[int]) -> None:
        """Start the next episodes of the queue in free slots."""
        while free and self.queue:
            taken = {slot: _Running(self.queue.popleft()) for slot in free[: len(self.queue)]}
            self._reset({slot: run.index for slot, run in taken.items()})
            self.slots.update(taken)
            for slot, run in taken.items():
                run.history.append_context(self.encoder.encode_prompt(self.envs.envs[slot].episode.prompt))
                if self._too_long(len(run.history)):
                    self.envs.truncate(slot, "token_budget")
                    self._end(slot, f"the prompt has {len(run.history)} tokens; max_tokens is {self.max_tokens}")
            free = [slot for slot in taken if slot not in self.slots]

    def _reset(self, indices: dict[int, int]) -> None:
        """Reset some slots, each to the episode of its index."""
        slots = range(self.envs.num_envs)
        options: dict[str, Any] = {"reset_mask": np.array([slot in indices for slot in slots])}
        if self.tasks is not None:
            options["task"] = [self.tasks[indices[slot]] if slot in indices else None for slot in slots]
        seeds = [int(self.seeds[indices[slot]]) if slot in indices else None for slot in slots]
        self.envs.reset(seed=seeds, options=options)

    def _close_spare_slots(self) -> None:
        """End the episodes of slots that this run does not need: ``step`` must have nothing to play there."""
        spare = range(len(self.seeds), self.envs.num_envs)
        if spare:
            self.envs.reset(seed=0, options={"reset_mask": np.arange(self.envs.num_envs) >= len(self.seeds)})
        for slot in spare:
            self.envs.truncate(slot, "unused")

    def _too_long(self, tokens: int) -> bool:
        return self.max_tokens is not None and tokens > self.max_tokens


def _append(run: _Running, generation: Generation) -> None:
    run.history.append_action(generation.ids, generation.logprobs, generation.version)
    run.finish_reasons.append(generation.finish_reason)


def play(env: gym.Env[Any, str], agent: ScriptedAgent, seed: int | None = None) -> Episode:
    """Play one episode with an agent that is no language model.

    Args:
        env: A ``ToolEnv``, wrapped or not.
        agent: Writes the actions.
        seed: Chooses the task.

    Raises:
        ConfigError: There is no ``ToolEnv`` under the wrappers.
        InfrastructureError: A tool could not be served.
    """
    base = tool_env(env)
    env.reset(seed=seed)
    done = False
    while not done:
        _, _, terminated, truncated, _ = env.step(agent.act(base.episode.task, base.episode.turns))
        done = terminated or truncated
    base.truncate("max_turns")  # no effect but where a wrapper cut the episode, which the record cannot know
    return base.episode
