"""The frame around a training loop: its updates in order, Ctrl-C, progress, and what each update leaves on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from agents.alarms import WORDS, HackAlarms
from agents.checkpoint import latest
from agents.interrupt import Interrupt
from agents.metrics import Stopwatch, read_metrics, rollout_metrics
from agents.overlap import Lookahead, staleness_metrics
from agents.overlong import overlong_metrics
from agents.progress import TrainingProgress
from agents.records import ScoredEpisode, write_scored_episodes
from agents.rollout import CollectResult, Rollout, collect
from agents.rollout_async import collect_async
from agents.run import Metrics, Run
from agents.sampling.base import Sampler
from agents.sampling.parity import check_parity
from agents.score import Scored, score
from agents.tokens import TokenHistory
from toolenv.errors import InfrastructureError
from toolenv.seeding import derive

PROBES = 4
"""How many actions a parity probe samples."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run came to.

    Attributes:
        model: The trained model.
        tokenizer: Its tokenizer.
        update: Updates made, those before a resume included.
        metrics: One entry an update that this call made.
        checkpoint: The last checkpoint, which ``from_pretrained`` loads; ``None`` where none was written.
        interrupted: Whether Ctrl-C ended it.
    """

    model: Any
    tokenizer: Any
    update: int
    metrics: list[Metrics]
    checkpoint: Path | None
    interrupted: bool = False


class Session:
    """A run while it is trained.

    Inside the ``with`` block a trainer goes through ``updates()``; Ctrl-C ends the block, after the update that is
    being committed, and is no error. At its end the environments that the run made are closed.

    Args:
        run: The run.
        seeds: The seeds of an update's episodes, by its number.
        on_update: Called with the metrics of each update.
        quiet: Show no progress.

    Attributes:
        watch: Times the phases of the current update.
        interrupted: Whether Ctrl-C was pressed.
    """

    def __init__(
        self,
        run: Run,
        seeds: Callable[[int], list[int]],
        on_update: Callable[[Metrics], None] | None = None,
        quiet: bool = False,
    ) -> None:
        self.run = run
        self.seeds = seeds
        self.on_update = on_update
        self.ahead = Lookahead(self._play, run.sampler, depth=int(run.config.overlap))
        self.progress = TrainingProgress(run.config.num_updates, run.done, quiet or not run.ranks.main)
        self.interrupt = Interrupt()
        self.interrupted = False
        self.watch = Stopwatch()
        self._parity: Metrics = {}
        self._alarms = HackAlarms()
        self._raised: set[str] = set()
        if run.done and run.writer is not None:
            for earlier in read_metrics(run.writer.path):
                self._raised = _raised(self._alarms.watch(earlier), self._raised)

    def __enter__(self) -> Session:
        self.interrupt.__enter__()
        self.progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        with ExitStack() as leaving:  # the last one first, and each whatever becomes of the others
            leaving.callback(self.interrupt.__exit__, kind, error, trace)
            leaving.callback(self.progress.__exit__, kind, error, trace)
            leaving.callback(self.run.close)
            leaving.callback(self.ahead.__exit__, kind, error, trace)
            if self.interrupted:  # before all that: what is being played may be slow to stop, and Ctrl-C may come again
                self.progress.say(self.run.stop(self.interrupt))
        return self.interrupted

    def updates(self) -> Iterator[int]:
        """Numbers of the updates that are still to be made, after an evaluation of the policy as it starts."""
        run = self.run
        if run.done == 0 and run.config.eval_every:
            before = {"update": 0, **self._evaluate(0)}
            run.log({**before, **self._watch(before)})
        for update in range(run.done + 1, run.config.num_updates + 1):
            self.watch = Stopwatch()
            yield update

    def play(self, update: int) -> CollectResult:
        """The episodes of an update: played now, or, with overlap, while the update before was trained.

        Raises:
            InfrastructureError: All were lost.
        """
        with self.watch("rollout"):
            played = self.ahead.take(update)
        self._tell_dropped(update, played)
        if not played.rollouts:
            seed, why = played.dropped[0]
            raise InfrastructureError(
                f"all {len(played.dropped)} episodes of update {update} were lost; the one of seed {seed}: {why}"
            )
        return played

    def play_more(self, update: int, seeds: list[int], attempt: int) -> CollectResult:
        """Play further episodes for an update, one a seed.

        Args:
            update: Number of the update.
            seeds: One an episode.
            attempt: How often the update has played before; it names the sampler's streams, as the update does.
        """
        with self.watch("rollout"):
            played = self._collect(self.run.sampler, seeds, derive(self.run.config.seed, "sampler", update, attempt))
        self._tell_dropped(update, played)
        return played

    def _tell_dropped(self, update: int, played: CollectResult) -> None:
        if played.dropped:
            seed, why = played.dropped[0]
            self.progress.say(
                f"update {update}: {len(played.dropped)} episodes are lost; the one of seed {seed}: {why}"
            )

    def _play(self, update: int, sampler: Sampler) -> CollectResult:
        return self._collect(sampler, self.seeds(update), derive(self.run.config.seed, "sampler", update))

    def _collect(self, sampler: Sampler, seeds: list[int], sampler_seed: int) -> CollectResult:
        """Each rank plays its share, and all get what was played."""
        run = self.run
        share = run.ranks.share(len(seeds))
        play = collect if run.config.rollout == "lockstep" else collect_async
        with run.playing():
            played = play(
                sampler,
                run.envs,
                seeds[share],
                encoder=run.encoder,
                sampler_seed=sampler_seed,
                max_tokens=run.max_tokens,
                progress=self.progress.played,
                indices=range(len(seeds))[share],
            )
        return CollectResult(run.ranks.gather(played.rollouts), run.ranks.gather(played.dropped))

    def score(self, update: int, played: CollectResult) -> Scored:
        """What the episodes were worth: every turn of every episode in one call a reward, by one rank for all.

        Raises:
            InfrastructureError: There is no episode to learn from; on every rank, since a trainer may go on without.
            RewardError: A reward failed.
        """
        run = self.run
        with self.watch("reward"):
            run.rewards.set_update(update)
            scored = run.ranks.broadcast(self._score(played) if run.ranks.main else None)
        if isinstance(scored, InfrastructureError):
            raise scored
        assert scored is not None
        if scored.masked:
            self.progress.say(f"update {update}: {len(scored.masked)} episodes are masked: {scored.masked[0]}")
        return scored

    def _score(self, played: CollectResult) -> Scored | InfrastructureError:
        try:
            return score(self.run.rewards, played.rollouts, self.run.config.overlong)
        except InfrastructureError as error:  # told to the other ranks, which would wait for ever
            return error

    def commit(self) -> AbstractContextManager[None]:
        """A block in which Ctrl-C waits: from the first change of a weight to the last line on the disk."""
        return self.interrupt.deferred()

    def look_ahead(self, update: int, rollouts: Sequence[Rollout]) -> None:
        """With overlap, begin to play the next update's episodes, with the weights that this update starts from.

        Args:
            update: Number of this update.
            rollouts: Its episodes, for the parity probe.

        Raises:
            SamplerError: As ``sync``.
        """
        run = self.run
        if not run.config.overlap:
            return
        self._hand_over(update - 1, rollouts)
        run.held.hold(run.model, update - 1)
        if update < run.config.num_updates:
            self.ahead.start(update + 1)

    def sync(self, update: int, rollouts: Sequence[Rollout]) -> None:
        """Give the sampler the new weights; with overlap it gets them when the next update looks ahead.

        Args:
            update: Number of the update.
            rollouts: Its episodes, some of whose prompts are sampled from again where the sampler holds weights of its
                own: it has to show that it has them.

        Raises:
            SamplerError: The weights could not be handed over, or what the sampler says of them is not what they say.
        """
        if not self.run.config.overlap:
            self._hand_over(update, rollouts)

    def _hand_over(self, version: int, rollouts: Sequence[Rollout]) -> None:
        run = self.run
        with self.watch("sync"):
            run.sampler.sync(run.model, version)
            if getattr(run.sampler, "model", None) is run.model:  # the model itself, which needs no probe
                return
            prompts = [prompt_of(rollout) for rollout in rollouts[:PROBES]]
            seeds = [derive(run.config.seed, "parity", version, i) for i in range(len(prompts))]
            parity = check_parity(run.sampler, run.model, prompts, seeds=seeds, tolerance=run.config.max_parity)
        self._parity = {"sync_parity/max": parity.max, "sync_parity/mean": parity.mean}

    def _evaluate(self, version: int) -> Metrics:
        """Evaluate the policy of now, whatever the sampler is playing, and leave the sampler as it was."""
        run = self.run
        if not run.config.overlap:
            return run.evaluate()
        self.ahead.settle()
        run.sampler.sync(run.model, version)
        found = run.evaluate()
        run.hand_back_held()
        return found

    def _watch(self, metrics: Metrics) -> Metrics:
        """The alarms of an update; says which one was not raised before."""
        found = self._alarms.watch(metrics)
        raised = _raised(found, self._raised)
        for name in sorted(raised - self._raised):
            self.progress.say(f"update {metrics['update']}: {WORDS[name]}")
        self._raised = raised
        return dict(found)

    def finish(
        self, update: int, played: CollectResult, scored: Scored, advantages: NDArray[Any], learned: Metrics
    ) -> None:
        """Evaluate, log and keep an update whose weights are trained.

        Args:
            update: Its number.
            played: Its episodes.
            scored: Their scores.
            advantages: ``(B, T)``, of their turns.
            learned: Metrics of its optimiser steps.
        """
        run, config = self.run, self.run.config
        if run.ranks.main:
            with self.watch("record"):
                write_scored_episodes(run.episodes_path, _records(scored, advantages, update))
        metrics: Metrics = {
            "update": update,
            "episodes_dropped": len(played.dropped),
            "episodes_masked": len(scored.masked),
            "episodes_unscored": len(played.rollouts) - len(scored.masked) - len(scored.rollouts),
            **rollout_metrics(scored.rollouts, scored.terms, scored.turns, advantages),
            **overlong_metrics(scored.rollouts, scored.turns, scored.charged, scored.keep),
            **staleness_metrics(scored.rollouts, update - 1),
            **learned,
            **self._parity,
        }
        if config.eval_every and update % config.eval_every == 0:
            with self.watch("eval"):
                metrics |= self._evaluate(update)
        metrics |= self._watch(metrics)
        metrics |= self.watch.metrics()
        run.log(metrics)
        run.metrics.append(metrics)
        run.done = update
        if update % config.checkpoint_every == 0 or update == config.num_updates:
            run.save()
        self.progress.updated(metrics)
        if self.on_update is not None:
            self.on_update(metrics)

    def result(self) -> TrainResult:
        """What the run has come to."""
        run = self.run
        return TrainResult(run.model, run.tokenizer, run.done, run.metrics, latest(run.checkpoints), self.interrupted)


def _raised(found: Mapping[str, float], before: set[str]) -> set[str]:
    """The alarms that are raised after an update; those of before where nothing was compared."""
    return {name for name, value in found.items() if value} if found else before


def prompt_of(rollout: Rollout) -> TokenHistory:
    """What an episode's first action went on from."""
    prompt = TokenHistory()
    prompt.append_context(rollout.tokens.ids[: rollout.tokens.turn_ids.index(0)])
    return prompt


def _records(scored: Scored, advantages: NDArray[Any], update: int) -> list[ScoredEpisode]:
    return [
        ScoredEpisode(
            episode=rollout.episode,
            update=update,
            group=int(scored.turns.groups[b]),
            rewards=scored.terms[b].to_json(),
            advantages=advantages[b, : len(rollout.episode.turns)].tolist(),
        )
        for b, rollout in enumerate(scored.rollouts)
    ]
