"""Settings of a reward model's training on labelled episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from rewards.options import check_choice
from rewards.training.trm.rows import Label
from toolenv.errors import ConfigError

Level = Literal["call", "episode"]


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a reward model's training.

    Attributes:
        level: ``"call"``: a process model, which scores each call; ``"episode"``: one score a trajectory, for whether
            it succeeds.
        label: What a process model learns: ``"value"`` (the product, unless the labeller says otherwise),
            ``"necessity"`` or ``"quality"``.
        soft: Whether soft values are learned where there are any, such as shares of continuations that succeed.
        lora_rank: Rank of LoRA; 0: all weights are trained.
        extra_layers: New layers on top of the backbone: with them a small policy's model can compare what the policy
            would have done with what was done.
        learning_rate: Peak learning rate of AdamW; it rises over the first updates and then falls along a cosine.
        epochs: Most rounds through the data.
        batch_episodes: Episodes an update.
        accumulate: In how many parts an update's episodes run, to save memory; the gradient is the same.
        eval_every: Updates between two looks at the held-out AUC; ``None``: two looks an epoch.
        patience: Looks without a better AUC after which training stops. The best weights are kept.
        held_out: Share of the tasks that is held out for the looks, where no file for them is given.
        warmup: Share of the updates over which the learning rate rises.
        weight_decay: Decoupled weight decay.
        max_grad_norm: Gradients are clipped to this norm.
        dropout: Before the head, in training.
        max_length: Most tokens of a conversation; ``None``: what the model takes.
        bf16: Whether matrix products run in bfloat16.
        seed: Of the head, the split and the order.

    Raises:
        ConfigError: A value that makes no sense.

    Example:
        >>> TrainSettings(batch_episodes=32, accumulate=5)
        Traceback (most recent call last):
        toolenv.errors.ConfigError: batch_episodes must be a multiple of accumulate; 32 is none of 5
    """

    level: Level = "call"
    label: Label = "value"
    soft: bool = False
    lora_rank: int = 0
    extra_layers: int = 0
    learning_rate: float = 1e-5
    epochs: int = 4
    batch_episodes: int = 32
    accumulate: int = 1
    eval_every: int | None = None
    patience: int = 4
    held_out: float = 0.15
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    dropout: float = 0.0
    max_length: int | None = None
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("level", self.level, get_args(Level))
        check_choice("label", self.label, get_args(Label))
        for name in ("learning_rate", "epochs", "batch_episodes", "accumulate", "patience"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)!r}")
        if self.eval_every is not None and self.eval_every < 1:
            raise ConfigError(f"eval_every must be at least 1, not {self.eval_every!r}")
        if self.batch_episodes % self.accumulate:
            raise ConfigError(
                f"batch_episodes must be a multiple of accumulate; {self.batch_episodes} is none of {self.accumulate}"
            )
        for name in ("dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be from 0 to below 1, not {getattr(self, name)!r}")
        if self.extra_layers and self.lora_rank:
            raise ConfigError("extra_layers are trained whole: they go with lora_rank 0")
        if self.level == "episode" and (self.soft or self.label != "value"):
            raise ConfigError("a trajectory-level model learns whether episodes succeed: it takes no label and no soft")
