"""Warm start: supervised fine-tuning on episodes, an expert's or a policy's own.

Only the tokens of actions are learned. Training goes on until the loss on held-out episodes stops falling, and the
best weights are kept. ``fit`` does it; ``python -m agents.sft`` does it to stored episodes (``agents.warm_start``).
"""

from __future__ import annotations

import copy
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.batch import pack_histories
from agents.logprobs import predicting_states
from agents.tokens import ConversationEncoder, TokenHistory
from toolenv.episode import Episode
from toolenv.errors import ConfigError
from toolenv.seeding import rng

Transform = Callable[[Episode, int], Episode]
"""Changes an episode before it is encoded, given a seed: data augmentation."""


@dataclass(frozen=True)
class SFTConfig:
    """Settings of a warm start.

    Attributes:
        learning_rate: Peak learning rate of AdamW.
        batch_episodes: Episodes a batch.
        warmup_updates: Updates over which the learning rate rises from 0.
        max_updates: Most updates; the learning rate falls to a tenth by then, along a cosine.
        eval_every: Updates between two looks at the held-out loss.
        patience: Looks without a better held-out loss after which training stops: the plateau.
        min_improvement: What counts as better, in nats a token.
        weight_decay: Decoupled weight decay.
        max_grad_norm: Gradients are clipped to this norm.
        context_share: Share of the tokens that the policy did not write, drawn anew for each batch, that are learned
            as well; a few help a model that starts from nothing to learn to copy.
        bf16: Whether matrix products run in bfloat16.
        seed: Seed of the order of episodes and of the transform.
    """

    learning_rate: float = 1e-3
    batch_episodes: int = 32
    warmup_updates: int = 50
    max_updates: int = 2000
    eval_every: int = 100
    patience: int = 5
    min_improvement: float = 1e-3
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    context_share: float = 0.0
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "batch_episodes", "max_updates", "eval_every", "patience"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A look at the held-out loss.

    Attributes:
        update: After which update.
        train_loss: Mean loss since the last look, in nats an action token.
        validation_loss: Held-out loss, in nats an action token.
    """

    update: int
    train_loss: float
    validation_loss: float


def encode_episode(encoder: ConversationEncoder, episode: Episode) -> TokenHistory:
    """Tokens of an episode that text was written for: an expert's, say.

    What a policy sampled has its ids recorded, and is never encoded again.
    """
    history = TokenHistory()
    history.append_context(encoder.encode_prompt(episode.prompt))
    for turn in episode.turns:
        ids = encoder.encode_action(turn.action)
        history.append_action(ids, [0.0] * len(ids))
        if turn.observation:
            history.append_context(encoder.encode_observation(turn.observation, closed=encoder.is_closed(history)))
    return history


def fit(
    model: Any,
    encoder: ConversationEncoder,
    train: Sequence[Episode],
    validation: Sequence[Episode],
    config: SFTConfig,
    *,
    transform: Transform | None = None,
    progress: Callable[[Evaluation], None] | None = None,
    checkpoint: Path | None = None,
) -> list[Evaluation]:
    """Train in place until the plateau; leave the best weights in the model.

    Args:
        model: A transformers causal language model, also under PEFT: what requires a gradient is trained.
        encoder: Makes the tokens.
        train: Episodes to learn.
        validation: Held-out episodes; they are never transformed.
        config: Settings.
        transform: Applied anew each time an episode comes up.
        progress: Called after each look at the held-out loss.
        checkpoint: A file that is written after each look; where it exists, training goes on from it, to the same end.

    Returns:
        One entry a look.
    """
    held_out = [encode_episode(encoder, episode) for episode in validation]
    pad_id = encoder.tokenizer.pad_token_id
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: _rate(update, config))
    generator = torch.Generator().manual_seed(config.seed)
    parts = {"optimizer": optimizer, "schedule": schedule}
    looks = _Looks(best_weights=copy.deepcopy(_trained(model)))
    if checkpoint is not None and checkpoint.exists():
        looks = _restore(checkpoint, model, parts, generator)
    batches = itertools.islice(_batches(encoder, train, config, transform), looks.update, None)
    while not looks.over(config):
        model.train()
        looks.losses.append(_update(model, next(batches), optimizer, config, pad_id, generator))
        schedule.step()
        looks.update += 1
        if looks.update % config.eval_every and looks.update != config.max_updates:
            continue
        looks.take(action_loss(model, held_out, config, pad_id), model, config)
        if checkpoint is not None:
            _keep(checkpoint, model, parts, generator, looks)
        if progress is not None:
            progress(looks.evaluations[-1])
    model.load_state_dict(looks.best_weights, strict=False)
    return looks.evaluations


def _trained(model: Any) -> dict[str, Tensor]:
    """The weights that are trained: of a model under LoRA a small part, and all that is worth keeping."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


@dataclass(slots=True)
class _Looks:
    """What the looks at the held-out loss have shown so far."""

    best_weights: dict[str, Tensor]
    best: float = math.inf
    since: int = 0
    update: int = 0
    losses: list[float] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)

    def take(self, loss: float, model: Any, config: SFTConfig) -> None:
        self.evaluations.append(Evaluation(self.update, sum(self.losses) / len(self.losses), loss))
        self.losses = []
        self.since = 0 if loss < self.best - config.min_improvement else self.since + 1
        if loss < self.best:
            self.best, self.best_weights = loss, copy.deepcopy(_trained(model))

    def over(self, config: SFTConfig) -> bool:
        return self.update >= config.max_updates or self.since >= config.patience


def _keep(path: Path, model: Any, parts: Mapping[str, Any], generator: torch.Generator, looks: _Looks) -> None:
    state = {"model": _trained(model), **{name: part.state_dict() for name, part in parts.items()}}
    evaluations = [asdict(look) for look in looks.evaluations]
    aside = path.with_name(path.name + ".partial")
    torch.save({**state, "generator": generator.get_state(), **asdict(looks), "evaluations": evaluations}, aside)
    aside.replace(path)


def _restore(path: Path, model: Any, parts: Mapping[str, Any], generator: torch.Generator) -> _Looks:
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"], strict=False)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    generator.set_state(state["generator"])
    evaluations = [Evaluation(**look) for look in state["evaluations"]]
    return _Looks(state["best_weights"], state["best"], state["since"], state["update"], evaluations=evaluations)


def action_loss(model: Any, histories: Sequence[TokenHistory], config: SFTConfig, pad_id: int | None) -> float:
    """Mean negative log-likelihood of action tokens, in nats."""
    model.eval()
    total, count = 0.0, 0
    ordered = sorted(histories, key=len)
    with torch.inference_mode():
        for start in range(0, len(ordered), config.batch_episodes):
            losses, _ = _token_losses(model, ordered[start : start + config.batch_episodes], config, pad_id)
            total += float(losses.sum())
            count += len(losses)
    return total / max(count, 1)


def _update(
    model: Any,
    batch: Sequence[TokenHistory],
    optimizer: torch.optim.Optimizer,
    config: SFTConfig,
    pad_id: int | None,
    generator: torch.Generator,
) -> float:
    losses, is_action = _token_losses(model, batch, config, pad_id, generator)
    optimizer.zero_grad(set_to_none=True)
    losses.mean().backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    return float(losses.detach()[is_action].mean())


def _token_losses(
    model: Any,
    batch: Sequence[TokenHistory],
    config: SFTConfig,
    pad_id: int | None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Losses ``(N,)`` of the tokens that count, and which of them are an action's.

    The output head sees only these tokens. With a generator, some of the context counts too.
    """
    tokens = pack_histories(batch, pad_id)
    chosen = tokens.action_mask.clone()
    if generator is not None and config.context_share:
        drawn = torch.rand(chosen.shape, generator=generator) < config.context_share
        chosen |= tokens.attention_mask.bool() & drawn
    chosen[:, 0] = False  # nothing predicts the first token
    device = next(model.parameters()).device
    is_action, labels = tokens.action_mask[chosen].to(device), tokens.input_ids[chosen].to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
        states = predicting_states(model, tokens.to(device), chosen.roll(-1, dims=1).to(device))
        logits = model.get_output_embeddings()(states)
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none"), is_action


def _rate(update: int, config: SFTConfig) -> float:
    if update < config.warmup_updates:
        return (update + 1) / config.warmup_updates
    done = (update - config.warmup_updates) / max(1, config.max_updates - config.warmup_updates)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done)))


def _batches(
    encoder: ConversationEncoder, episodes: Sequence[Episode], config: SFTConfig, transform: Transform | None
) -> Iterator[list[TokenHistory]]:
    """Endless batches: each epoch in a new order, cut into runs of similar length to save padding."""
    epoch = 0
    size = config.batch_episodes
    while True:
        generator = rng(config.seed, "sft", epoch)
        order = generator.permutation(len(episodes))
        for start in range(0, len(order), size * 8):
            chunk = []
            for index in order[start : start + size * 8]:
                episode = episodes[index]
                if transform is not None:
                    episode = transform(episode, int(generator.integers(2**62)))
                chunk.append(encode_episode(encoder, episode))
            chunk.sort(key=len)
            runs = [chunk[i : i + size] for i in range(0, len(chunk), size)]
            for run in generator.permutation(len(runs)):
                yield runs[run]
        epoch += 1


if __name__ == "__main__":
    from agents.warm_start import main

    sys.exit(main())
