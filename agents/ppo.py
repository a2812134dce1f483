"""PPO with credit for each turn: the reference trainer with a critic, in the order in which things happen.

seeds -> episodes -> rewards -> values -> credit -> clipped losses -> metrics -> checkpoint, update after update. Run it
as ``python -m agents.ppo``; ``--help`` is its manual. From Python, ``train`` takes a model, environments and rewards as
objects.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from agents.batch import pack
from agents.command_line import run_trainer
from agents.config import PPOConfig
from agents.credit import assign_credit, place_rewards, whitened
from agents.overlong import bootstrap_values, kept_tokens
from agents.run import Metrics, open_run
from agents.session import Session, TrainResult
from agents.update import (
    PolicyBatch,
    ValueBatch,
    batch_values,
    reference_logprobs,
    update_critic,
    update_policy,
)
from rewards import RewardSum
from toolenv.seeding import rng
from toolenv.vector import ToolVectorEnv


def train(
    config: PPOConfig,
    *,
    model: Any = None,
    tokenizer: Any = None,
    envs: ToolVectorEnv | None = None,
    eval_envs: ToolVectorEnv | None = None,
    rewards: RewardSum | None = None,
    on_update: Callable[[Metrics], None] | None = None,
    quiet: bool = False,
) -> TrainResult:
    """Train a policy and its critic.

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
    run = open_run(config, model, tokenizer, envs, eval_envs, rewards)
    with Session(run, partial(task_seeds, config), on_update, quiet) as session:
        for update in session.updates():
            # Episodes: each of a task of its own; the critic is what they are compared with.
            played = session.play(update)

            # Rewards: every turn of every episode in one call a reward.
            scored = session.score(update, played)

            with session.watch("update"):
                # Values: of the state before each action token, and of the state in which an episode was left.
                tokens = pack(scored.rollouts, run.tokenizer.pad_token_id, keep_tail=True)
                values, last = batch_values(run, tokens)
                bootstrap = bootstrap_values(scored.rollouts, last.double().numpy(), config.overlong)

                # Credit: rewards at the tokens that they are due at, then an estimator over tokens or turns.
                ref_logprobs = reference_logprobs(run, tokens)
                rewards_by_token = place_rewards(config, scored.charged, tokens, ref_logprobs)
                credit = assign_credit(config, tokens, rewards_by_token, values, bootstrap)

            with session.commit():
                # With overlap, the next episodes begin now, from the weights that are still these.
                session.look_ahead(update, scored.rollouts)

                # The clipped losses, in minibatches; then the sampler gets the new weights.
                with session.watch("update"):
                    learned = update_critic(run, ValueBatch(tokens, values, credit.returns, credit.value_mask), update)
                    if update > config.critic_warmup:
                        kept = kept_tokens(tokens, scored.keep)
                        advantages = credit.advantages.masked_fill(~kept.action_mask, 0.0)
                        if config.whiten:
                            advantages = whitened(advantages, kept.action_mask)
                        learned |= update_policy(run, PolicyBatch(kept, advantages, ref_logprobs), update)
                session.sync(update, scored.rollouts)

                # Metrics, episodes, evaluation, checkpoint.
                session.finish(update, played, scored, credit.by_turn, learned)
    return session.result()


def task_seeds(config: PPOConfig, update: int) -> list[int]:
    """Seeds of an update's episodes, each its own task's.

    Example:
        >>> len(set(task_seeds(PPOConfig(episodes_per_update=4), update=1)))
        4
    """
    drawn = rng(config.seed, "tasks", update).integers(2**31, size=config.episodes_per_update)
    return [int(seed) for seed in drawn]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train from the command line; ``agents.command_line.run_trainer`` says what it returns."""
    return run_trainer(PPOConfig, train, arguments, prog="python -m agents.ppo")


if __name__ == "__main__":
    sys.exit(main())
