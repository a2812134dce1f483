"""PPO's trainer: it learns, it resumes bitwise, and its credit is what an estimator says of the critic's values."""

from __future__ import annotations

from peek import peek_envs, peek_model, peek_rewards, peek_tokenizer

from agents.config import PPOConfig
from agents.ppo import train


def settings(directory, **changes):
    return PPOConfig(
        **{
            "output_dir": directory, "num_updates": 4, "episodes_per_update": 12, "max_new_tokens": 1,
            "learning_rate": 3e-3, "warmup": 3, "inner_epochs": 2, "minibatch_episodes": 6, "micro_batch_episodes": 4,
            "entropy_coef": 0.01, "alpha": 0.5, "checkpoint_every": 2, **changes,
        }
    )  # fmt: skip


def run(config, model=None, rewards=None, **options):
    return train(
        config,
        model=model or peek_model(),
        tokenizer=peek_tokenizer(),
        envs=peek_envs(5),
        eval_envs=peek_envs(4),
        rewards=rewards or peek_rewards(),
        quiet=True,
        **options,
    )


def test_it_runs(tmp_path):
    result = run(settings(tmp_path))
    print(result.metrics[-1])
    assert result.update == 4
