"""GRPO with credit for each turn: the reference trainer, in the order in which things happen.

seeds -> episodes -> rewards -> credit -> clipped loss -> metrics -> checkpoint, update after update. Run it as
``python -m agents.grpo``; ``--help`` is its manual. From Python, ``train`` takes a model, environments and rewards as
objects.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from agents.batch import pack, token_advantages
from agents.command_line import run_trainer
from agents.config import GRPOConfig
from agents.dynamic_sampling import informative, play_groups, task_seeds
from agents.overlong import kept_tokens
from agents.run import Metrics, open_run
from agents.session import Session, TrainResult
from agents.update import PolicyBatch, reference_logprobs, update_policy
from rewards import RewardSum
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
    with Session(run, partial(task_seeds, config), on_update, quiet) as session:
        for update in session.updates():
            # Episodes, a group a task; their rewards, every turn of every episode in one call a reward; and credit,
            # what each turn earned.
            played, scored, advantages = play_groups(session, config, estimator, update)

            # Tokens: each gets the advantage of the turn that wrote it. A group without any teaches nothing.
            rows = informative(scored, advantages) if config.dynamic_sampling else np.arange(len(advantages))
            tokens = pack([scored.rollouts[row] for row in rows], run.tokenizer.pad_token_id)
            tokens = kept_tokens(tokens, scored.keep[rows])
            by_token = token_advantages(advantages[rows], tokens.turn_ids)

            with session.commit():
                # With overlap, the next episodes begin now, from the weights that are still these.
                session.look_ahead(update, scored.rollouts)

                # The clipped loss, in minibatches; then the sampler gets the new weights.
                with session.watch("update"):
                    batch = PolicyBatch(tokens, by_token, reference_logprobs(run, tokens))
                    learned = update_policy(run, batch, update)
                    learned["groups/learned"] = len(set(scored.turns.groups[rows].tolist()))
                session.sync(update, scored.rollouts)

                # Metrics, episodes, evaluation, checkpoint.
                session.finish(update, played, scored, advantages, learned)
    return session.result()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train from the command line; ``agents.command_line.run_trainer`` says what it returns."""
    return run_trainer(GRPOConfig, train, arguments, prog="python -m agents.grpo")


if __name__ == "__main__":
    sys.exit(main())
