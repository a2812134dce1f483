"""Episodes played while another update trains are those of weights one update older, and nothing of them is lost."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agents_fixtures import TextSampler, make_envs, make_model, make_tokenizer

from agents.checkpoint import load_checkpoint, save_checkpoint
from agents.overlap import HeldWeights, Lookahead, staleness, staleness_metrics
from agents.rollout import CollectResult, Rollout, collect
from agents.rollout_async import collect_async
from agents.sampling import SamplingParams
from agents.sampling.hf import HFSampler
from agents.tokens import ConversationEncoder, TokenHistory
from toolenv.errors import ConfigError, SamplerError

PATIENCE_S = 60.0  # a test that would hang fails after this


class Player:
    """Plays three episodes an update; it is what a trainer hands to ``Lookahead``."""

    def __init__(self, collect: Any = collect) -> None:
        self.envs, self.collect = make_envs(2, max_turns=2), collect
        self.encoder = ConversationEncoder(make_tokenizer(), self.envs.envs[0].format)

    def __call__(self, update: int, sampler: Any) -> CollectResult:
        seeds = [update, update, update + 1]
        return self.collect(sampler, self.envs, seeds, encoder=self.encoder, sampler_seed=update)


def copied_sampler(model: Any) -> HFSampler:
    return HFSampler(copy.deepcopy(model), make_tokenizer(), SamplingParams(8))


@torch.no_grad()
def train(model: Any, update: int) -> None:
    """Change all weights, step by step, as an optimiser does while something else samples."""
    generator = torch.Generator().manual_seed(update)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def tokens(played: CollectResult) -> list[Any]:
    assert len(played.rollouts) == 3
    return [(r.tokens.ids, r.tokens.logprobs, r.tokens.versions) for r in played.rollouts]


def run(
    model: Any, ahead: Lookahead, updates: range, held: HeldWeights, folder: Path | None = None
) -> tuple[list[list[Any]], list[Any]]:
    """A trainer's loop; returns what each update learned from, and how stale that was."""
    seen, stale = [], []
    sampler: Any = ahead.sampler
    for update in updates:
        played = ahead.take(update)
        sampler.sync(model, update - 1)
        held.hold(model, update - 1)
        if update < 4:
            ahead.start(update + 1)
        seen.append(tokens(played))
        stale.append(staleness_metrics(played.rollouts, update - 1))
        train(model, update)
        if folder is not None:
            optimizer = torch.optim.SGD(model.parameters())
            parts = {"optimizer": optimizer, "sampler": held}
            save_checkpoint(folder, update, model=model, tokenizer=make_tokenizer(), parts=parts, keep=9)
    return seen, stale


@pytest.fixture(scope="module")
def one_step_off() -> list[list[Any]]:
    """The same by hand: each update's episodes are played from the weights before the last one's steps."""
    model, player, seen = make_model(), Player(), []
    older = copy.deepcopy(model)
    for update in range(1, 5):
        sampler = HFSampler(older, make_tokenizer(), SamplingParams(8), version=max(update - 2, 0))
        seen.append(tokens(player(update, sampler)))
        older = copy.deepcopy(model)
        train(model, update)
    return seen


def test_each_update_learns_from_weights_one_update_older(one_step_off: list[list[Any]]) -> None:
    model = make_model()
    with Lookahead(Player(), copied_sampler(model)) as ahead:
        seen, stale = run(model, ahead, range(1, 5), HeldWeights())
    assert seen == one_step_off
    assert stale == [{"staleness/mean": lag, "staleness/max": lag} for lag in (0, 1, 1, 1)]


def test_without_depth_it_is_on_policy() -> None:
    def on_policy(model: Any, update: int, player: Player) -> list[Any]:
        return tokens(player(update, HFSampler(model, make_tokenizer(), SamplingParams(8), version=update - 1)))

    model, twin, player = make_model(), make_model(), Player()
    sampler = HFSampler(model, make_tokenizer(), SamplingParams(8))
    with Lookahead(Player(), sampler, depth=0) as ahead:
        for update in range(1, 4):
            sampler.sync(model, update - 1)
            ahead.start(update)  # nothing to start
            assert tokens(ahead.take(update)) == on_policy(twin, update, player)
            train(model, update)
            train(twin, update)


def test_a_run_that_was_stopped_learns_from_the_same_episodes(tmp_path: Path, one_step_off: list[list[Any]]) -> None:
    model = make_model()
    with Lookahead(Player(), copied_sampler(model)) as ahead:
        run(model, ahead, range(1, 3), HeldWeights(), tmp_path)

    resumed, held = make_model(seed=1), HeldWeights()
    optimizer = torch.optim.SGD(resumed.parameters())
    load_checkpoint(tmp_path / "update-000002", model=resumed, parts={"optimizer": optimizer, "sampler": held})
    sampler = copied_sampler(resumed)
    with held.put_into(resumed):
        sampler.sync(resumed, held.version)
    with Lookahead(Player(), sampler) as ahead:
        ahead.start(3)
        seen, _ = run(resumed, ahead, range(3, 5), HeldWeights())
    assert seen == one_step_off[2:]
    torch.testing.assert_close(resumed.state_dict(), trained_for(4).state_dict(), rtol=0, atol=0)


def trained_for(updates: int) -> Any:
    model = make_model()
    for update in range(1, updates + 1):
        train(model, update)
    return model


def test_a_model_has_its_own_weights_again_also_after_an_error() -> None:
    model, held = make_model(), HeldWeights()
    model.get_input_embeddings().weight.requires_grad_(False)
    held.hold(model, 7)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert "model.embed_tokens.weight" not in held.weights  # what is not trained is not held
    train(model, 1)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def failing_sync() -> None:
        with held.put_into(model):
            assert all(torch.equal(model.state_dict()[name], before[name]) for name in held.weights)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing_sync()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[name])
    with pytest.raises(ConfigError, match="another model"), HeldWeights().put_into(model):
        pass


def test_it_plays_while_the_caller_does_something_else() -> None:
    playing, trained = threading.Event(), threading.Event()

    def play(update: int, sampler: Any) -> CollectResult:
        playing.set()
        assert trained.wait(PATIENCE_S)
        return CollectResult([], [(update, "x")])

    with Lookahead(play, TextSampler("x")) as ahead:
        ahead.start(1)
        assert playing.wait(PATIENCE_S)
        trained.set()
        assert ahead.take(1).dropped == [(1, "x")]


def test_settled_means_that_nothing_samples() -> None:
    sampler = TextSampler("<answer>4</answer>")
    with Lookahead(Player(), sampler) as ahead:
        ahead.start(5)
        ahead.settle()
        before = list(sampler.batches)
        assert sum(before) == 3
        assert len(ahead.take(5).rollouts) == 3
        assert sampler.batches == before


def test_an_error_is_raised_where_the_episodes_are_taken() -> None:
    def play(update: int, sampler: Any) -> CollectResult:
        raise SamplerError("the server is gone")

    with Lookahead(play, TextSampler("x")) as ahead:
        ahead.start(1)
        ahead.settle()  # not here: what was trained meanwhile is kept first
        with pytest.raises(SamplerError, match="the server is gone"):
            ahead.take(1)
    assert not lookahead_threads()


@pytest.mark.parametrize("collect", [collect, collect_async])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_is_played_stops_with_the_block(error: type[BaseException], collect: Any) -> None:
    """The sampler would go on for ever: its episodes have no limit and never answer."""
    sampling = threading.Event()

    class Endless(TextSampler):
        def generate(self, prompts: Any, *, seeds: Any) -> Any:
            sampling.set()
            return super().generate(prompts, seeds=seeds)

    player = Player(collect)
    player.envs = make_envs(2, max_turns=None)

    def training() -> None:
        with Lookahead(player, Endless("hm")) as ahead:
            ahead.start(1)
            assert sampling.wait(PATIENCE_S)
            raise error

    with pytest.raises(error):
        training()
    assert not lookahead_threads()


def lookahead_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("lookahead", "rollout-"))]


def test_episodes_come_in_order() -> None:
    with Lookahead(Player(), TextSampler("<answer>4</answer>")) as ahead:
        ahead.start(2)
        with pytest.raises(ConfigError, match="take the episodes of update 2 first"):
            ahead.start(3)
        with pytest.raises(ConfigError, match="cannot take update 3"):
            ahead.take(3)
        ahead.take(2)
        assert [r.episode.seed for r in ahead.take(3).rollouts] == [3, 3, 4]  # what was not started is played now
    with pytest.raises(ConfigError, match="depth must be 0 or 1"):
        Lookahead(Player(), TextSampler("x"), depth=2)


def test_staleness_is_of_each_turn() -> None:
    def rollout(*versions: int) -> Rollout:
        history = TokenHistory()
        for version in versions:
            history.append_action([1], [-1.0], version)
        [played] = Player()(0, TextSampler("<answer>4</answer>")).rollouts[:1]
        return Rollout(played.episode, history, ("stop",) * len(versions))

    rollouts = [rollout(3, 4), rollout(5), rollout(2, 5, 5)]
    np.testing.assert_array_equal(staleness(rollouts, 5), [[2, 1, 0], [0, 0, 0], [3, 0, 0]])
    assert staleness_metrics(rollouts, 5) == {"staleness/mean": 1.0, "staleness/max": 3.0}
    with pytest.raises(SamplerError, match="sampled by version 5, but the newest is 4"):
        staleness(rollouts, 4)
