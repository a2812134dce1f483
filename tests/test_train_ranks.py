"""Both trainers under ``torchrun``: two processes train what one trains, and one goes on where two stopped."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peek import peek_envs, peek_model, peek_train
from ranks import two_ranks
from transformers import AutoModelForCausalLM

from agents import grpo, ppo
from agents.config import GRPOConfig, PPOConfig
from agents.metrics import read_metrics
from agents.records import read_scored_episodes
from rewards import RewardSum

SETTINGS = {
    "num_updates": 2, "max_new_tokens": 1, "learning_rate": 1e-3, "alpha": 0.5, "kl_coef": 0.1, "device": "cpu",
    "minibatch_episodes": 7, "micro_batch_episodes": 2, "eval_every": 2, "eval_episodes": 4, "checkpoint_every": 1,
}  # fmt: skip
TRAINERS = {
    "grpo": (grpo.train, GRPOConfig(groups_per_update=3, group_size=3, **SETTINGS)),
    "ppo": (ppo.train, PPOConfig(episodes_per_update=9, critic_learning_rate=1e-3, **SETTINGS)),
}


def run(name, directory, seed=0, **changes):
    train, config = TRAINERS[name]
    config = replace(config, output_dir=directory, **changes)
    return peek_train(train, config, model=peek_model(seed), envs=peek_envs(3), eval_envs=peek_envs(2))


class Fickle:
    """Pays every episode of an update's first round alike, and has no opinion on those of the rounds after it."""

    name = "outcome"
    update = scored = rounds = 0

    def score(self, views):
        opinion, self.scored = self.update > self.scored, self.update
        self.rounds += 1
        return [1.0 if opinion and view.final else None for view in views]


def run_with_rounds_that_bring_nothing(directory):
    """Only the rank that scores learns at first hand that a round is lost."""
    config = replace(
        TRAINERS["grpo"][1], output_dir=directory, dynamic_sampling=2, eval_every=0, estimator="grpo", alpha=None
    )
    fickle = Fickle()
    peek_train(grpo.train, config, envs=peek_envs(3), eval_envs=None, rewards=RewardSum({"outcome": fickle}))
    assert fickle.rounds in (6, 0)  # two updates of three rounds, scored by one rank for all


def main(folder: Path) -> None:
    """What each process does. A rank that starts from other weights is told rank 0's."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    for name in TRAINERS:
        run(name, folder / name, seed=rank)
    run_with_rounds_that_bring_nothing(folder / "rounds")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What one process left, and what two did."""
    torch.set_num_threads(1)
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with two_ranks(__file__, two):
        for name in TRAINERS:
            run(name, one / name)
    return one, two


def weights(folder, update):
    checkpoint = folder / "checkpoints" / f"update-{update:06d}"
    state = dict(AutoModelForCausalLM.from_pretrained(checkpoint).state_dict())
    if (checkpoint / "critic.pt").exists():
        critic = torch.load(checkpoint / "critic.pt", weights_only=True)
        state |= {f"critic.{key}": value for key, value in critic.items()}
    return state


def test_the_critic_is_compared_too(folders):
    assert any(name.startswith("critic.") for name in weights(folders[0] / "ppo", 2))


@pytest.mark.parametrize("name", TRAINERS)
def test_two_processes_train_what_one_trains(folders, name):
    one, two = (folder / name for folder in folders)
    for update in (1, 2):
        torch.testing.assert_close(weights(two, update), weights(one, update), rtol=0, atol=1e-5)
    fresh = peek_model().state_dict()
    assert max(float((weights(two, 2)[key] - fresh[key]).abs().max()) for key in fresh) > 1e-4
    # The same episodes, each once, with the same credit; and the same metrics, in one file that one process wrote.
    first, second = (list(read_scored_episodes(folder / "episodes.jsonl")) for folder in (one, two))
    assert [record.episode for record in first] == [record.episode for record in second]
    for ours, theirs in zip(first, second, strict=True):
        assert ours.advantages == pytest.approx(theirs.advantages, abs=1e-5)
    for ours, theirs in zip(read_metrics(one / "metrics.jsonl"), read_metrics(two / "metrics.jsonl"), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            if not key.startswith(("seconds/", "parity_max")):
                assert theirs[key] == pytest.approx(ours[key], rel=1e-3, abs=1e-5), key


@pytest.mark.parametrize("name", TRAINERS)
def test_one_process_goes_on_where_two_stopped(folders, name):
    one, two = (folder / name for folder in folders)
    for folder in (one, two):
        run(name, folder, num_updates=3, resume=True)
    torch.testing.assert_close(weights(two, 3), weights(one, 3), rtol=0, atol=1e-5)


def test_a_round_that_brings_nothing_is_left_out_on_every_rank(folders):
    """Else one of them goes on to the next round while the others wait for this one's scores."""
    lines = read_metrics(folders[1] / "rounds" / "metrics.jsonl")
    assert [(line["episodes"], line["groups/too_easy"]) for line in lines] == [(9, 1.0)] * 2


if __name__ == "__main__":
    main(Path(sys.argv[1]))
