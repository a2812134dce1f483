"""Dynamic sampling: flat groups are replaced, by groups of other tasks, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peek import peek_envs, peek_model, peek_train

from agents.config import GRPOConfig
from agents.dynamic_sampling import task_seeds
from agents.grpo import train
from agents.records import read_scored_episodes
from rewards import OutcomeFn, RewardSum


def run(directory, rewards=None, **changes):
    config = GRPOConfig(
        **{
            "output_dir": directory, "num_updates": 1, "groups_per_update": 6, "group_size": 3, "max_new_tokens": 1,
            "estimator": "grpo", "micro_batch_episodes": 64, **changes,
        }
    )  # fmt: skip
    rewards = rewards or RewardSum({"outcome": OutcomeFn("em")})
    return peek_train(train, config, envs=peek_envs(18), eval_envs=None, rewards=rewards)


def groups_of(directory):
    """Whether each group that was played taught something, in the order of play."""
    groups: dict[int, list[float]] = {}
    for record in read_scored_episodes(directory / "episodes.jsonl"):
        groups.setdefault(record.episode.seed, []).append(max(map(abs, record.advantages)))
    return [max(group) > 0 for group in groups.values()]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_flat_groups_are_replaced_until_there_are_enough_or_the_rounds_are_over(tmp_path):
    once = run(tmp_path / "once").metrics[0]
    first = groups_of(tmp_path / "once")
    assert 0 < sum(first) < 6  # some of the first groups are flat
    assert once["groups/learned"] == 6  # and go into the loss all the same
    one = run(tmp_path / "one", dynamic_sampling=1).metrics[0]
    second = groups_of(tmp_path / "one")
    assert len(second) == 6 + (6 - sum(first))
    assert second[:6] == first
    assert one["groups/learned"] == sum(second)
    many = run(tmp_path / "many", dynamic_sampling=20).metrics[0]
    assert many["groups/learned"] == 6
    # What is logged is of all that was played, the flat ones too, or the success rate would be of hard tasks alone.
    assert many["episodes"] == 3 * len(groups_of(tmp_path / "many"))


def test_the_gradient_of_kept_groups_is_that_of_a_batch_of_them_alone(tmp_path):
    """Flat groups have no gradient; with a constant normaliser, dropping them changes the loss by their share alone."""
    result = run(tmp_path / "run", dynamic_sampling=20, normalizer="constant")
    assert result.metrics[0]["grad_norm"] > 0
    assert sum(groups_of(tmp_path / "run")) == 6


def test_where_every_group_is_flat_nothing_moves(tmp_path):
    class Flat:
        name = "outcome"

        def score(self, views):
            return [1.0 if view.final else None for view in views]

    result = run(tmp_path / "run", RewardSum({"outcome": Flat()}), dynamic_sampling=2)
    assert result.metrics[0]["episodes"] == 3 * 18
    for ours, fresh in zip(result.model.parameters(), peek_model().parameters(), strict=True):
        assert torch.equal(ours, fresh)


def test_each_round_has_tasks_of_its_own():
    config = GRPOConfig(groups_per_update=5, group_size=2)
    drawn = [task_seeds(config, 1), task_seeds(config, 1, 1), task_seeds(config, 1, 2), task_seeds(config, 2)]
    assert len(np.unique(drawn)) == 20
    assert task_seeds(config, 1, 1, groups=2) == task_seeds(config, 1, 1, groups=2)
    assert len(task_seeds(config, 1, 1, groups=2)) == 4
