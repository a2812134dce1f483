"""One step off: the episodes of the next update are played while this one trains, from weights one update older.

In a trainer's loop, with a sampler that has weights of its own (a server, or an ``HFSampler`` over a copy)::

    held = HeldWeights()
    with Lookahead(play, sampler) as ahead:
        for update in updates:
            played = ahead.take(update)           # waits for what was started, or plays it now
            sampler.sync(model, update - 1)       # nothing samples between take and start
            held.hold(model, update - 1)
            ahead.start(update + 1)               # from these weights, while the rest of the loop runs
            ...                                   # rewards, credit, optimiser steps, checkpoint

Update 1 learns from the weights that it changes; each later one from weights one update older, which ``staleness``
shows for each turn. What is sampled depends on seeds and weights alone, so a run is as repeatable as without. What is
under way when a run is stopped is played again when it resumes, from the same weights: they are part of a checkpoint
(``HeldWeights``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.rollout import CollectResult, Rollout
from agents.sampling.base import Generation, Sampler
from agents.sharding import full
from agents.tokens import TokenHistory
from toolenv.errors import ConfigError, SamplerError

Play = Callable[[int, Sampler], CollectResult]
"""Plays the episodes of an update with a sampler: ``collect`` or ``collect_async``, with its other arguments bound."""


class Lookahead:
    """Plays the episodes of an update before it is their turn, in a thread of its own.

    Use it as a context manager: at the end of the block, by an error or Ctrl-C as well, what is being played stops at
    its next turn and is forgotten. The sampler must not be used or synced while something is being played: between
    ``take`` and ``start``, or after ``settle``.

    Args:
        play: Plays an update's episodes with the sampler that it is handed. It runs in a thread of its own, so that
            what it touches must not be used meanwhile.
        sampler: The sampler, with weights that training does not change.
        depth: 1; or 0: nothing is played ahead, ``start`` does nothing and ``take`` plays.

    Raises:
        ConfigError: Another depth.

    Example:
        >>> with Lookahead(lambda update, sampler: CollectResult([], [(update, "lost")]), sampler=None) as ahead:
        ...     ahead.start(1)
        ...     ahead.take(1).dropped
        [(1, 'lost')]
    """

    def __init__(self, play: Play, sampler: Sampler, depth: int = 1) -> None:
        if depth not in (0, 1):
            raise ConfigError(f"depth must be 0 or 1, one step off at most; got {depth!r}")
        self.play, self.sampler, self.depth = play, sampler, depth
        self._stopping = threading.Event()
        self._update: int | None = None
        self._played: Future[CollectResult] = Future()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lookahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self.settle()

    def start(self, update: int) -> None:
        """Begin to play an update's episodes, from the weights that the sampler has now.

        Raises:
            ConfigError: Another update's episodes were started and not taken.
        """
        if self.depth == 0:
            return
        if self._update is not None:
            raise ConfigError(f"cannot start update {update}: take the episodes of update {self._update} first")
        self._update, self._played = update, Future()
        # A daemon, so that a tool that never returns cannot keep the process alive.
        self._thread = threading.Thread(target=self._work, args=(update, self._played), name="lookahead", daemon=True)
        self._thread.start()

    def take(self, update: int) -> CollectResult:
        """The episodes of an update: those that were started, else played now.

        Raises:
            ConfigError: Another update's episodes were started.
            SamplerError: The sampler failed; like any other error of ``play``, it is raised here.
        """
        if self._update is None:
            return self.play(update, self.sampler)
        if self._update != update:
            raise ConfigError(f"cannot take update {update}: what was started are the episodes of {self._update}")
        played = self._played.result()
        self.settle()
        self._update = None
        return played

    def settle(self) -> None:
        """Wait until nothing is being played; what was played waits for ``take``. For an evaluation, say."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self, update: int, played: Future[CollectResult]) -> None:
        try:
            played.set_result(self.play(update, _Stoppable(self.sampler, self._stopping)))
        except BaseException as error:  # handed to whoever takes it
            played.set_exception(error)


class _Stopped(Exception):
    """Ends a rollout that nobody waits for any more."""


class _Stoppable:
    """A sampler that gives up when it is told to."""

    def __init__(self, sampler: Sampler, stopping: threading.Event) -> None:
        self.sampler, self.stopping = sampler, stopping
        self.concurrent = bool(getattr(sampler, "concurrent", False))

    def generate(self, prompts: Sequence[TokenHistory], *, seeds: Sequence[int]) -> list[Generation]:
        """Draw, unless nobody waits for it; see ``Sampler``."""
        if self.stopping.is_set():
            raise _Stopped
        return self.sampler.generate(prompts, seeds=seeds)


class HeldWeights:
    """The trained weights as a sampler last got them: a part of a checkpoint, next to those of the policy.

    A run that resumes hands them to the sampler again, and plays what was under way once more, bitwise the same::

        load_checkpoint(path, model=model, parts={"optimizer": optimizer, "sampler": held})
        with held.put_into(model):
            sampler.sync(model, held.version)
        ahead.start(update + 1)

    Attributes:
        version: Their version; -1 before the first ``hold``.
        weights: Copies on the CPU of all parameters that are trained, by name, so that of LoRA it is the adapters.

    Example:
        >>> model, held = torch.nn.Linear(1, 1), HeldWeights()
        >>> held.hold(model, version=4)
        >>> sorted(held.weights), held.version
        (['bias', 'weight'], 4)
    """

    def __init__(self) -> None:
        self.version = -1
        self.weights: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def hold(self, model: torch.nn.Module, version: int) -> None:
        """Copy what is trained. Where the model is sharded, every rank calls this and holds all of it."""
        self.version = version
        self.weights = {name: full(own).cpu().clone() for name, own in _trained(model).items()}

    @contextmanager
    def put_into(self, model: torch.nn.Module) -> Iterator[None]:
        """Give these weights to a model, not yet sharded, for a while; then it has its own again.

        Raises:
            ConfigError: It does not train the same parameters.
        """
        own = _trained(model)
        if own.keys() != self.weights.keys():
            other = min(own.keys() ^ self.weights.keys())
            raise ConfigError(f"these weights are of another model: {other!r} is trained in one of the two alone")
        kept = {name: tensor.clone() for name, tensor in own.items()}
        try:
            _write(own, self.weights)
            yield
        finally:
            _write(own, kept)

    def state_dict(self) -> dict[str, Any]:
        """What ``save_checkpoint`` saves."""
        return {"version": self.version, "weights": self.weights}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what was saved."""
        self.version, self.weights = int(state_dict["version"]), dict(state_dict["weights"])


def _trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: own.detach() for name, own in model.named_parameters() if own.requires_grad}


def _write(target: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])


def staleness(rollouts: Sequence[Rollout], version: int) -> NDArray[np.int64]:
    """How many updates older than the weights that learn from it each turn's weights were.

    Args:
        rollouts: B rollouts.
        version: Version of the weights that are about to learn: the last update's number.

    Returns:
        ``(B, T)``, 0 at padding. On policy all is 0.

    Raises:
        SamplerError: A turn says that it was sampled from weights that there are not yet.

    Example:
        >>> history = TokenHistory()
        >>> for sampled_by in (3, 4):
        ...     history.append_action([7], [-0.5], version=sampled_by)
        >>> staleness([Rollout(None, history, ("stop", "stop"))], version=5)
        array([[2, 1]])
    """
    rows = [rollout.tokens.versions for rollout in rollouts]
    behind = np.zeros((len(rows), max(map(len, rows), default=0)), dtype=np.int64)
    for row, versions in enumerate(rows):
        behind[row, : len(versions)] = version - np.array(versions)
    if (behind < 0).any():
        raise SamplerError(f"a turn was sampled by version {version - behind.min()}, but the newest is {version}")
    return behind


def staleness_metrics(rollouts: Sequence[Rollout], version: int) -> dict[str, float]:
    """``staleness/mean`` and ``staleness/max`` over turns; see ``staleness``."""
    behind = staleness(rollouts, version)
    turns = sum(rollout.tokens.num_turns for rollout in rollouts)
    return {"staleness/mean": float(behind.sum() / turns), "staleness/max": float(behind.max())}
