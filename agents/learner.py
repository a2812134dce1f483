"""What is trained: the policy, its reference, a critic, and their optimisers; made, picked up again and spread."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agents.checkpoint import Stateful, load_checkpoint
from agents.config import PPOConfig, TrainConfig
from agents.critic import Critic
from agents.distributed import Ranks
from agents.lora import add_lora
from agents.overlap import HeldWeights
from agents.recompute import enable_gradient_checkpointing
from agents.sharding import shard


@dataclass(frozen=True, slots=True)
class Learner:
    """What is trained, and what training compares it with; ``make_learner`` makes it.

    Attributes:
        model: The policy.
        reference: The policy as it was before the first update; ``None`` where no penalty needs it, or where it is the
            policy without its LoRA.
        optimizer: Trains the policy.
        critic: Says what a state is worth; ``None`` without one.
        critic_optimizer: Trains the critic.
        held: With overlap, the weights that the sampler has.
        done: How many updates are done.
    """

    model: Any
    reference: Any
    optimizer: torch.optim.Optimizer
    critic: Critic | None
    critic_optimizer: torch.optim.Optimizer | None
    held: HeldWeights
    done: int


def make_learner(config: TrainConfig, model: Any, ranks: Ranks, checkpoint: Path | None) -> Learner:
    """Make what is trained out of a policy, go back to a checkpoint, and spread it over the ranks.

    Args:
        config: Settings.
        model: The policy as it is before the first update; it is changed in place.
        ranks: Who trains it.
        checkpoint: Where to go on from; ``None``: from the beginning.

    Raises:
        ConfigError: A model that cannot be trained so.
        DataError: The checkpoint lacks a part.
    """
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
    held, done = HeldWeights(), 0
    if checkpoint is not None:  # weights before they are spread, optimisers after it
        parts: dict[str, Stateful] = {} if critic is None else {"critic": critic}
        parts |= {"sampler": held} if config.overlap else {}
        done = load_checkpoint(checkpoint, model=model, parts=parts)["update"]
    for module in (model, reference, critic):
        if module is not None:
            shard(module, ranks)
    optimizers = _optimizers(config, model, critic)
    if checkpoint is not None:
        load_checkpoint(checkpoint, parts=optimizers)
    return Learner(
        model, reference, optimizers["optimizer"], critic, optimizers.get("critic_optimizer"), held, done
    )  # fmt: skip


def _optimizers(config: TrainConfig, model: Any, critic: Critic | None) -> dict[str, torch.optim.Optimizer]:
    """The optimisers, by the names that a checkpoint has for them."""

    def adamw(module: torch.nn.Module, weight_decay: float) -> torch.optim.Optimizer:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=weight_decay)

    optimizers = {"optimizer": adamw(model, config.weight_decay)}
    return optimizers if critic is None else {**optimizers, "critic_optimizer": adamw(critic, 0.0)}
