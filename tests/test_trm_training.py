"""Reward models of calls: what they are trained on, the loss, and a training that survives a kill."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("sklearn")

import torch
from agents_fixtures import make_model, make_tokenizer
from reward_models import make_scorer

from agents import cli
from agents.workshop import trm_train
from rewards.scoring import HFScorer
from rewards.training.callbacks import ShowProgress
from rewards.training.labels.records import LabelledCall, LabelledEpisode, write_labels
from rewards.training.trm import trainer as classifier_trainer
from rewards.training.trm.evaluate import auc_of, score_calls, score_whole
from rewards.training.trm.rows import (
    Example,
    call_examples,
    episode_examples,
    readings,
    split_by_task,
)
from rewards.training.trm.settings import TrainSettings
from rewards.training.trm.trainer import UNREAD, ClassifierTrainer, SimilarLengths, trajectory_loss
from rewards.training.trm.training import train_reward_model
from toolenv import ConfigError, DataError, Episode, Message, Task, ToolCall, Turn

CALL = ToolCall("search", {"query": "x"})
SETTINGS = TrainSettings(learning_rate=3e-3, epochs=4, batch_episodes=8, eval_every=3, held_out=0.25, warmup=0.0)


def played(*values: bool | None, task: str = "t", answer: str = "yes", dropped: str | None = None) -> LabelledEpisode:
    """An episode whose good calls find gold; a value a turn."""
    said = {True: "gold was found here", False: "dust was found here, and nothing else", None: "who knows"}
    turns = tuple(Turn(i, "look", (CALL,), observation=(Message("tool", said[v]),)) for i, v in enumerate(values))
    end = Turn(len(values), answer, answer=answer)
    episode = Episode(
        "e", Task(task, "?", answers=("yes",)), "hermes", (Message("user", "?"),), (*turns, end), terminated=True
    )
    labels = tuple(LabelledCall(i, 0, "search", v, v, v, dropped=dropped) for i, v in enumerate(values))
    return LabelledEpisode(episode, labels, by="test")


def many(count: int) -> list[LabelledEpisode]:
    draws = np.random.default_rng(0)
    return [
        played(
            *(bool(draws.integers(2)) for _ in range(1 + i % 3)), task=f"t{i}", answer="yes" if i % 2 else "no, never"
        )
        for i in range(count)
    ]


def load() -> tuple[Any, Any]:
    return make_model(spread=0.1), make_tokenizer()


def test_the_loss_is_the_mean_over_calls_and_then_over_trajectories():
    odds = float(np.log(3))  # a score of 0.75
    scores = torch.tensor([[0.0, 9.0, 9.0], [odds, odds, odds]])
    targets = torch.tensor([[1.0, UNREAD, UNREAD], [1.0, 1.0, 0.0]])
    # ln 2 = 0.6931; (2 * -ln 0.75 - ln 0.25) / 3 = 0.6539. Over the four calls in one, it would be 0.6637.
    assert trajectory_loss(scores, targets, 2).item() == pytest.approx((0.693147 + 0.653886) / 2, abs=1e-5)


def test_a_soft_target_is_learned_as_it_is():
    at = trajectory_loss(torch.tensor([[float(np.log(3))]]), torch.tensor([[0.75]]), 1).item()
    assert at == pytest.approx(0.562335, abs=1e-5)  # the entropy of 0.75: no score does better
    assert trajectory_loss(torch.tensor([[0.5]]), torch.tensor([[0.75]]), 1).item() > at


def gradient(rows: list[Example], parts: int, folder: Path) -> Any:
    """The head's gradient after one update, whose rows run in so many parts."""
    model = make_scorer("turns").model
    model.dropout.p = 0.0
    size = -(-len(rows) // parts)
    arguments = classifier_trainer.transformers.TrainingArguments(
        str(folder), per_device_train_batch_size=size, gradient_accumulation_steps=parts, use_cpu=True, report_to="none"
    )
    trainer = ClassifierTrainer(model, 0, rows, rows, 0, arguments)
    batches = iter(trainer.get_train_dataloader())
    inputs, episodes = trainer.get_batch_samples(batches, parts, torch.device("cpu"))
    assert len(inputs) == parts
    trainer.current_gradient_accumulation_steps = parts
    for part in inputs:
        trainer.training_step(model, part, episodes)
    return model.score.weight.grad.clone()


@pytest.mark.parametrize("count", [8, 7])
def test_an_update_in_parts_has_the_same_gradient(tmp_path, count):
    rows = list(call_examples(many(count), make_scorer("turns")).rows)
    whole, parts = gradient(rows, 1, tmp_path), gradient(rows, 4, tmp_path)
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-7)


def test_a_model_is_trained_where_it_is_read():
    scorer, records = make_scorer("turns"), [played(True, None, False), played(False)]
    rows = call_examples(records, scorer).rows
    read = scorer.score_turns([record.episode.messages() for record in records])
    for row, scores, kept in zip(rows, read, ([0, 2], [0]), strict=True):
        logits = scorer.model(torch.tensor([row.ids])).logits[0, row.reads, 0]
        assert logits.tolist() == pytest.approx(scores[kept].tolist(), abs=1e-4)
    whole = make_scorer("outcome")
    [row] = episode_examples(records[:1], whole).rows
    logit = whole.model(torch.tensor([row.ids])).logits.item()
    assert logit == pytest.approx(whole.score([records[0].episode.messages()])[0], abs=1e-4)


def test_unknown_and_dropped_labels_are_left_out_and_counted():
    records = [played(True, None), played(None), played(False, False, dropped="balance"), played(False)]
    found = call_examples(records, make_scorer("turns"))
    assert [row.targets for row in found.rows] == [[1.0], [0.0]]
    assert (found.episodes, found.unlabelled, found.unknown, found.dropped) == (4, 2, 2, 2)


def test_labels_beyond_what_the_model_takes_are_left_out_and_counted():
    record = played(True, False)
    room = len(call_examples([played(True)], make_scorer("turns")).rows[0].ids)
    found = call_examples([record], make_scorer("turns", max_length=room))
    assert (found.rows[0].targets, found.cut) == ([1.0], 1)


def test_a_message_for_several_calls_is_good_where_all_of_them_are():
    def joint(*labels: tuple[bool | None, float | None], shown: int = 1) -> LabelledEpisode:
        turn = Turn(0, "...", (CALL,) * len(labels), observation=(Message("tool", "both"),) * shown)
        told = tuple(LabelledCall(0, i, "search", v, v, v, soft) for i, (v, soft) in enumerate(labels))
        return LabelledEpisode(Episode("e", Task("t", "?"), "torl", (), (turn,)), told, by="test")

    assert [r.value for r in readings(joint((True, 0.9), (True, 0.6)))] == [True]
    assert [r.soft for r in readings(joint((True, 0.9), (True, 0.6)))] == [0.6]
    assert [r.value for r in readings(joint((None, None), (False, None)))] == [False]
    assert [r.value for r in readings(joint((None, None), (True, None)))] == [None]
    assert [r.value for r in readings(joint((True, None), (False, None), shown=2))] == [True, False]
    with pytest.raises(DataError, match=r"3 calls and 2 tool messages"):
        readings(joint((True, None), (True, None), (True, None), shown=2))


def test_what_answers_no_call_has_no_label():
    history = (Message("user", "?"), Message("tool", "before"), Message("user", "and?"))
    record = played(True)
    unread = Turn(0, "mumble", error="no call", observation=(Message("tool", "no call"),))
    turns = (unread, replace(record.episode.turns[0], index=1))
    episode = replace(record.episode, prompt=history, turns=turns)
    label = replace(record.labels[0], turn=1)
    assert [r.value for r in readings(LabelledEpisode(episode, (label,), by="test"))] == [None, None, True]


def test_no_task_stands_in_both_parts():
    rows = [Example([1], [0], [1.0], f"task {i % 7}") for i in range(40)]
    train, held_out = split_by_task(rows, 0.3, seed=1)
    assert len(train) + len(held_out) == 40
    assert held_out
    assert not {r.group for r in train} & {r.group for r in held_out}


def test_the_order_is_named_by_seed_and_epoch_and_every_row_comes_once():
    rows = [Example([1] * (1 + i % 9), [0], [1.0], "t") for i in range(50)]

    def order(seed: int, epoch: int) -> list[int]:
        sampler = SimilarLengths(rows, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)
    assert sorted(order(0, 3)) == list(range(50))


def weights(folder: Path) -> dict[str, Any]:
    return dict(HFScorer.from_pretrained(folder, device="cpu").model.state_dict())


def test_a_training_that_had_stopped_early_does_not_go_on(tmp_path, monkeypatch):
    records, settings = many(32), replace(SETTINGS, epochs=40, eval_every=2, patience=1)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HFScorer, "save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            train_reward_model(records, load, tmp_path / "rm", settings, device="cpu")
    states = [json.loads(path.read_text()) for path in (tmp_path / "rm").rglob("trainer_state.json")]
    last = max(states, key=lambda state: state["global_step"])
    assert last["global_step"] < last["max_steps"]
    trained = train_reward_model(records, load, tmp_path / "rm", settings, device="cpu")
    assert trained.looks[-1].update == last["global_step"]


def test_a_training_that_was_killed_goes_on_to_the_same_end(tmp_path, monkeypatch):
    records = many(32)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    whole = train_reward_model(records, load, tmp_path / "whole", SETTINGS, device="cpu")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])

    def killed(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShowProgress, "on_step_end", killed)
        with pytest.raises(KeyboardInterrupt):
            train_reward_model(records, load, tmp_path / "cut", SETTINGS, device="cpu")
    # A checkpoint that was being written when it happened is none.
    (tmp_path / "cut/checkpoints/checkpoint-5").mkdir()
    cut = train_reward_model(records, load, tmp_path / "cut", SETTINGS, device="cpu")
    assert cut.looks == whole.looks
    assert len(whole.looks) > 2
    assert not (tmp_path / "cut/checkpoints").exists()
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[name], other[name]) for name in one)
    # What is done is not done again, and nothing else takes its folder.
    assert train_reward_model(records, load, tmp_path / "cut", SETTINGS, device="cpu").looks == whole.looks
    with pytest.raises(ConfigError, match=r"its learning_rate is 0.003, here 0.1"):
        train_reward_model(records, load, tmp_path / "cut", replace(SETTINGS, learning_rate=0.1), device="cpu")
    with pytest.raises(ConfigError, match=r"holds another training \(its data_sha256"):
        train_reward_model(records[::-1], load, tmp_path / "cut", SETTINGS, device="cpu")


def test_what_was_trained_scores_as_it_did_in_training(tmp_path):
    records, held_out = many(32), [replace(r, episode=replace(r.episode, env_id="other")) for r in many(12)]
    trained = train_reward_model(records, load, tmp_path / "m", SETTINGS, held_out=held_out, device="cpu")
    found = auc_of(score_calls(HFScorer.from_pretrained(tmp_path / "m", device="cpu"), held_out))
    assert found == pytest.approx(trained.best.auc, abs=0.02)
    assert found > 0.9  # gold is not dust
    with pytest.raises(ConfigError, match=r"12 tasks stand both in the training and in the held-out file"):
        train_reward_model(records, load, tmp_path / "n", SETTINGS, held_out=many(12), device="cpu")


def test_judging_on_tasks_that_were_trained_on_is_told(tmp_path, capsys):
    train_reward_model(many(32)[:24], load, tmp_path / "m", SETTINGS, held_out=many(32)[24:], device="cpu")
    for name, records in (("other", many(32)[24:]), ("known", many(32)[20:])):
        write_labels(tmp_path / f"{name}.jsonl", records)
        assert cli.main(["trm", "eval", str(tmp_path / "m"), str(tmp_path / f"{name}.jsonl"), "--resamples", "9"]) == 0
        told = "was trained on 4 of these tasks" in capsys.readouterr().err
        assert told == (name == "known")


def test_lora_is_merged_and_its_head_is_trained(tmp_path):
    pytest.importorskip("peft")
    settings = replace(SETTINGS, lora_rank=2, learning_rate=1e-2)
    trained = train_reward_model(many(32), load, tmp_path / "m", settings, device="cpu")
    merged, base = weights(tmp_path / "m"), make_model(spread=0.1).state_dict()
    assert not any("lora" in name for name in merged)
    assert torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(merged[name], base[name])
    assert trained.looks[-1].bce < trained.looks[0].bce


def test_a_trajectory_model_learns_success(tmp_path):
    records = many(32)
    settings = replace(SETTINGS, level="episode")
    train_reward_model(records, load, tmp_path / "m", settings, device="cpu")
    scorer = HFScorer.from_pretrained(tmp_path / "m", device="cpu")
    assert scorer.kind == "outcome"
    assert auc_of(score_whole(scorer, records)) > 0.9


def test_labels_of_one_kind_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"of the \d+ labels to train on, \d+ are good; there must be both"):
        train_reward_model([played(True, task=f"t{i}") for i in range(8)], load, tmp_path / "m", SETTINGS, device="cpu")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"accumulate": 3}, "batch_episodes must be a multiple of accumulate; 32 is none of 3"),
        ({"level": "episode", "label": "quality"}, "it takes no label and no soft"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"label": "goodness"}, "label"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        TrainSettings(**wrong)


def test_a_start_from_a_reward_model_learns_at_the_rate_of_what_that_was_made_from(tmp_path):
    def rate(*words: str) -> float:
        options = cli.parser().parse_args(["trm", "train", "labels.jsonl", "--output", "out", *words])
        return float(trm_train._settings(options).learning_rate)

    (tmp_path / "train.json").write_text('{"model": "nano"}')
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "train.json").write_text(json.dumps({"model": str(tmp_path)}))
    assert rate("--model", str(tmp_path / "next")) == rate("--model", "nano") == trm_train.LEARNING_RATES["nano"]
    assert rate("--model", str(tmp_path / "else")) == trm_train.LEARNING_RATES["full"]
    with pytest.raises(ConfigError, match="learning_rate must be positive"):
        rate("--learning-rate", "0")
