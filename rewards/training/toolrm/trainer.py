"""TRL's ``RewardTrainer`` over rows that hold a prompt once: the same loss on the same pairs, for less work.

The prompts run first, and their keys and values are what the answers attend to, beside themselves; the head is read at
each answer's last token. So a reward is what it is where the answer stands alone behind its prompt, and gradients flow
into the prompt from all its answers. TRL's own layout, two whole conversations a pair, is there for what cannot do so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl.trainer.reward_trainer import DataCollatorForPreference, RewardTrainer

from rewards.training.heads import parts_of
from rewards.training.toolrm.rows import PreferenceRow
from rewards.training.toolrm.shared_rows import Batch, read_answers

BEST_BY = "accuracy_then_loss"
"""What the best weights are chosen by, and what has to rise for the training to go on."""


class PairCollator:
    """Makes a batch in TRL's own layout: chosen conversations, then rejected ones.

    Args:
        pad_token_id: Of the tokenizer.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._collate = DataCollatorForPreference(pad_token_id=pad_token_id)

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> Batch:
        """The batch, as TRL makes it."""
        batch: Batch = self._collate(list(pairs))
        return batch


def pair_records(rows: Sequence[PreferenceRow]) -> list[dict[str, Any]]:
    """Records of a data set in TRL's own layout."""
    return [{"chosen_ids": chosen, "rejected_ids": rejected} for row in rows for chosen, rejected in row.single()]


class PreferenceTrainer(RewardTrainer):
    """TRL's trainer, in either layout.

    Every pair of an update weighs the same, however many of them stand in one row; and the held-out accuracy is the
    share of pairs that are ordered rightly, however they fall into batches.

    Args:
        surprise: Weight of the loss of ``model.surprise``, in training.
        slow: ``id`` of each parameter that learns at ``own_rate`` of the rate of the others.
        own_rate: See ``slow``.
        upper: The trained layers alone, which batches with lower states run; ``None``: the whole backbone.
        kwargs: TRL's.
    """

    loss_is_scaled_for_ga = True
    model: Any

    def __init__(
        self,
        *,
        surprise: float = 0.0,
        slow: Collection[int] = (),
        own_rate: float = 1.0,
        upper: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.surprise, self.slow, self.own_rate, self.upper = surprise, slow, own_rate, upper

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's optimizer, with the slow parameters in groups of their own."""
        optimizer = super().create_optimizer(*args, **kwargs)
        for group in list(optimizer.param_groups) if self.own_rate != 1.0 else ():
            slow = [p for p in group["params"] if id(p) in self.slow]
            group["params"] = [p for p in group["params"] if id(p) not in self.slow]
            optimizer.add_param_group({**group, "params": slow, "lr": group["lr"] * self.own_rate})
        return optimizer

    @property
    def trained_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        """The batches of an update, and how many pairs they hold."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, sum(map(count_pairs, batches))

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None
    ) -> Any:
        """TRL's loss: the mean over the pairs of a batch; in training, this batch's part of the update's mean."""
        pairs = count_pairs(inputs)
        if "preferred" in inputs:
            # TRL asks the model for the rewards of chosen and rejected answers, and hears those of the shared rows.
            told = bool(self.surprise) and self.model.training
            rows = SharedRows(model, self.accelerator, upper=self.upper, told=told)
            loss, outputs = self._trl_loss(rows, inputs)
            loss = loss + self.surprise * rows.surprise
        else:
            loss, outputs = self._trl_loss(model, inputs)
        if num_items_in_batch is not None:
            loss = loss * (pairs / num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Held-out loss and accuracy, over pairs."""
        was_training = self.model.training
        self.model.eval()
        sums = torch.zeros(3)
        for inputs in self.get_eval_dataloader(eval_dataset):
            with torch.no_grad():
                batch = self._prepare_inputs(inputs)
                loss, outputs = self.compute_loss(self.model, dict(batch), return_outputs=True)
            chosen, rejected = outputs.logits.float().squeeze(-1).chunk(2)
            pairs = len(chosen)
            sums += torch.tensor([float(loss) * pairs, float((chosen > rejected).sum()), pairs])
        total = self.accelerator.reduce(sums.to(self.args.device), "sum").tolist()
        self.model.train(was_training)
        self._metrics["eval"].clear()
        metrics = {
            f"{metric_key_prefix}_loss": total[0] / total[2],
            f"{metric_key_prefix}_accuracy": total[1] / total[2],
        }
        metrics[f"{metric_key_prefix}_{BEST_BY}"] = better_by(total[1] / total[2], total[0] / total[2])
        # Past TRL's log, which would add its means over batches.
        super(RewardTrainer, self).log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _trl_loss(self, model: Any, inputs: Batch) -> tuple[Tensor, Any]:
        found: tuple[Tensor, Any] = super().compute_loss(model, inputs, return_outputs=True)  # type: ignore[no-untyped-call]
        return found


class SharedRows:
    """A model that reads shared rows, as TRL calls a model: rewards of the chosen, then of the rejected.

    Args:
        model: The classifier.
        accelerator: Of the trainer.
        upper: As for ``PreferenceTrainer``.
        told: Whether ``surprise`` is asked for; else it is 0.
    """

    def __init__(self, model: Any, accelerator: Any, *, upper: Any = None, told: bool = False) -> None:
        self.model, self.accelerator, self.upper, self.told = model, accelerator, upper, told
        self.surprise: Tensor | float = 0.0

    def __call__(
        self, *, preferred: Tensor, attention_mask: Tensor, use_cache: bool, **inputs: Tensor
    ) -> SimpleNamespace:
        """Rewards as logits, of a batch that ``SharedPromptCollator`` made."""
        # accelerate has wrapped the forward pass of the whole model; this one is of its backbone.
        backbone, head = parts_of(self.model)
        inputs |= {"backbone": self.upper or backbone, "head": head}
        with self.accelerator.autocast():
            if self.told:
                with self.model.surprise.watching():
                    rewards, hidden = read_answers(**inputs)
                self.surprise = self.model.surprise.loss(hidden, inputs["answers"], inputs["answer_lengths"])
            else:
                rewards, _ = read_answers(**inputs)
        return SimpleNamespace(logits=torch.cat([rewards[preferred[:, 0]], rewards[preferred[:, 1]]])[:, None])


def better_by(accuracy: float, loss: float) -> float:
    """Grows with the accuracy, and among equal ones falls with the loss: few pairs have few accuracies.

    Example:
        >>> better_by(0.9, 2.0) < better_by(0.9, 1.0) < better_by(0.901, 5.0)
        True
    """
    return accuracy - 1e-4 * loss / (1 + loss)


def count_pairs(batch: Mapping[str, Tensor]) -> int:
    """Pairs in a batch of either layout."""
    return len(batch["preferred"]) if "preferred" in batch else len(batch["input_ids"]) // 2
