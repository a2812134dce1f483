"""Training a ToolRM: what is read, the loss, what is saved, and what a kill costs."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from agents_fixtures import make_model, make_tokenizer  # noqa: E402
from datasets import Dataset  # noqa: E402
from reward_models import make_reward_model  # noqa: E402
from trl.trainer.reward_config import RewardConfig  # noqa: E402
from trl.trainer.reward_trainer import RewardTrainer  # noqa: E402

from agents.cli import main  # noqa: E402
from rewards.rendering import ConversationRenderer  # noqa: E402
from rewards.scoring import HFScorer  # noqa: E402
from rewards.training import callbacks  # noqa: E402
from rewards.training.heads import add_lora, make_classifier, merged, parts_of  # noqa: E402
from rewards.training.pairs.records import Pair, PairWriter, pair_conversations  # noqa: E402
from rewards.training.toolrm.rows import encode_pairs, split_rows  # noqa: E402
from rewards.training.toolrm.settings import ToolRMConfig  # noqa: E402
from rewards.training.toolrm.shared_rows import SharedPromptCollator, shared_records  # noqa: E402
from rewards.training.toolrm.trainer import PreferenceTrainer, pair_records  # noqa: E402
from rewards.training.toolrm.training import train_toolrm  # noqa: E402
from toolenv.errors import ConfigError, DataError  # noqa: E402
from toolenv.messages import Message, ToolCall  # noqa: E402

TOOLS = ({"name": "search", "parameters": {"type": "object", "properties": {"query": {"type": "string"}}}},)
QUICK = ToolRMConfig(
    lora_rank=2, learning_rate=1e-2, epochs=1, batch_pairs=8, held_out=0.2, eval_every=2, precision="float32"
)


def make_pairs(tasks: int = 10, each: int = 3) -> list[Pair]:
    """What is right says ``search``; what is wrong, in three ways, does not."""
    wrong = ("find", "look", "seek")
    return [
        Pair(
            TOOLS,
            (Message("user", f"Look for {task}. " * (1 + task % 3)),),
            (ToolCall("search", {"query": str(task)}),),
            (ToolCall(wrong[number], {"query": str(task)}),),
            "incorrect function name",
            test_category="simple",
            test_id=f"task-{task}",
        )
        for task in range(tasks)
        for number in range(each)
    ]


def rows_of(pairs: list[Pair], max_row_tokens: int = 10_000) -> Any:
    return encode_pairs(pairs, ConversationRenderer(make_tokenizer()), max_length=None, max_row_tokens=max_row_tokens)[
        0
    ]


def load_tiny(name: str | Path, *, device: str = "auto", precision: str = "float32") -> tuple[Any, Any]:
    return make_model().to(getattr(torch, precision)), make_tokenizer()


@pytest.mark.parametrize("max_row_tokens", [1, 600, 10_000])
def test_rows_hold_the_tokens_that_the_scorer_reads(max_row_tokens: int) -> None:
    pairs = make_pairs(4)
    renderer = ConversationRenderer(make_tokenizer())
    rows = rows_of(pairs, max_row_tokens)
    assert [pair for row in rows for pair in row.single()] == [
        tuple(tuple(renderer.render(conversation).ids) for conversation in pair_conversations(pair)) for pair in pairs
    ]
    assert all(len(row.pairs) == 1 or row.tokens <= max_row_tokens for row in rows)
    if max_row_tokens == 10_000:
        assert [len(row.answers) for row in rows] == [4] * 4  # the right answer stands there once


def test_pairs_that_are_too_long_are_counted_and_equal_answers_refused() -> None:
    pairs = make_pairs(2)
    renderer = ConversationRenderer(make_tokenizer())
    longest = max(len(renderer.render(pair_conversations(pair)[1]).ids) for pair in pairs)
    rows, left_out = encode_pairs(pairs, renderer, max_length=longest - 1, max_row_tokens=10_000)
    assert left_out > 0
    assert sum(len(row.pairs) for row in rows) == len(pairs) - left_out
    same = Pair(TOOLS, (Message("user", "?"),), "No.", "No.", "other", test_id="t")
    with pytest.raises(DataError, match="pair 1, of task 't'"):
        encode_pairs([same], renderer, max_length=None, max_row_tokens=10)


def test_no_task_stands_on_both_sides() -> None:
    rows = rows_of(make_pairs(), max_row_tokens=1)
    for seed in range(5):
        train, held_out = split_rows(rows, 0.3, seed)
        assert len({row.task for row in held_out}) == 3
        assert not {row.task for row in train} & {row.task for row in held_out}
        assert len(train) + len(held_out) == len(rows)
    with pytest.raises(ConfigError, match="1 task"):
        split_rows(rows[:3], 0.5, seed=0)
    # Where no task is named, its prompt is.
    nameless = rows_of([replace(pair, test_id="") for pair in make_pairs()], max_row_tokens=1)
    assert len({row.task for row in nameless}) == 10


def trainer_over(records: list[dict[str, Any]], trainer: Any, collator: Any, model: Any, folder: Path) -> Any:
    arguments = RewardConfig(
        str(folder),
        use_cpu=True,
        bf16=False,
        center_rewards_coefficient=0.5,
        max_length=None,
        remove_unused_columns=False,
        activation_checkpointing=False,
        report_to="none",
    )
    return trainer(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=Dataset.from_list(records),
        processing_class=make_tokenizer(),
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_shared_rows_give_trls_loss_and_gradients(tmp_path: Path, attention: str) -> None:
    rows = rows_of(make_pairs(3))
    tokenizer = make_tokenizer()
    found = []
    for records, kind, collator in (
        (shared_records(rows), PreferenceTrainer, SharedPromptCollator(tokenizer.pad_token_id)),
        (pair_records(rows), RewardTrainer, None),
    ):
        model = make_reward_model("outcome", seed=3)
        model.set_attn_implementation(attention)
        trainer = trainer_over(records, kind, collator, model, tmp_path)
        batch = trainer.data_collator(records)
        model.train()
        loss, outputs = trainer.compute_loss(model, batch, return_outputs=True)
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((loss, outputs.logits.flatten(), *gradients))
    assert len(found[0]) == len(found[1])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    # And it is what the paper says.
    loss, logits = found[0][:2]
    chosen, rejected = logits.double().chunk(2)
    by_hand = torch.log1p(torch.exp(rejected - chosen)).mean() + 0.5 * ((chosen + rejected) ** 2).mean()
    assert loss.item() == pytest.approx(by_hand.item(), abs=1e-5)


def test_pairs_weigh_the_same_however_they_fall_into_batches(tmp_path: Path) -> None:
    pairs = make_pairs(3)
    rows = rows_of([pairs[0], *pairs[3:]])  # of the first task there is one pair alone
    collator = SharedPromptCollator(make_tokenizer().pad_token_id)
    trainer = trainer_over(shared_records(rows), PreferenceTrainer, collator, make_reward_model("outcome"), tmp_path)
    whole = trainer.compute_loss(trainer.model, collator(shared_records(rows)))
    batches, count = trainer.get_batch_samples(iter(map(collator, ([r] for r in shared_records(rows)))), 3, "cpu")
    assert count == 7
    parts = [trainer.compute_loss(trainer.model, batch, num_items_in_batch=count) for batch in batches]
    assert float(sum(parts)) == pytest.approx(float(whole), abs=1e-5)


def test_lora_added_in_is_the_model_that_was_trained() -> None:
    tokenizer = make_tokenizer()
    classifier = make_classifier(make_model(layers=3), "outcome", pad_token_id=tokenizer.pad_token_id, layers=2)
    adapted = add_lora(classifier, 2, upper_layers=1)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all("layers.1." in name or "score" in name for name in trained)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name in trained:
                parameter.add_(0.05)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = adapted.eval()(input_ids=ids).logits
    plain = merged(adapted)
    assert type(plain).__name__ == "Qwen2ForSequenceClassification"
    torch.testing.assert_close(plain(input_ids=ids).logits, before)
    assert parts_of(plain)[0].config.num_hidden_layers == 2


def test_extra_layers_change_nothing_until_they_are_trained(tmp_path: Path) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    plain, grown = (
        make_classifier(make_model(), "outcome", pad_token_id=0, extra_layers=extra, seed=3) for extra in (0, 2)
    )
    assert len(parts_of(grown)[0].layers) == len(parts_of(plain)[0].layers) + 2 == grown.config.num_hidden_layers
    # The draws differ, so the heads do: what they read is the same.
    states = [parts_of(one)[0](input_ids=ids).last_hidden_state for one in (plain, grown)]
    torch.testing.assert_close(*states)
    grown(input_ids=ids).logits.sum().backward()
    top = parts_of(grown)[0].layers[-1]
    assert float(top.mlp.down_proj.weight.grad.abs().sum()) > 0
    assert not torch.equal(top.self_attn.q_proj.weight, parts_of(grown)[0].layers[-2].self_attn.q_proj.weight)
    with torch.no_grad():
        top.mlp.down_proj.weight.add_(0.1)
        top.self_attn.o_proj.weight.add_(0.1)
    HFScorer(grown, make_tokenizer()).save_pretrained(tmp_path)
    loaded = HFScorer.from_pretrained(tmp_path, device="cpu").model
    torch.testing.assert_close(loaded(input_ids=ids).logits, grown(input_ids=ids).logits)
    # With a cache each layer keeps its own keys.
    cached = parts_of(grown)[0](input_ids=ids[:, :2], use_cache=True)
    rest = parts_of(grown)[0](input_ids=ids[:, 2:], past_key_values=cached.past_key_values).last_hidden_state
    torch.testing.assert_close(rest, parts_of(grown)[0](input_ids=ids).last_hidden_state[:, 2:])


@pytest.mark.parametrize("settings", [{"layers": 4}, {"layers": 0}])
def test_layers_that_are_not_there(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="has 2 layers"):
        make_classifier(make_model(), "outcome", pad_token_id=0, **settings)
    with pytest.raises(ConfigError, match="upper layers"):
        add_lora(make_classifier(make_model(), "outcome", pad_token_id=0), 2, upper_layers=settings["layers"])


@pytest.mark.filterwarnings("error::UserWarning", "error::FutureWarning")
def test_training_learns_and_saves_what_the_scorer_loads(tmp_path: Path) -> None:
    pairs, kept, config = make_pairs(), [], replace(QUICK, epochs=3)

    def load(*arguments: Any, **options: Any) -> Any:
        kept.append(1)
        model, tokenizer = load_tiny(*arguments, **options)
        model.config._name_or_path = str(tmp_path / "a-gguf-file")  # where no config.json is
        return model, tokenizer

    record = train_toolrm(pairs, "tiny", tmp_path / "rm", config, load_model=load, device="cpu")
    assert record["held_out_accuracy"] == 1.0
    assert record["train"]["tasks"] == 8
    assert record["train"]["tokens"] < record["train"]["tokens_in_pairs"]
    assert record["trained_parameters"] < record["parameters"]
    scorer = HFScorer.from_pretrained(tmp_path / "rm", device="cpu")
    scores = scorer.score([c for pair in pairs for c in pair_conversations(pair)])
    assert (scores[::2] > scores[1::2]).mean() > 0.9
    assert not (tmp_path / "rm" / "checkpoints").exists()
    # Again: nothing is done. Otherwise: nothing is lost.
    assert train_toolrm(pairs, "tiny", tmp_path / "rm", config, load_model=load) == record
    assert len(kept) == 1
    with pytest.raises(ConfigError, match=r"pairs 30, not 29"):
        train_toolrm(pairs[1:], "tiny", tmp_path / "rm", config, load_model=load)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="not empty"):
        train_toolrm(pairs, "tiny", tmp_path / "other", config, load_model=load)


def test_upper_layers_alone_are_trained(tmp_path: Path) -> None:
    config = replace(QUICK, lora_rank=0, upper_layers=2, extra_layers=1)
    record = train_toolrm(make_pairs(), "tiny", tmp_path / "rm", config, load_model=load_tiny)
    assert record["trained_parameters"] < record["parameters"]
    before, _ = load_tiny("tiny")
    after = HFScorer.from_pretrained(tmp_path / "rm", device="cpu").model
    old, new = before.base_model.state_dict(), parts_of(after)[0].state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed
    assert all(name.startswith(("layers.1.", "norm.")) for name in changed)
    assert {name for name in new if name not in old} == {name for name in new if name.startswith("layers.2.")}
    with pytest.raises(ConfigError, match="extra_layers are trained whole"):
        replace(QUICK, extra_layers=1, lora_rank=4)


def test_a_training_that_was_killed_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = make_pairs()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    train_toolrm(pairs, "tiny", tmp_path / "whole", QUICK, load_model=load_tiny)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])

    class Killed(callbacks.ShowProgress):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == 3:  # a checkpoint stands at 2
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "ShowProgress", Killed)
        with pytest.raises(KeyboardInterrupt):
            train_toolrm(pairs, "tiny", tmp_path / "killed", QUICK, load_model=load_tiny)
    torn = tmp_path / "killed" / "checkpoints" / "checkpoint-3"
    torn.mkdir()
    (torn / "adapter_config.json").write_text("{")
    train_toolrm(pairs, "tiny", tmp_path / "killed", QUICK, load_model=load_tiny)
    conversations = [c for pair in pairs[:4] for c in pair_conversations(pair)]
    scores = [HFScorer.from_pretrained(tmp_path / n, device="cpu").score(conversations) for n in ("whole", "killed")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_a_training_that_had_stopped_early_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, config = make_pairs(6), replace(QUICK, epochs=40, patience=1)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HFScorer, "save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            train_toolrm(pairs, "tiny", tmp_path / "rm", config, load_model=load_tiny)
    states = [json.loads(path.read_text()) for path in (tmp_path / "rm").rglob("trainer_state.json")]
    last = max(states, key=lambda state: state["global_step"])
    assert last["global_step"] < last["max_steps"]
    record = train_toolrm(pairs, "tiny", tmp_path / "rm", config, load_model=load_tiny)
    assert (record["updates"], record["best_update"]) == (last["global_step"], last["best_global_step"])


def test_the_layout_of_pairs_trains_too(tmp_path: Path) -> None:
    config = replace(QUICK, layout="pairs")
    record = train_toolrm(make_pairs(), "tiny", tmp_path / "rm", config, load_model=load_tiny)
    assert record["layout_used"] == "pairs"
    assert record["held_out_accuracy"] == 1.0


def test_the_command_trains_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with PairWriter(tmp_path / "pairs.jsonl") as writer:
        writer.write(make_pairs())
    make_model().save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    words = f"toolrm train {tmp_path}/pairs.jsonl --model {tmp_path}/tiny --output {tmp_path}/rm --device cpu"
    options = "--lora-rank 0 --learning-rate 1e-2 --batch-pairs 8 --held-out 0.2 --limit 24"
    assert main([*words.split(), *options.split()]) == 0
    said = capsys.readouterr().out
    assert "held-out accuracy" in said
    assert json.loads((tmp_path / "rm" / "train.json").read_text())["pairs"] == 24
    assert main([*words.split(), "--lora-rank", "0", "--upper-layers", "1"]) == 2
