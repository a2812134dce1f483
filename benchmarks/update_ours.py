"""One side of ``benchmarks.bench_update``: an update as ``agents.grpo`` makes it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from agents.config import GRPOConfig
from agents.recompute import enable_gradient_checkpointing
from agents.run import open_run
from agents.update import PolicyBatch, batch_logprobs, update_policy
from benchmarks.bench_update import LEARNING_RATE
from benchmarks.update_measure import Meter, read_arguments
from toolenv import __version__


def main() -> None:
    """Measure."""
    arguments, tokens, advantages = read_arguments()
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            model=str(arguments.folder),
            device=arguments.device,
            precision=arguments.precision,
            output_dir=Path(folder),
            num_envs=1,
            env_kwargs={"retriever": "bm25"},
            learning_rate=LEARNING_RATE,
            micro_batch_episodes=arguments.micro_batch,
        )
        run = open_run(config, None, None, None, None, None)
        if arguments.checkpointing:
            enable_gradient_checkpointing(run.model)
        torch.manual_seed(0)
        meter = Meter("ours", arguments, run.model)
        meter.watch(run.optimizer)
        found = []
        for update in range(1, arguments.timed + 2):
            # On policy: TRL's ratio is 1 by construction, ours because the tokens are scored anew.
            played = replace(tokens, logprobs=batch_logprobs(run, run.model, tokens))
            meter.start()
            found.append(update_policy(run, PolicyBatch(played, advantages), update))
            meter.stop()
        meter.report(loss=found[0]["loss"], grad_norm=found[0]["grad_norm"], version=__version__)
        run.close()


if __name__ == "__main__":
    main()
