"""What a training run works with: made from its settings, closed, saved and picked up again."""

from __future__ import annotations

import copy
import json
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from agents.advantages import load_attribute
from agents.checkpoint import Stateful, latest, load_checkpoint, save_checkpoint
from agents.config import PPOConfig, TrainConfig
from agents.critic import Critic
from agents.distributed import Ranks, open_ranks
from agents.environments import check_held_out, has_bundled_tasks, make_envs
from agents.evaluate import evaluate
from agents.interrupt import Interrupt
from agents.lora import add_lora
from agents.metrics import OUTCOME, MetricsWriter
from agents.models import load_model, played_as, room_for_history
from agents.overlap import HeldWeights
from agents.recompute import enable_gradient_checkpointing
from agents.records import keep_updates
from agents.resume import claim_output
from agents.reward_spec import make_terms
from agents.sampling.base import SamplingParams, SyncedSampler
from agents.sampling.making import make_sampler
from agents.sharding import shard, whole
from agents.tokens import ConversationEncoder
from agents.trackers import Tracker, open_trackers
from rewards import OutcomeFn, RewardSum
from toolenv.errors import ConfigError
from toolenv.ray_envs import RayToolVectorEnv
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
        owned: Environments to close in the end.
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
    owned: list[ToolVectorEnv]
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

    def evaluate(self) -> Metrics:
        """Success on tasks of their own, the same at every evaluation, by the run's own outcome reward."""
        with whole(self.model):
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

    def stop(self, interrupt: Interrupt) -> str:
        """Keep what can be kept after Ctrl-C; returns what to tell the user."""
        if self.done and not interrupt.torn and self.ranks.world == 1:  # others may be anywhere in their update
            self.save()
        kept = latest(self.checkpoints)
        if kept is None:
            return "stopped before the first update was done; there is nothing to resume"
        return f"stopped; the last checkpoint is {kept}; to go on, give the same command with --resume"

    def close(self) -> None:
        """Close the sampler, the environments that the run made itself, and its trackers."""
        self.sampler.close()
        for envs in self.owned:
            envs.close()
        self.tracker.close()


def open_run(
    config: TrainConfig,
    model: Any,
    tokenizer: Any,
    envs: ToolVectorEnv | None,
    eval_envs: ToolVectorEnv | None,
    rewards: RewardSum | None,
) -> Run:
    """Check, load, and go back to the last checkpoint where that is asked for.

    Args:
        config: Settings.
        model: A policy to train instead of the one that the settings name, with its tokenizer.
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
    # Environments come first: they are quick to make, and where most settings that do not fit show.
    policy = played_as(config.model if model is None else getattr(model, "name_or_path", ""))
    owned = []
    if envs is None:
        envs = run_envs(config, config.num_envs, policy)
        owned.append(envs)
    if eval_envs is None and config.eval_every:
        eval_envs = run_envs(config, min(config.num_envs, config.eval_episodes), policy, _eval_changes(config))
        owned.append(eval_envs)
        check_held_out(envs, eval_envs)
    if model is None:
        model, tokenizer = load_model(config.model, device=str(ranks.device), precision=config.precision)
    # Without dropout: the ratio must be 1 before the first step.
    model.eval()
    reference = copy.deepcopy(model).requires_grad_(False) if config.kl_coef and not config.lora_rank else None
    if config.lora_rank:
        model = add_lora(model, config.lora_rank, config.lora_alpha, seed=config.seed)
    critic = Critic(model) if isinstance(config, PPOConfig) else None
    if config.gradient_checkpointing:
        for module in (model, critic and critic.decoder):
            if module is not None:
                enable_gradient_checkpointing(module)
    sampled = copy.deepcopy(model).requires_grad_(False) if config.overlap and config.sampler == "hf" else model
    held, done = HeldWeights(), 0
    if checkpoint is not None:
        parts: dict[str, Stateful] = {} if critic is None else {"critic": critic}
        parts |= {"sampler": held} if config.overlap else {}
        done = load_checkpoint(checkpoint, model=model, parts=parts)["update"]
    max_tokens = config.max_tokens or room_for_history(model, config.max_new_tokens)
    for module in (model, reference, critic):
        if module is not None:
            shard(module, ranks)
    optimizers = _optimizers(config, model, critic)
    if checkpoint is not None:
        load_checkpoint(checkpoint, parts=optimizers)
    format = envs.envs[0].format
    params = SamplingParams(config.max_new_tokens, config.temperature, tuple(format.stop))
    sampler = make_sampler(
        config.sampler, sampled, tokenizer, params, version=done, urls=config.sampler_urls,
        options=config.sampler_kwargs,
    )  # fmt: skip
    if config.overlap:
        with held.put_into(model) if checkpoint is not None else nullcontext():
            sampler.sync(model, max(held.version, 0))
    return Run(
        config, ranks, model, tokenizer, reference, optimizers["optimizer"], critic,
        optimizers.get("critic_optimizer"), envs, eval_envs, rewards,
        encoder=ConversationEncoder(tokenizer, format),
        sampler=sampler,
        max_tokens=max_tokens,
        held=held,
        writer=_open_files(config, done) if ranks.main else None,
        tracker=open_trackers(
            config.trackers if ranks.main else (), config.output_dir, config.to_json(), resume=config.resume
        ),
        policy=policy,
        done=done,
        owned=owned,
    )  # fmt: skip


def _optimizers(config: TrainConfig, model: Any, critic: Critic | None) -> dict[str, torch.optim.Optimizer]:
    """The optimisers, by the names that a checkpoint has for them."""

    def adamw(module: torch.nn.Module, weight_decay: float) -> torch.optim.Optimizer:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=weight_decay)

    optimizers = {"optimizer": adamw(model, config.weight_decay)}
    return optimizers if critic is None else {**optimizers, "critic_optimizer": adamw(critic, 0.0)}


def _open_files(config: TrainConfig, done: int) -> MetricsWriter:
    """The run's files: what is in them stays, up to the update that the run goes on from."""
    writer = MetricsWriter(config.output_dir / "metrics.jsonl", resume_after=done if done else -1)
    keep_updates(config.output_dir / EPISODES_FILE, done)
    (config.output_dir / "config.json").write_text(json.dumps(config.to_json(), indent=1) + "\n", encoding="utf-8")
    return writer


def make_rewards(config: TrainConfig) -> RewardSum:
    """The rewards that the settings name.

    Raises:
        ConfigError: There is no such reward.
    """
    outcome = load_attribute(config.outcome)() if ":" in config.outcome else OutcomeFn(config.outcome)  # type: ignore[arg-type]
    process = make_terms(config.process)
    if OUTCOME in process:
        raise ConfigError(f"a process reward cannot be called {OUTCOME!r}; write NAME=MODULE:ATTRIBUTE")
    return RewardSum({OUTCOME: outcome, **process}, config.on_reward_error)


def run_envs(
    config: TrainConfig, num_envs: int, policy: str | None, changes: dict[str, Any] | None = None
) -> ToolVectorEnv:
    """The environments that the settings name.

    Args:
        config: Settings.
        num_envs: How many.
        policy: As for ``agents.environments.make_envs``.
        changes: Keyword arguments that go on top of ``env_kwargs``.

    Raises:
        ConfigError: There is no such environment, or it is no tool environment.
    """
    settings = {**config.env_kwargs, **(changes or {})}
    if config.format is not None:
        settings["format"] = config.format
    if config.max_turns is not None:
        settings["max_turns"] = config.max_turns
    if config.ray_actors:
        make = partial(make_envs, config.env_id, settings=settings, policy=policy)
        return RayToolVectorEnv(make, num_envs, num_actors=min(config.ray_actors, num_envs))
    return make_envs(config.env_id, num_envs, settings, policy)


def _eval_changes(config: TrainConfig) -> dict[str, Any]:
    """What differs in an evaluation: for bundled tasks the split, unless the settings say more."""
    bundled = has_bundled_tasks(config.env_id, {**config.env_kwargs, **config.eval_env_kwargs})
    return {**({"split": "validation"} if bundled else {}), **config.eval_env_kwargs}
