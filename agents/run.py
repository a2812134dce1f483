"""What a training run works with: made from its settings, closed, saved and picked up again."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from agents.alarms import TASK_SUCCESS
from agents.checkpoint import Stateful, checkpoint_path, latest, save_checkpoint
from agents.config import TrainConfig
from agents.critic import Critic
from agents.distributed import Ranks, open_ranks
from agents.evaluate import evaluate
from agents.interrupt import Interrupt
from agents.learner import Learner, make_learner
from agents.metrics import OUTCOME, MetricsWriter
from agents.models import load_model, played_as, room_for_history
from agents.overlap import HeldWeights
from agents.records import keep_updates
from agents.resume import CONFIG_FILE, METRICS_FILE, claim_output
from agents.reward_spec import make_reward, make_terms
from agents.run_envs import open_envs
from agents.sampling.base import SamplingParams, SyncedSampler
from agents.sampling.making import make_sampler
from agents.sharding import whole
from agents.tokens import ConversationEncoder
from agents.trackers import Tracker, open_trackers
from rewards import OutcomeFn, RewardFn, RewardSum
from rewards.training.trm.rows import successes
from toolenv.episode import Episode
from toolenv.errors import ConfigError
from toolenv.formats import Format
from toolenv.seeding import derive
from toolenv.vector import ToolVectorEnv

Metrics = dict[str, Any]
EPISODES_FILE = "episodes.jsonl"


@dataclass(slots=True)
class Run:
    """What a run works with; ``open_run`` makes it.

    Attributes:
        config: Settings.
        ranks: This process among those that train together.
        model: The policy.
        tokenizer: Its tokenizer.
        reference: The policy as it was before the first update; ``None`` where no penalty needs it.
        optimizer: Trains the policy.
        critic: Says what a state is worth; ``None`` without a critic.
        critic_optimizer: Trains the critic.
        envs: Where it plays.
        eval_envs: Where it is evaluated; ``None`` where it is not.
        rewards: What turns are worth.
        encoder: Writes the tokens of prompts and observations.
        sampler: Draws actions.
        max_tokens: Longest history that the sampler is given.
        held: With overlap, the weights that the sampler has; they are part of a checkpoint.
        writer: Takes the metrics; ``None`` where another process writes.
        tracker: Takes them too, for TensorBoard and the like.
        policy: What ``agents.models.played_as`` says of the model, and shall say of its checkpoints.
        done: How many updates are done.
        resources: Closes what the run made itself: sampler, environments, trackers.
        metrics: One entry an update of this process.
    """

    config: TrainConfig
    ranks: Ranks
    model: Any
    tokenizer: Any
    reference: Any
    optimizer: torch.optim.Optimizer
    critic: Critic | None
    critic_optimizer: torch.optim.Optimizer | None
    envs: ToolVectorEnv
    eval_envs: ToolVectorEnv | None
    rewards: RewardSum
    encoder: ConversationEncoder
    sampler: SyncedSampler
    max_tokens: int | None
    held: HeldWeights
    writer: MetricsWriter | None
    tracker: Tracker
    policy: str | None
    done: int
    resources: ExitStack
    metrics: list[Metrics] = field(default_factory=list)

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints stand."""
        return self.config.output_dir / "checkpoints"

    @property
    def episodes_path(self) -> Path:
        """Where the scored episodes stand."""
        return self.config.output_dir / EPISODES_FILE

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(iter(self.model.parameters())).device
        return device

    @property
    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds beside the policy."""
        parts: dict[str, Stateful] = {"optimizer": self.optimizer}
        if self.critic is not None and self.critic_optimizer is not None:
            parts |= {"critic": self.critic, "critic_optimizer": self.critic_optimizer}
        return parts | ({"sampler": self.held} if self.config.overlap else {})

    def log(self, metrics: Metrics) -> None:
        """Write the metrics of an update, where this process is the one that writes."""
        if self.writer is not None:
            self.writer.write(metrics)
            self.tracker.log(metrics, step=metrics["update"])

    def save(self) -> Path:
        """Write a checkpoint."""
        return save_checkpoint(
            self.checkpoints,
            self.done,
            model=self.model,
            tokenizer=self.tokenizer,
            parts=self.parts,
            state={"config": self.config.to_json()},
            played_as=self.policy,
            keep=self.config.keep_checkpoints,
            write=self.ranks.main,
        )

    def playing(self) -> AbstractContextManager[None]:
        """A block in which ranks sample at their own pace: a policy that samples itself stands whole on each."""
        return whole(self.model) if self.config.sampler == "hf" else nullcontext()

    def evaluate(self) -> Metrics:
        """Success on tasks of their own, the same at every evaluation, by the run's own outcome reward."""
        with self.playing():
            return self.ranks.broadcast(self._evaluate() if self.ranks.main else {})

    def _evaluate(self) -> Metrics:
        assert self.eval_envs is not None
        played, summary = evaluate(
            self.sampler,
            self.eval_envs,
            self.config.eval_episodes,
            encoder=self.encoder,
            seed=derive(self.config.seed, "eval"),
            max_tokens=self.max_tokens,
            reward=self.rewards.fns[OUTCOME],
            on_error=self.rewards.on_error,
        )
        low, high = summary.interval
        return {
            **self._task_success([rollout.episode for rollout in played.rollouts]),
            "eval/episodes": summary.episodes,
            "eval/episodes_dropped": len(played.dropped),
            "eval/unscored": summary.unscored,
            "eval/masked": summary.masked,
            "eval/success_rate": summary.success_rate,
            "eval/success_low": low,
            "eval/success_high": high,
            "eval/outcome": summary.mean_score,
            "eval/calls_per_episode": summary.calls_per_episode,
            "eval/turns_per_episode": summary.turns_per_episode,
        }

    def _task_success(self, episodes: Sequence[Episode]) -> Metrics:
        """Success by the environment's own outcome, where the run is trained with another reward."""
        if isinstance(self.rewards.fns[OUTCOME], OutcomeFn):
            return {}
        known = [success for success in successes(episodes) if success is not None]
        return {TASK_SUCCESS: sum(known) / len(known)} if known else {}

    def stop(self, interrupt: Interrupt) -> str:
        """Keep what can be kept after Ctrl-C; returns what to tell the user."""
        kept = latest(self.checkpoints)
        saved = kept == checkpoint_path(self.checkpoints, self.done)
        if self.done and not saved and not interrupt.torn and self.ranks.world == 1:  # others may be anywhere in theirs
            kept = self.save()
        if kept is None:
            return "stopped before the first update was done; there is nothing to resume"
        return f"stopped; the last checkpoint is {kept}; to go on, give the same command with --resume"

    def hand_back_held(self) -> None:
        """With overlap, give the sampler the weights again that it plays with: it had others, or is a new one."""
        if self.held.version >= 0:
            with self.held.put_into(self.model):
                self.sampler.sync(self.model, self.held.version)

    def close(self) -> None:
        """Close the sampler, the environments that the run made itself, and its trackers."""
        self.resources.close()


def open_run(
    config: TrainConfig,
    model: Any,
    tokenizer: Any,
    envs: ToolVectorEnv | None,
    eval_envs: ToolVectorEnv | None,
    rewards: RewardSum | None,
) -> Run:
    """Check, load, and go back to the last checkpoint where that is asked for.

    Where something fails half-way, what was opened before is closed.

    Args:
        config: Settings.
        model: A policy to train instead of the one that the settings name, with its tokenizer, as it is before the
            first update: also where a run is resumed.
        tokenizer: Its tokenizer.
        envs: Environments instead of those that the settings name, like ``eval_envs``.
        eval_envs: Where it is evaluated.
        rewards: Rewards instead of those that the settings name.

    Raises:
        ConfigError: What does not fit together, or an output directory that holds another run.
    """
    if (model is None) != (tokenizer is None):
        raise ConfigError("model and tokenizer come together; give both or neither")
    ranks = open_ranks(config.device)
    if config.overlap and ranks.world > 1:
        raise ConfigError("overlap is for one training process; with several, sample on vLLM servers and leave it out")
    checkpoint = ranks.broadcast(claim_output(config) if ranks.main else None)
    rewards = rewards or make_rewards(config)
    if OUTCOME not in rewards.fns:
        raise ConfigError(f"the rewards have no term {OUTCOME!r}; they have {', '.join(rewards.fns)}")
    policy = played_as(config.model if model is None else getattr(model, "name_or_path", ""))
    with ExitStack() as resources:
        # Environments come first: they are quick to make, and where most settings that do not fit show.
        envs, eval_envs = open_envs(config, policy, envs, eval_envs, resources)
        if model is None:
            model, tokenizer = load_model(config.model, device=str(ranks.device), precision=config.precision)
        max_tokens = _longest_history(config, model)
        learner = make_learner(config, model, ranks, checkpoint)
        encoder = ConversationEncoder(tokenizer, envs.envs[0].format)
        sampler = _open_sampler(config, learner, tokenizer, encoder.format)
        resources.callback(sampler.close)
        tracker = open_trackers(
            config.trackers if ranks.main else (), config.output_dir, config.to_json(), resume=config.resume
        )
        resources.callback(tracker.close)
        run = Run(
            config, ranks, learner.model, tokenizer, learner.reference, learner.optimizer, learner.critic,
            learner.critic_optimizer, envs, eval_envs, rewards, encoder, sampler, max_tokens, learner.held,
            writer=_open_files(config, learner.done) if ranks.main else None,
            tracker=tracker,
            policy=policy,
            done=learner.done,
            resources=resources,
        )  # fmt: skip
        run.hand_back_held()
        run.resources = resources.pop_all()
    return run


def _longest_history(config: TrainConfig, model: Any) -> int | None:
    """After how many tokens an action still fits; ``None``: there is no limit.

    Raises:
        ConfigError: ``max_tokens`` is more than the model can take.
    """
    room = room_for_history(model, config.max_new_tokens)
    if config.max_tokens is not None and room is not None and config.max_tokens > room:
        raise ConfigError(
            f"max_tokens is {config.max_tokens}, but the model takes {room + config.max_new_tokens} tokens in all, of "
            f"which max_new_tokens is {config.max_new_tokens}; set max_tokens to {room} at most, or leave it out"
        )
    return config.max_tokens or room


def _open_sampler(config: TrainConfig, learner: Learner, tokenizer: Any, format: Format) -> SyncedSampler:
    """The sampler that the settings name, with the weights of now."""
    model = learner.model
    if config.overlap and config.sampler == "hf":  # it samples while the model is trained
        model = copy.deepcopy(model).requires_grad_(False)
    params = SamplingParams(config.max_new_tokens, config.temperature, tuple(format.stop))
    return make_sampler(
        config.sampler, model, tokenizer, params, version=learner.done, urls=config.sampler_urls,
        options=config.sampler_kwargs,
    )  # fmt: skip


def _open_files(config: TrainConfig, done: int) -> MetricsWriter:
    """The run's files: what is in them stays, up to the update that the run goes on from."""
    config.output_dir.mkdir(parents=True, exist_ok=True)
    # First of all the settings: they say that there is a run here, which may be resumed.
    (config.output_dir / CONFIG_FILE).write_text(json.dumps(config.to_json(), indent=1) + "\n", encoding="utf-8")
    keep_updates(config.output_dir / EPISODES_FILE, done)
    return MetricsWriter(config.output_dir / METRICS_FILE, resume_after=done if done else -1)


def make_rewards(config: TrainConfig) -> RewardSum:
    """The rewards that the settings name.

    Raises:
        ConfigError: There is no such reward.
    """
    process = make_terms(config.process)
    if OUTCOME in process:
        raise ConfigError(f"a process reward cannot be called {OUTCOME!r}; write NAME=MODULE:ATTRIBUTE")
    return RewardSum({OUTCOME: _outcome(config.outcome), **process}, config.on_reward_error)


def _outcome(name: str) -> tuple[RewardFn, float]:
    if ":" in name:
        return make_reward(name)[1:]
    return OutcomeFn(name), 1.0  # type: ignore[arg-type]
