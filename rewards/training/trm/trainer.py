"""The training loop of reward models that are read at chosen places of a row: transformers' Trainer, with our loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from rewards.mapping import sigmoid
from rewards.training.trm.metrics import auc, binary_cross_entropy
from rewards.training.trm.rows import Example
from toolenv.seeding import rng

UNREAD = -100.0
"""Target where there is none: rows have as many reads as the longest of the batch."""
BATCHES_A_CHUNK = 16
"""Batches that are cut from one chunk of the shuffled rows, sorted by length to save padding."""


def trajectory_loss(scores: Tensor, targets: Tensor, episodes: Tensor | float) -> Tensor:
    """Binary cross-entropy: the mean over the labelled calls of each trajectory, then over trajectories.

    So a long trajectory counts as much as a short one.

    Args:
        scores: What the head says, before the sigmoid, ``(B, R)``.
        targets: In [0, 1], ``(B, R)``; ``UNREAD`` where there is no label, and at least one label a row.
        episodes: By how many trajectories to divide: all that make one update, of which these may be a part.

    Returns:
        The loss in nats, a scalar.

    Source:
        TRM (ICLR 2026): L = E_trajectory[ -(1/n) sum_i ( s_i log p_i + (1 - s_i) log(1 - p_i) ) ].

    Example:
        >>> trajectory_loss(torch.zeros(1, 2), torch.tensor([[1.0, UNREAD]]), 1)
        tensor(0.6931)
    """
    known = targets != UNREAD
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        scores.float(), torch.where(known, targets, 0.0), reduction="none"
    )
    return ((losses * known).sum(dim=1) / known.sum(dim=1)).sum() / episodes


class Rows(Dataset[Example]):
    """Examples, as torch wants them."""

    def __init__(self, rows: Sequence[Example]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.rows[index]


class SimilarLengths(Sampler[int]):
    """An order of rows, drawn anew each epoch, in which the rows of a batch are about as long as one another.

    The epoch and the seed name the order, so that whoever resumes finds it again.
    """

    def __init__(self, rows: Sequence[Example], batch_size: int, seed: int) -> None:
        self.lengths = [len(row.ids) for row in rows]
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        draws = rng(self.seed, "order", self.epoch)
        order = draws.permutation(len(self.lengths))
        size, chunk = self.batch_size, self.batch_size * BATCHES_A_CHUNK
        sorted_order: list[int] = []
        for start in range(0, len(order), chunk):
            sorted_order += sorted((int(i) for i in order[start : start + chunk]), key=lambda i: self.lengths[i])
        batches = [sorted_order[start : start + size] for start in range(0, len(sorted_order), size)]
        # A batch that is not full ends the epoch.
        full = len(batches) - (len(batches[-1]) < size)
        for place in [*draws.permutation(full), *range(full, len(batches))]:
            yield from batches[place]


class ClassifierTrainer(transformers.Trainer):
    """Trains a token or sequence classifier with one label on examples, with ``trajectory_loss``.

    Args:
        model: The classifier, also in PEFT's hands.
        pad_token_id: Of the tokenizer.
        train: Examples to learn.
        held_out: Examples for the looks.
        order_seed: Names the order of the rows.
        arguments: Of transformers' Trainer; ``per_device_train_batch_size`` counts episodes.
        callbacks: As there.
    """

    # The loss is a mean over the episodes of an update, in however many parts they come.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any,
        pad_token_id: int,
        train: Sequence[Example],
        held_out: Sequence[Example],
        order_seed: int,
        arguments: transformers.TrainingArguments,
        callbacks: Iterable[transformers.TrainerCallback] = (),
    ) -> None:
        self.pad_token_id = pad_token_id
        self.train_rows = train
        self.order_seed = order_seed
        super().__init__(
            model,
            arguments,
            data_collator=self.collate,
            train_dataset=Rows(train),
            eval_dataset=Rows(sorted(held_out, key=lambda row: len(row.ids))),
            compute_metrics=look_metrics,
            callbacks=list(callbacks),
        )
        self.remove_callback(transformers.PrinterCallback)

    def collate(self, rows: Sequence[Example]) -> dict[str, Tensor]:
        """Padded tensors of a batch: ids and mask ``(B, L)``, reads and targets ``(B, R)``."""
        length, reads = max(len(row.ids) for row in rows), max(len(row.reads) for row in rows)
        return {
            "input_ids": torch.tensor([[*r.ids, *[self.pad_token_id] * (length - len(r.ids))] for r in rows]),
            "attention_mask": torch.tensor([[1] * len(r.ids) + [0] * (length - len(r.ids)) for r in rows]),
            "reads": torch.tensor([[*r.reads, *[0] * (reads - len(r.reads))] for r in rows]),
            "targets": torch.tensor([[*r.targets, *[UNREAD] * (reads - len(r.targets))] for r in rows]),
        }

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SimilarLengths(self.train_rows, self.args.per_device_train_batch_size, self.order_seed)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The parts of an update, and how many episodes they hold."""
        parts, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        episodes = torch.tensor(float(sum(len(part["targets"]) for part in parts)), device=device)
        # Gradients are averaged over the processes, so each divides by its even share.
        return parts, self.accelerator.gather(episodes).sum() / self.args.world_size

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss, and with ``return_outputs`` what the head says, ``(B, R)``."""
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        # A token classifier says something everywhere, a sequence classifier at the last token alone.
        scores = logits.squeeze(-1).gather(1, inputs["reads"]) if logits.ndim == 3 else logits
        episodes = len(scores) if num_items_in_batch is None else num_items_in_batch
        loss = trajectory_loss(scores, inputs["targets"], episodes)
        return (loss, scores) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Loss, scores and targets of a batch of held-out rows."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, scores = self.compute_loss(model, inputs, return_outputs=True)
        return loss.detach(), scores.detach().float(), inputs["targets"]


def look_metrics(seen: transformers.EvalPrediction) -> dict[str, float]:
    """What a look at the held-out rows shows: AUC over all calls, and the loss as it is trained."""
    targets, scores = np.asarray(seen.label_ids), np.asarray(seen.predictions)
    known = targets != UNREAD
    probabilities = sigmoid(scores)
    good = targets[known] >= 0.5
    by_row = [
        binary_cross_entropy(row[mask], target[mask])
        for row, target, mask in zip(probabilities, targets, known, strict=True)
    ]
    return {
        "auc": auc(scores[known], good),
        "bce": float(np.mean(by_row)),
        "accuracy": float(np.mean((probabilities[known] >= 0.5) == good)),
    }
