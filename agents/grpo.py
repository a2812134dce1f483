"""GRPO with credit for each turn: the reference trainer, in the order in which things happen.

seeds -> episodes -> rewards -> credit -> clipped loss -> metrics -> checkpoint, update after update. Run it as
``python -m agents.grpo``; ``--help`` is its manual. From Python, ``train`` takes a model, environments and rewards as
objects.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from agents.batch import pack, token_advantages
from agents.command_line import run_trainer
from agents.config import GRPOConfig
from agents.run import Metrics, open_run
from agents.session import Session, TrainResult
from agents.update import PolicyBatch, reference_logprobs, update_policy
from rewards import RewardSum
from toolenv.seeding import rng
from toolenv.vector import ToolVectorEnv


def train(
    config: GRPOConfig,
    *,
    model: Any = None,
    tokenizer: Any = None,
    envs: ToolVectorEnv | None = None,
    eval_envs: ToolVectorEnv | None = None,
    rewards: RewardSum | None = None,
    on_update: Callable[[Metrics], None] | None = None,
    quiet: bool = False,
) -> TrainResult:
    """Train a policy.

    Args:
        config: Settings. What is given as an object below overrides them.
        model: The policy, trained in place, with ``tokenizer``.
        tokenizer: Its tokenizer.
        envs: Where it plays, with ``autoreset_mode=DISABLED``.
        eval_envs: Where it is evaluated.
        rewards: What turns are worth; the term ``"outcome"`` is the outcome, the others are turn rewards.
        on_update: Called with the metrics of each update.
        quiet: Show no progress.

    Raises:
        ConfigError: Settings or objects that do not fit together, or an output directory that holds another run.
        InfrastructureError: Every episode of an update was lost.
        RewardError: A reward failed.
    """
    estimator = config.make_estimator()
    run = open_run(config, model, tokenizer, envs, eval_envs, rewards)
    with Session(run, on_update, quiet) as session:
        for update in session.updates():
            # Episodes: the task is a function of the seed, and a group is a repeated seed.
            played = session.play(update, task_seeds(config, update))

            # Rewards: every turn of every episode in one call a reward.
            scored = session.score(update, played)

            # Credit: what each turn earned, handed to the tokens that wrote it.
            advantages = estimator(scored.turns)
            tokens = pack(scored.rollouts, run.tokenizer.pad_token_id)
            by_token = token_advantages(advantages, tokens.turn_ids)

            with session.commit():
                # The clipped loss, in minibatches; then the sampler gets the new weights.
                with session.watch("update"):
                    batch = PolicyBatch(tokens, by_token, reference_logprobs(run, tokens))
                    learned = update_policy(run, batch, update)
                    run.sampler.sync(run.model, update)

                # Metrics, episodes, evaluation, checkpoint.
                session.finish(update, played, scored, advantages, learned)
    return session.result()


def task_seeds(config: GRPOConfig, update: int) -> list[int]:
    """Seeds of an update's episodes: one a group, repeated ``group_size`` times.

    Example:
        >>> seeds = task_seeds(GRPOConfig(groups_per_update=2, group_size=3), update=1)
        >>> len(seeds), len(set(seeds)), seeds[0] == seeds[2]
        (6, 2, True)
    """
    drawn = rng(config.seed, "tasks", update).integers(2**31, size=config.groups_per_update)
    return [int(seed) for seed in np.repeat(drawn, config.group_size)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train from the command line; ``agents.command_line.run_trainer`` says what it returns."""
    return run_trainer(GRPOConfig, train, arguments, prog="python -m agents.grpo")


if __name__ == "__main__":
    sys.exit(main())
