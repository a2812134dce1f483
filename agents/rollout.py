"""Play episodes: a policy against environments, with every token kept as it was made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from agents.sampling.base import Generation, Sampler
from agents.sampling.scripted import ScriptedAgent
from agents.sampling.stops import without_rest
from agents.tokens import Encoder, TokenHistory
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
class Running:
    """An episode that is being played.

    Attributes:
        position: Its place among the seeds.
        tokens: Its tokens so far.
        finish_reasons: How its actions ended, one a turn.
    """

    position: int
    tokens: TokenHistory = field(default_factory=TokenHistory)
    finish_reasons: list[str] = field(default_factory=list)

    def append(self, generation: Generation) -> None:
        """Take in the next action."""
        self.tokens.append_action(generation.ids, generation.logprobs, generation.version)
        self.finish_reasons.append(generation.finish_reason)

    def ended_as(self, episode: Episode) -> Rollout:
        """The finished rollout."""
        return Rollout(episode, self.tokens, tuple(self.finish_reasons))


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is to be played, and what is the same however it is played: ``collect`` explains each argument.

    Raises:
        ConfigError: Environments that reset by themselves, a format that is not the encoder's, not one task or index a
            seed, or an index that comes twice.
    """

    envs: ToolVectorEnv
    seeds: Sequence[int]
    encoder: Encoder
    sampler_seed: int
    tasks: Sequence[str | int] | None = None
    max_tokens: int | None = None
    indices: Sequence[int] | None = None

    def __post_init__(self) -> None:
        envs, count = self.envs, len(self.seeds)
        if envs.autoreset_mode != AutoresetMode.DISABLED:
            raise ConfigError(
                f"collect resets by hand; make envs with autoreset_mode=DISABLED, not {envs.autoreset_mode}"
            )
        if envs.envs[0].format.name != self.encoder.format.name:
            raise ConfigError(f"the envs speak {envs.envs[0].format.name!r}, the encoder {self.encoder.format.name!r}")
        if self.tasks is not None and len(self.tasks) != count:
            raise ConfigError(f"tasks must be one a seed, {count}; got {len(self.tasks)}")
        if self.indices is not None and (len(self.indices) != count or len(set(self.indices)) != count):
            raise ConfigError(
                f"indices must be one a seed, {count}, and differ, since each names a random stream; "
                f"got {len(self.indices)}, {len(set(self.indices))} of them different"
            )

    def draw_seed(self, run: Running) -> int:
        """Seed of the next draw, which the episode's index and turn name, not when or where it is played."""
        index = run.position if self.indices is None else int(self.indices[run.position])
        return derive(self.sampler_seed, index, run.tokens.num_turns)

    def task(self, position: int) -> str | int | None:
        """The task that was chosen by hand, if any."""
        return None if self.tasks is None else self.tasks[position]

    def start(self, run: Running, episode: Episode) -> str | None:
        """Append the prompt; returns why the episode cannot be played, ``None`` where it can."""
        run.tokens.append_context(self.encoder.encode_prompt(episode.prompt))
        if self._too_long(len(run.tokens)):
            return f"the prompt has {len(run.tokens)} tokens; max_tokens is {self.max_tokens}"
        return None

    def counted(self, generation: Generation) -> Generation:
        """The action without what the format does not count of it."""
        tokenizer = getattr(self.encoder, "tokenizer", None)  # a chat server's encoder has none, and no tokens to cut
        return generation if tokenizer is None else without_rest(generation, self.encoder.format, tokenizer)

    def observe(self, run: Running, episode: Episode) -> bool:
        """Append the last observation; ``False`` where it does not fit the budget."""
        closed = self.encoder.is_closed(run.tokens)
        ids = self.encoder.encode_observation(episode.turns[-1].observation, closed=closed)
        if self._too_long(len(run.tokens) + len(ids)):
            return False
        run.tokens.append_context(ids)
        return True

    def result(self, ended: Mapping[int, Rollout | str]) -> CollectResult:
        """All that has ended, by position: a rollout, or why it was dropped."""
        in_order = sorted(ended.items())
        return CollectResult(
            rollouts=[rollout for _, rollout in in_order if isinstance(rollout, Rollout)],
            dropped=[(int(self.seeds[position]), why) for position, why in in_order if isinstance(why, str)],
        )

    def _too_long(self, tokens: int) -> bool:
        return self.max_tokens is not None and tokens > self.max_tokens


def collect(
    sampler: Sampler,
    envs: ToolVectorEnv,
    seeds: Sequence[int],
    *,
    encoder: Encoder,
    sampler_seed: int,
    tasks: Sequence[str | int] | None = None,
    max_tokens: int | None = None,
    progress: Progress | None = None,
    indices: Sequence[int] | None = None,
) -> CollectResult:
    """Play one episode a seed, in lock-step.

    All running episodes take their turns together: one ``generate`` and one ``envs.step``, hence one ``execute``, a
    turn. An episode that ends gives its slot to the next seed. Where tools are slow, ``collect_async`` plays the same
    episodes in less time.

    Args:
        sampler: The policy.
        envs: Environments, with ``autoreset_mode=DISABLED``; any number.
        seeds: A seed names a task; a repeated seed is a group, whose episodes differ by what is sampled.
        encoder: Writes the tokens of prompts and observations.
        sampler_seed: With an episode's index and its turn, the seed of a draw.
        tasks: Ids or indices of tasks, one a seed, which then choose instead of the seeds: for evaluation.
        max_tokens: Longest history that the sampler is given. An episode that grows longer is truncated with reason
            ``"token_budget"``, without the observation that did not fit. Together with an action it is at most
            ``max_tokens + max_new_tokens`` long.
        progress: Called with the number of episodes that have ended, and of all.
        indices: The index of each episode, one a seed; by default its position among the seeds. Processes that share a
            batch give the positions in the whole batch, and together sample what one process would.

    Raises:
        ConfigError: Environments that reset by themselves, a format that is not the encoder's, not one task or index a
            seed, or an index that comes twice.
        SamplerError: The sampler failed.
    """
    assignment = Assignment(envs, seeds, encoder, sampler_seed, tasks, max_tokens, indices)
    return _LockStep(sampler, assignment, progress).run()


class _LockStep:
    """The state of one ``collect``: slots, and what has ended."""

    def __init__(self, sampler: Sampler, assignment: Assignment, progress: Progress | None) -> None:
        self.sampler, self.assignment, self.progress = sampler, assignment, progress
        self.envs = assignment.envs
        self.queue = deque(range(len(assignment.seeds)))
        self.slots: dict[int, Running] = {}
        self.ended: dict[int, Rollout | str] = {}

    def run(self) -> CollectResult:
        self._close_spare_slots()
        self._fill(range(self.envs.num_envs))
        while self.slots:
            self._turn()
        return self.assignment.result(self.ended)

    def _turn(self) -> None:
        """One turn of every running episode."""
        order = sorted(self.slots)
        running = [self.slots[slot] for slot in order]
        generations = self.sampler.generate(
            [run.tokens for run in running], seeds=[self.assignment.draw_seed(run) for run in running]
        )
        actions = [""] * self.envs.num_envs
        for slot, run, whole in zip(order, running, generations, strict=True):
            generation = self.assignment.counted(whole)
            run.append(generation)
            actions[slot] = generation.text
        _, _, terminated, truncated, info = self.envs.step(actions)
        failed = info.get("_failure", np.zeros(self.envs.num_envs, dtype=np.bool_))
        for slot in order:
            if failed[slot]:
                self._end(slot, str(info["failure"][slot]))
            elif terminated[slot]:
                self._end(slot)
            elif not self.assignment.observe(self.slots[slot], self.envs.envs[slot].episode) or truncated[slot]:
                self.envs.truncate(slot, "token_budget")  # no effect where the environment has cut it already
                self._end(slot)
        self._fill([slot for slot in order if slot not in self.slots])

    def _end(self, slot: int, failure: str | None = None) -> None:
        run = self.slots.pop(slot)
        # A failure may have nothing to say, and is one all the same.
        self.ended[run.position] = run.ended_as(self.envs.envs[slot].episode) if failure is None else failure
        if self.progress is not None:
            self.progress(len(self.ended), len(self.assignment.seeds))

    def _fill(self, free: Sequence[int]) -> None:
        """Start the next episodes of the queue in free slots."""
        while free and self.queue:
            taken = {slot: Running(self.queue.popleft()) for slot in free[: len(self.queue)]}
            self._reset({slot: run.position for slot, run in taken.items()})
            self.slots.update(taken)
            for slot, run in taken.items():
                problem = self.assignment.start(run, self.envs.envs[slot].episode)
                if problem is not None:
                    self.envs.truncate(slot, "token_budget")
                    self._end(slot, problem)
            free = [slot for slot in taken if slot not in self.slots]

    def _reset(self, positions: dict[int, int]) -> None:
        """Reset some slots, each to the episode of its position."""
        slots, seeds = range(self.envs.num_envs), self.assignment.seeds
        options: dict[str, Any] = {
            "reset_mask": np.array([slot in positions for slot in slots]),
            "task": [self.assignment.task(positions[slot]) if slot in positions else None for slot in slots],
        }
        self.envs.reset(
            seed=[int(seeds[positions[slot]]) if slot in positions else None for slot in slots], options=options
        )

    def _close_spare_slots(self) -> None:
        """End the episodes of slots that this run does not need: ``step`` must have nothing to play there."""
        used = len(self.assignment.seeds)
        spare = range(used, self.envs.num_envs)
        if spare:
            self.envs.reset(seed=0, options={"reset_mask": np.arange(self.envs.num_envs) >= used})
        for slot in spare:
            self.envs.truncate(slot, "unused")


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
