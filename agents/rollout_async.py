"""Play episodes each at its own pace: an episode goes on when its own tool returns, and a slow tool holds up nobody."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from agents.rollout import Assignment, CollectResult, Progress, Rollout, Running
from agents.sampling.base import Generation, Sampler
from agents.tokens import Encoder
from toolenv.errors import InfrastructureError
from toolenv.vector import ToolVectorEnv

LINGER_S = 0.01
"""How long a batch waits for more: longer than a quick tool takes, and little beside the batch itself."""
LOOK_UP_S = 0.2
"""How often a thread that waits for an action looks whether it shall stop."""


def collect_async(
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
    linger_s: float = LINGER_S,
) -> CollectResult:
    """Play one episode a seed, each at its own pace.

    Each environment has a thread, which plays one episode after the other. Where the sampler has a true
    ``concurrent``, as one that asks a server, the threads call its ``generate`` themselves, and the server batches. Any
    other sampler is called from the calling thread alone, with all episodes that wait for it as one batch.

    The episodes are those of ``collect``, for a draw depends on its history and its seed alone; with a neural network,
    up to rounding. Which episodes make a batch is a matter of timing, a batch changes the sixth digit of a logit, and
    now and then that turns a draw between very rare tokens over. A run that must resume bitwise uses ``collect``.

    Tools that environments share are called from several threads at once, with the calls of one turn at a time; the
    bundled ones can take it. Where tools are quick, ``collect`` is faster: it gives a tool the calls of all
    environments, and the sampler larger batches.

    After Ctrl-C or an error, the calls that run are waited for, and nothing new is started; a second Ctrl-C does not
    wait.

    Args:
        sampler: The policy.
        envs: Environments, with ``autoreset_mode=DISABLED``; as many episodes are played side by side.
        seeds: As for ``collect``, like all that follows but ``linger_s``.
        encoder: Writes the tokens of prompts and observations.
        sampler_seed: With an episode's index and its turn, the seed of a draw.
        tasks: Ids or indices of tasks, one a seed, which then choose instead of the seeds.
        max_tokens: Longest history that the sampler is given.
        progress: Called, in the calling thread, with the number of episodes that have ended, and of all.
        indices: The index of each episode, one a seed; by default its position among the seeds.
        linger_s: How long a batch waits for further episodes once there is one, in seconds.

    Raises:
        ConfigError: As ``collect``.
        SamplerError: The sampler failed.
    """
    assignment = Assignment(envs, seeds, encoder, sampler_seed, tasks, max_tokens, indices)
    return _AtOwnPace(sampler, assignment, progress, linger_s).run()


@dataclass(frozen=True, slots=True)
class _Asked:
    """A thread waits for an action."""

    run: Running
    reply: Future[Generation] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Ended:
    """An episode has ended: a rollout, or why it was dropped."""

    position: int
    outcome: Rollout | str


@dataclass(frozen=True, slots=True)
class _Left:
    """A thread has nothing more to do, or failed."""

    error: BaseException | None


class _Stopped(Exception):
    """Tells a thread to leave."""


class _AtOwnPace:
    """The state of one ``collect_async``.

    Threads tell the calling thread what happens through ``events``, and only it touches what is no queue.
    """

    def __init__(self, sampler: Sampler, assignment: Assignment, progress: Progress | None, linger_s: float) -> None:
        self.sampler, self.assignment, self.progress = sampler, assignment, progress
        self.linger_s = linger_s
        self.concurrent = bool(getattr(sampler, "concurrent", False))
        self.queue = deque(range(len(assignment.seeds)))
        self.events: SimpleQueue[_Asked | _Ended | _Left] = SimpleQueue()
        self.stopping = threading.Event()
        self.threads: list[threading.Thread] = []
        self.active = 0  # threads that have more to do
        self.asked: list[_Asked] = []
        self.ended: dict[int, Rollout | str] = {}

    # The calling thread --------------------------------------------------------------------------------------------

    def run(self) -> CollectResult:
        envs = self.assignment.envs
        try:
            for slot in range(min(envs.num_envs, len(self.assignment.seeds))):
                self._start(slot)
            while self.active:
                self._take(self.events.get())
                self._answer()
        finally:
            self.stopping.set()
            for thread in self.threads:
                thread.join()
        for slot in range(envs.num_envs):
            envs.truncate(slot, "unused")  # no effect but that the vector knows that they have ended
        return self.assignment.result(self.ended)

    def _start(self, slot: int) -> None:
        # A daemon, so that a tool that never returns cannot keep the process alive.
        thread = threading.Thread(target=self._work, args=(slot,), name=f"rollout-{slot}", daemon=True)
        thread.start()
        self.threads.append(thread)
        self.active += 1

    def _take(self, event: _Asked | _Ended | _Left) -> None:
        match event:
            case _Asked():
                self.asked.append(event)
            case _Ended(position, outcome):
                self.ended[position] = outcome
                if self.progress is not None:
                    self.progress(len(self.ended), len(self.assignment.seeds))
            case _Left(error):
                self.active -= 1
                if error is not None:
                    raise error

    def _answer(self) -> None:
        """Draw an action for all that ask, and for those that will within a moment."""
        until = time.monotonic() + self.linger_s
        while 0 < len(self.asked) < self.active:
            try:
                self._take(self.events.get(timeout=max(0.0, until - time.monotonic())))
            except Empty:
                break
        if not self.asked:
            return
        batch, self.asked = self.asked, []
        generations = self.sampler.generate(
            [asked.run.tokens for asked in batch], seeds=[self.assignment.draw_seed(asked.run) for asked in batch]
        )
        for asked, generation in zip(batch, generations, strict=True):
            asked.reply.set_result(generation)

    # A thread ------------------------------------------------------------------------------------------------------

    def _work(self, slot: int) -> None:
        """Play in one slot until there is nothing left."""
        error: BaseException | None = None
        try:
            while self.queue and not self.stopping.is_set():
                position = self._next()
                if position is not None:
                    self.events.put(_Ended(position, self._play(slot, Running(position))))
        except _Stopped:
            pass
        except BaseException as caught:  # handed to the calling thread, which raises it
            error = caught
        self.events.put(_Left(error))

    def _next(self) -> int | None:
        try:
            return self.queue.popleft()
        except IndexError:  # another thread took the last one
            return None

    def _play(self, slot: int, run: Running) -> Rollout | str:
        """One episode; returns why it was dropped where it was."""
        assignment, env = self.assignment, self.assignment.envs.envs[slot]
        env.reset(seed=int(assignment.seeds[run.position]), options={"task": assignment.task(run.position)})
        problem = assignment.start(run, env.episode)
        if problem is not None:
            env.truncate("token_budget")
            return problem
        while True:
            generation = assignment.counted(self._generate(run))
            run.append(generation)
            try:
                _, _, terminated, truncated, _ = env.step(generation.text)
            except InfrastructureError as failure:
                env.truncate("infrastructure")
                return str(failure) or type(failure).__name__
            if terminated:
                break
            if not assignment.observe(run, env.episode) or truncated:
                env.truncate("token_budget")  # no effect where the environment has cut it already
                break
        return run.ended_as(env.episode)

    def _generate(self, run: Running) -> Generation:
        if self.stopping.is_set():
            raise _Stopped
        if self.concurrent:
            [generation] = self.sampler.generate([run.tokens], seeds=[self.assignment.draw_seed(run)])
            return generation
        asked = _Asked(run)
        self.events.put(asked)
        while True:
            try:
                return asked.reply.result(timeout=LOOK_UP_S)
            except TimeoutError:
                if self.stopping.is_set():
                    raise _Stopped from None
