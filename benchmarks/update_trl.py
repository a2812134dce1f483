"""The other side of ``benchmarks.bench_update``: a step of TRL's ``GRPOTrainer``, on a prepared batch."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from agents.batch import TokenTensors
from benchmarks.bench_update import LEARNING_RATE
from benchmarks.update_measure import Meter, read_arguments


def trl_inputs(tokens: TokenTensors, advantages: torch.Tensor, pad_id: int) -> dict[str, torch.Tensor]:
    """What ``GRPOTrainer`` computes its loss from: prompts padded on the left, completions on the right.

    A completion starts with the first sampled token; ``tool_mask`` is 0 where the environment wrote.
    """
    starts = tokens.action_mask.int().argmax(dim=1).tolist()
    ends = tokens.attention_mask.sum(dim=1).tolist()
    count = len(starts)
    prompts, completions = max(starts), max(end - start for start, end in zip(starts, ends, strict=True))
    inputs = {
        "prompt_ids": torch.full((count, prompts), pad_id),
        "prompt_mask": torch.zeros((count, prompts), dtype=torch.int64),
        "completion_ids": torch.full((count, completions), pad_id),
        "completion_mask": torch.zeros((count, completions), dtype=torch.int64),
        "tool_mask": torch.zeros((count, completions), dtype=torch.int64),
        "advantages": torch.zeros((count, completions)),
    }
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        inputs["prompt_ids"][row, prompts - start :] = tokens.input_ids[row, :start]
        inputs["prompt_mask"][row, prompts - start :] = 1
        inputs["completion_ids"][row, : end - start] = tokens.input_ids[row, start:end]
        inputs["completion_mask"][row, : end - start] = 1
        inputs["tool_mask"][row, : end - start] = tokens.action_mask[row, start:end].long()
        inputs["advantages"][row, : end - start] = advantages[row, start:end]
    inputs["num_items_in_batch"] = inputs["tool_mask"].sum()
    return inputs


class PreparedTrainer(trl.GRPOTrainer):
    """TRL's trainer, with completions that are there already, and an ear for the loss."""

    prepared: dict[str, torch.Tensor]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, torch.Tensor]:
        self.losses: list[float] = []
        return {name: tensor.to(self.accelerator.device) for name, tensor in self.prepared.items()}

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        loss: torch.Tensor = super()._compute_loss(model, inputs)
        self.losses.append(float(loss.detach()))
        return loss


class Clock(TrainerCallback):
    """Tells the meter where a step begins and ends; the log knows the norm of the gradient."""

    meter: Meter
    trainer: PreparedTrainer

    def __init__(self) -> None:
        self.loss: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimiser is there."""
        if not self.meter.arguments.autocast:  # the gradient is compared of sides with one precision
            self.meter.watch(kwargs["optimizer"].optimizer)  # without what accelerate puts around it

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An update begins."""
        self.meter.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """It is done."""
        self.meter.stop()
        self.loss.append(sum(self.trainer.losses))


def main() -> None:
    """Measure."""
    arguments, tokens, advantages = read_arguments()
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
    model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=getattr(torch, arguments.precision))
    rows = len(tokens.input_ids)
    with tempfile.TemporaryDirectory() as folder:
        config = trl.GRPOConfig(
            output_dir=folder,
            use_cpu=arguments.device == "cpu",
            bf16=arguments.autocast,
            gradient_checkpointing=arguments.checkpointing,
            per_device_train_batch_size=arguments.micro_batch,
            gradient_accumulation_steps=rows // arguments.micro_batch,
            num_generations=2,
            max_completion_length=int(tokens.attention_mask.shape[1]),
            max_steps=arguments.timed + 1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        clock = Clock()
        trainer = PreparedTrainer(
            model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": "?"}] * rows),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.prepared = trl_inputs(tokens, advantages, tokenizer.pad_token_id)
        clock.trainer, clock.meter = trainer, Meter("trl", arguments, trainer.model)
        trainer.train()
        norm = next(line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line)
        clock.meter.report(loss=clock.loss[0], grad_norm=float(norm), version=f"trl {trl.__version__}")


if __name__ == "__main__":
    main()
