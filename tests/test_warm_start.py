"""From stored episodes to a plain model that plays like them, with LoRA or without."""

from __future__ import annotations

import json

import pytest
import torch

from agents import warm_start as module
from agents.models import PLAYED_AS_FILE, load_model, played_as
from agents.nano import new_nano, train_tokenizer
from agents.records import ScoredEpisode, write_scored_episodes
from agents.warm_start import WarmStartConfig, main, read_any_episodes, split_by_task, successes, warm_start
from tests.toys import CAPITALS, toy_env
from toolenv import ConfigError, DataError, SearchR1, write_episodes
from toolenv.messages import ToolCall


def played(country, answer=None):
    env = toy_env(format=SearchR1(template="$question"))
    env.reset(options={"task": country})
    env.step(env.format.write_call(ToolCall("search", {"query": country})))
    env.step(env.format.write_answer(answer or CAPITALS[country]))
    return env.episode


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A folder with a bare model, and a file of episodes, two of which failed."""
    folder = tmp_path_factory.mktemp("start")
    episodes = [played(country) for country in CAPITALS] + [played("Peru", "Rome"), played("Japan", "Rome")]
    write_episodes(folder / "episodes.jsonl", episodes)
    tokenizer = train_tokenizer(["".join(m.content for m in e.messages()) for e in episodes], vocabulary=300)
    new_nano(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


def settings(start, output, **changes):
    fixed = {"batch_episodes": 4, "warmup_updates": 1, "max_updates": 6, "eval_every": 3, "device": "cpu"}
    learned = {"learning_rate": 3e-3, "validation_share": 0.3}
    return WarmStartConfig(
        model=str(start / "model"), episodes=(start / "episodes.jsonl",), output_dir=output,
        **{**fixed, **learned, **changes},
    )  # fmt: skip


@pytest.mark.parametrize("rank", [0, 4])
def test_the_result_is_a_plain_model_that_has_learned(start, tmp_path, rank):
    changes = {"lora_rank": rank, "gradient_checkpointing": bool(rank)}
    curve = warm_start(settings(start, tmp_path, **changes))
    assert curve[-1].validation_loss < curve[0].validation_loss
    model, _ = load_model(tmp_path, device="cpu", precision="float32")
    assert type(model).__name__ == "Qwen2ForCausalLM"
    bare = load_model(start / "model", device="cpu", precision="float32")[0].state_dict()
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, bare[name])}
    # LoRA stands beside the linear layers alone; embeddings and norms are as they were.
    assert changed
    assert ("model.embed_tokens.weight" in changed) == (rank == 0)
    record = json.loads((tmp_path / "sft.json").read_text())
    assert record["settings"]["lora_rank"] == rank
    assert [look["update"] for look in record["curve"]] == [3, 6]
    assert not (tmp_path / "sft.pt").exists()


def test_a_stopped_run_goes_on_and_another_does_not_go_on_with_it(start, tmp_path, monkeypatch):
    whole = warm_start(settings(start, tmp_path / "whole", lora_rank=2))
    monkeypatch.setattr(module, "_say", lambda look: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        warm_start(settings(start, tmp_path / "cut", lora_rank=2))
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="was stopped and had other settings"):
        warm_start(settings(start, tmp_path / "cut", lora_rank=4))
    assert warm_start(settings(start, tmp_path / "cut", lora_rank=2)) == whole


def test_only_successes_are_learned_and_held_out_tasks_are_others():
    right, wrong = [played(country) for country in CAPITALS], played("Peru", "Rome")
    assert successes([*right, wrong]) == right
    train, held_out = split_by_task([*right, *right], 0.25, seed=0)
    assert len(train) + len(held_out) == 2 * len(right)
    assert not {e.task.id for e in train} & {e.task.id for e in held_out}
    assert {e.task.id for e in held_out} == {e.task.id for e in split_by_task(right, 0.25, seed=0)[1]}
    assert len(split_by_task(right, 0.001, seed=0)[1]) == 1
    assert len(split_by_task(right, 0.999, seed=0)[0]) == 1


def test_records_of_a_training_run_are_episodes_too(tmp_path):
    episode = played("Peru")
    record = ScoredEpisode(episode, update=1, group=0, rewards={"outcome": (0.0, 1.0)}, advantages=(0.5, 0.5))
    write_scored_episodes(tmp_path / "run.jsonl", [record])
    write_episodes(tmp_path / "eval.jsonl", [episode])
    assert read_any_episodes(tmp_path / "run.jsonl") == read_any_episodes(tmp_path / "eval.jsonl") == [episode]
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match=r"other.jsonl.*1.*schema None"):
        read_any_episodes(tmp_path / "other.jsonl")


def test_the_nano_policy_stays_the_nano_policy(start, tmp_path):
    (start / "model" / PLAYED_AS_FILE).write_text('{"played_as": "nano"}')
    try:
        warm_start(settings(start, tmp_path, max_updates=1, eval_every=1))
    finally:
        (start / "model" / PLAYED_AS_FILE).unlink()
    assert played_as(tmp_path) == "nano"


def test_what_cannot_be_learned_from_is_refused(start, tmp_path, capsys):
    write_episodes(tmp_path / "failed.jsonl", [played("Peru", "Rome")])
    words = ["--model", str(start / "model"), "--output-dir", str(tmp_path / "out")]
    assert main([*words, "--episodes", str(tmp_path / "failed.jsonl")]) == 2
    assert "none of 1 episodes succeeded" in capsys.readouterr().err
    assert main([*words, "--episodes", str(tmp_path / "failed.jsonl"), "--keep", "all"]) == 2
    assert "none is left to be held out" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "episodes names no file" in capsys.readouterr().err
    assert main([*words, "--episodes", str(tmp_path / "gone.jsonl")]) == 1
    assert "gone.jsonl" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"speak search_r1, torl"):
        split_by_task([played("Peru"), toy_episode_in_torl()], 0.5, seed=0)


def toy_episode_in_torl():
    from dataclasses import replace

    return replace(played("Japan"), format="torl")
