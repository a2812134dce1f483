"""Settings of the training of a ToolRM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from rewards.options import check_choice
from toolenv.errors import ConfigError

Precision = Literal["float32", "bfloat16"]
Layout = Literal["auto", "shared", "pairs"]


@dataclass(frozen=True)
class ToolRMConfig:
    """Settings of a training.

    Attributes:
        lora_rank: Train LoRA of this rank and the head; 0: the weights themselves.
        lora_alpha: Scale of LoRA, over the rank; ``None``: twice the rank.
        upper_layers: The last so many layers alone are trained, extra ones included; ``None``: all.
        layers: The first so many layers of the model are kept; ``None``: all.
        extra_layers: New layers on top, which can compare what the model expected with what came.
        own_rate: Share of the learning rate at which the layers that the model had before are trained.
        surprise: Weight of a second loss, by which extra layers learn how likely the model found each token of an
            answer; with rows that share prompts.
        keep_lower: Run the layers below ``upper_layers`` once, and keep what they give in a file while training lasts,
            4 bytes for each token and number of a state. It pays where there are several epochs.
        centring: Weight of the square of the sum of a pair's rewards, which keeps rewards around 0.
        learning_rate: Peak learning rate of AdamW; it falls to 0 along a cosine.
        warmup_share: Share of the updates over which it rises from 0.
        weight_decay: Decoupled weight decay.
        max_grad_norm: Gradients are clipped to this norm.
        epochs: Passes over the pairs.
        batch_pairs: Pairs an update, about.
        micro_rows: Rows (pairs, in the layout of pairs) that run at once.
        max_length: A pair with a longer conversation, in tokens, is left out; ``None``: what the model takes.
        max_row_tokens: A row takes no further pair that would make it longer.
        layout: ``"shared"``: pairs of one prompt in one row, which holds it once; ``"pairs"``: two conversations a
            pair; ``"auto"``: shared, where one process trains a model whose layers keep plain keys and values, without
            ``gradient_checkpointing``, which keeps none.
        precision: What matrix products run in.
        held_out: Share of the tasks that are held out.
        eval_every: Updates between two looks at the held-out accuracy, each with a checkpoint; ``None``: a tenth of an
            epoch.
        patience: Looks without a better held-out accuracy, or as good a one and a lower loss, after which training
            stops.
        gradient_checkpointing: Make activations again in the backward pass instead of keeping them.
        seed: Draws the head, the matrices, the held-out tasks and the order.

    Raises:
        ConfigError: A value out of range.
    """

    lora_rank: int = 16
    lora_alpha: float | None = None
    upper_layers: int | None = None
    layers: int | None = None
    extra_layers: int = 0
    own_rate: float = 1.0
    surprise: float = 0.0
    keep_lower: bool = False
    centring: float = 0.01
    learning_rate: float = 2e-4
    warmup_share: float = 0.05
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    epochs: float = 1.0
    batch_pairs: int = 32
    micro_rows: int = 1
    max_length: int | None = None
    max_row_tokens: int = 1024
    layout: Layout = "auto"
    precision: Precision = "bfloat16"
    held_out: float = 0.05
    eval_every: int | None = None
    patience: int = 5
    gradient_checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("layout", self.layout, get_args(Layout))
        check_choice("precision", self.precision, get_args(Precision))
        for name in ("learning_rate", "epochs", "batch_pairs", "micro_rows", "max_row_tokens", "patience"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)!r}")
        for name in ("lora_rank", "centring", "surprise"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)!r}")
        if not 0 < self.own_rate <= 1:
            raise ConfigError(f"own_rate must be above 0 and at most 1, not {self.own_rate!r}")
        if self.keep_lower and self.upper_layers is None:
            raise ConfigError("keep_lower keeps what the layers below upper_layers give; give upper_layers")
        if self.surprise and not self.extra_layers:
            raise ConfigError("surprise is what extra layers learn: it goes with extra_layers of at least 1")
        if self.eval_every is not None and self.eval_every < 1:
            raise ConfigError(f"eval_every must be at least 1, not {self.eval_every!r}")
        if self.extra_layers and self.lora_rank:
            raise ConfigError("extra_layers are trained whole: they go with lora_rank 0, and upper_layers if you like")
