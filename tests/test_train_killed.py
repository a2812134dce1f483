"""A run that is stopped by force, by Ctrl-C, or before it began: nothing is lost, nothing is left open."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from agents_fixtures import make_model, make_tokenizer
from peek import PeekEnv, peek_envs, peek_model, peek_rewards, peek_tokenizer, peek_train, timeless
from ranks import child_environment

from agents import grpo, ppo, session
from agents import run as run_module
from agents.checkpoint import checkpoints, latest
from agents.command_line import run_trainer
from agents.config import GRPOConfig, PPOConfig
from agents.metrics import read_metrics
from agents.overlap import Lookahead
from agents.rollout import CollectResult
from agents.run import open_run
from agents.sampling.hf import HFSampler
from rewards import OutcomeFn, RewardSum
from toolenv.errors import ConfigError, InfrastructureError, SamplerError
from toolenv.tools import tool
from toolenv.vector import ToolVectorEnv

TIMEOUT_S = 240
SETTINGS = {
    "num_updates": 6, "max_new_tokens": 1, "learning_rate": 3e-3, "alpha": 0.5, "device": "cpu", "overlap": True,
    "minibatch_episodes": 6, "micro_batch_episodes": 12, "checkpoint_every": 1, "eval_every": 2, "eval_episodes": 4,
}  # fmt: skip
TRAINERS = {
    "grpo": (grpo.train, GRPOConfig(groups_per_update=3, group_size=4, dynamic_sampling=2, **SETTINGS)),
    "ppo": (ppo.train, PPOConfig(episodes_per_update=12, **SETTINGS)),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def run(name, directory, envs=None, rewards=None, on_update=None, **changes):
    train, config = TRAINERS[name]
    config = replace(config, output_dir=directory, **changes)
    return peek_train(train, config, envs=envs or peek_envs(6), rewards=rewards or peek_rewards(), on_update=on_update)


def state_of(folder):
    """The files of the last checkpoint that hold tensors."""
    checkpoint = latest(folder / "checkpoints")
    return {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.suffix in (".safetensors", ".pt")}


# SIGKILL -------------------------------------------------------------------------------------------------------------


def killed_in_mid_write(folder: Path) -> None:
    """A run that is killed while it writes a checkpoint, after it has told the metrics of the same update."""
    from agents import checkpoint

    flush = checkpoint._flush

    def kill(path):
        if path.name == "update-000003.partial":
            os.kill(os.getpid(), signal.SIGKILL)
        flush(path)

    checkpoint._flush = kill
    run(folder.name, folder)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_run_that_is_killed_goes_on_bitwise(tmp_path, name):
    """While it writes a checkpoint, whose update it has told already; and with half a line at the end of a file."""
    whole = run(name, tmp_path / "whole")
    folder = tmp_path / name
    killed = subprocess.run(
        [sys.executable, __file__, str(folder)], env=child_environment(), timeout=TIMEOUT_S, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert latest(folder / "checkpoints").name == "update-000002"
    assert [line["update"] for line in read_metrics(folder / "metrics.jsonl")] == [0, 1, 2, 3]
    with (folder / "episodes.jsonl").open("a") as file:
        file.write('{"update": 4, "torn')
    resumed = run(name, folder, resume=True)
    assert [line["update"] for line in resumed.metrics] == [3, 4, 5, 6]
    assert timeless(folder) == timeless(tmp_path / "whole")
    assert (folder / "episodes.jsonl").read_bytes() == (tmp_path / "whole" / "episodes.jsonl").read_bytes()
    assert state_of(folder) == state_of(tmp_path / "whole")
    assert whole.update == resumed.update == 6
    assert [path.name for path in checkpoints(folder / "checkpoints")] == ["update-000005", "update-000006"]
    assert len(list((folder / "checkpoints").iterdir())) == 2  # what was half-written is gone


def test_the_command_resumes_a_run_that_died_in_its_first_update(tmp_path, capsys):
    class Killed(BaseException):
        """What nobody catches."""

    class Dies:
        name = "outcome"

        def score(self, views):
            raise Killed

    def again(config):
        return run("grpo", config.output_dir, resume=config.resume, num_updates=1, eval_every=0)

    words = ["--resume", "--output-dir", str(tmp_path / "run")]
    assert run_trainer(GRPOConfig, again, words, prog="test") == 2  # there is nothing yet
    assert "there is no run to resume" in capsys.readouterr().err
    with pytest.raises(Killed):
        run("grpo", tmp_path / "run", rewards=RewardSum({"outcome": Dies()}), num_updates=1, eval_every=0)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert run_trainer(GRPOConfig, again, words, prog="test") == 0


# Ctrl-C --------------------------------------------------------------------------------------------------------------


class Slow(PeekEnv):
    """Its tool returns when it is let, and notes where that was too late."""

    free = threading.Event()
    called = threading.Event()
    waits: ClassVar[list[bool]] = []

    def tools_for(self, task):
        @tool
        def peek() -> str:
            """Tell the secret, some time."""
            if not Slow.free.is_set():
                Slow.called.set()
                Slow.waits.append(Slow.free.wait(30))
            return task.answers[0]

        return {"peek": peek}


@pytest.mark.parametrize("rollout", ["lockstep", "async"])
def test_with_overlap_ctrl_c_saves_before_it_waits_for_a_tool(tmp_path, monkeypatch, rollout):
    """The tool is let go once the checkpoint is there; with a second Ctrl-C while it is waited for, all is saved."""
    save, start = run_module.save_checkpoint, Lookahead.start
    changes = {"rollout": rollout, "num_updates": 4, "eval_every": 0, "checkpoint_every": 100, "dynamic_sampling": 0}

    def save_and_free(*args, **kwargs):
        path = save(*args, **kwargs)
        Slow.free.set()
        return path

    def start_slowly(ahead, update):
        if update == 3:
            Slow.free.clear()
            Slow.called.clear()
        start(ahead, update)

    def press(metrics):
        if metrics["update"] == 2:
            assert Slow.called.wait(60), "no tool was called"
            os.kill(os.getpid(), signal.SIGINT)

    Slow.free.set()
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_checkpoint", save_and_free)
        patch.setattr(Lookahead, "start", start_slowly)
        envs = ToolVectorEnv([Slow] * 6, autoreset_mode="Disabled")
        result = run("grpo", tmp_path / "run", envs=envs, on_update=press, **changes)
    assert (result.interrupted, result.checkpoint.name) == (True, "update-000002")
    assert Slow.waits
    assert all(Slow.waits)
    Slow.waits.clear()
    whole, resumed = run("grpo", tmp_path / "whole", **changes), run("grpo", tmp_path / "run", resume=True, **changes)
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_ctrl_c_writes_no_checkpoint_over_one_that_is_there(tmp_path, monkeypatch):
    """It is deleted before the new one has its name: killed in between, the run would have lost it."""
    saves = []
    save = run_module.save_checkpoint
    monkeypatch.setattr(run_module, "save_checkpoint", lambda *a, **options: saves.append(a[1]) or save(*a, **options))

    def press(metrics):
        if metrics["update"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    result = run("ppo", tmp_path, on_update=press)
    assert (result.interrupted, result.checkpoint.name, saves) == (True, "update-000002", [1, 2])


# What fails half-way -------------------------------------------------------------------------------------------------


class Closing:
    """Notes what is closed."""

    def __init__(self, monkeypatch):
        self.closed = []
        for owner, what in ((ToolVectorEnv, "envs"), (HFSampler, "sampler")):
            monkeypatch.setattr(owner, "close", lambda this, what=what: self.closed.append(what))


def opened(directory, **changes):
    settings = {"env_id": "ToolFunctionCall-v0", "eval_every": 1, "eval_episodes": 2, "num_envs": 2, **changes}
    config = GRPOConfig(output_dir=directory, max_new_tokens=1, **settings)
    return open_run(config, make_model(), make_tokenizer(), None, None, None)


def test_what_was_opened_is_closed_where_a_later_step_fails(tmp_path, monkeypatch):
    closing = Closing(monkeypatch)

    def fail(*args, **kwargs):
        raise ConfigError("Weights & Biases did not start")

    with pytest.raises(ConfigError, match="max_tokens is 2048, but the model takes 2048 tokens in all"):
        opened(tmp_path, max_tokens=2048)
    assert closing.closed == ["envs", "envs"]
    closing.closed.clear()
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "open_trackers", fail)
        with pytest.raises(ConfigError, match="did not start"):
            opened(tmp_path)
    assert closing.closed == ["sampler", "envs", "envs"]
    closing.closed.clear()
    opened(tmp_path).close()
    assert closing.closed == ["sampler", "envs", "envs"]


def test_a_run_closes_everything_whatever_fails_on_the_way(tmp_path, monkeypatch):
    closing = Closing(monkeypatch)

    def fail(sampler):
        closing.closed.append("sampler")
        raise SamplerError("the server is gone")

    run = opened(tmp_path)
    run.resources.callback(fail, None)
    with pytest.raises(SamplerError, match="gone"):
        run.close()
    assert closing.closed == ["sampler", "sampler", "envs", "envs"]


def test_environments_that_are_handed_over_are_evaluated_in_their_own(tmp_path):
    config = replace(TRAINERS["grpo"][1], output_dir=tmp_path)
    with pytest.raises(ConfigError, match="eval_every is 2, and environments were given to play in but none"):
        grpo.train(config, model=peek_model(), tokenizer=peek_tokenizer(), envs=peek_envs(2), quiet=True)


def test_episodes_that_are_lost_are_told_with_their_reason(tmp_path, capsys, monkeypatch):
    class Broken(PeekEnv):
        def tools_for(self, task):
            @tool
            def peek() -> str:
                """Tell nothing."""
                raise InfrastructureError("the index is down")

            return {"peek": peek}

    config = GRPOConfig(
        output_dir=tmp_path / "some", num_updates=1, groups_per_update=4, group_size=4, max_new_tokens=1
    )
    objects = {"model": peek_model(), "tokenizer": peek_tokenizer(), "rewards": RewardSum({"outcome": OutcomeFn("em")})}
    envs = ToolVectorEnv([Broken] * 4, autoreset_mode="Disabled")
    [line] = grpo.train(config, envs=envs, **objects).metrics
    told = " ".join(capsys.readouterr().err.split())
    assert line["episodes_dropped"] > 0
    assert f"update 1: {line['episodes_dropped']} episodes are lost; the one of seed" in told
    assert "the index is down" in told
    monkeypatch.setattr(session, "collect", lambda *_, **__: CollectResult([], [(7, "the index is down"), (8, "too")]))
    with pytest.raises(InfrastructureError, match="all 2 episodes of update 1 were lost; the one of seed 7: the index"):
        grpo.train(replace(config, output_dir=tmp_path / "all"), envs=envs, **objects, quiet=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    killed_in_mid_write(Path(sys.argv[1]))
