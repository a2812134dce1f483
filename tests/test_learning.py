"""Both trainers learn: a policy that knows nothing comes to ask the tool, and then to say what the tool said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from peek import peek_envs, peek_train

from agents import grpo, ppo
from agents.config import GRPOConfig, PPOConfig

SETTINGS = {
    "max_new_tokens": 1, "learning_rate": 3e-3, "alpha": 0.5, "checkpoint_every": 1000, "micro_batch_episodes": 64,
}  # fmt: skip
PPO = PPOConfig(num_updates=60, episodes_per_update=64, **SETTINGS)
LEARNERS = {
    "grpo": (grpo.train, GRPOConfig(num_updates=75, groups_per_update=8, **SETTINGS)),
    **{name: (ppo.train, replace(PPO, estimator=name)) for name in ("turn_aware_gae", "turn_gae", "token_gae")},
}


@pytest.mark.parametrize("name", LEARNERS)
def test_it_learns_to_ask_and_then_to_answer(tmp_path, name):
    torch.set_num_threads(1)
    train, config = LEARNERS[name]
    result = peek_train(train, replace(config, output_dir=tmp_path / "run"), envs=peek_envs(64), eval_envs=None)
    success = [line["success_rate"] for line in result.metrics]
    assert np.mean(success[:5]) < 0.4  # a guess
    assert np.mean(success[-5:]) > 0.8
    assert result.metrics[-1]["calls_per_episode"] > 0.8
    assert max(line["parity_max"] for line in result.metrics) < 1e-5
