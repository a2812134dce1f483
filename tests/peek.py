"""A toy to learn on: ask the tool for the secret letter, then say it; and a policy of a few thousand parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from agents.metrics import read_metrics
from rewards import OutcomeFn, RewardSum, TurnView
from toolenv import Message, Parsed, Task, TaskSet, ToolCall, ToolEnv, ToolVectorEnv, tool

LETTERS = "ABCD"


class PeekFormat:
    """One character a turn: ``?`` asks, a letter answers."""

    name = "peek"
    stop = ("?", *LETTERS)
    continues = True

    def prompt(self, instruction, task, schemas):
        return (Message("user", task.prompt),)

    def parse(self, action):
        if action == "?":
            return Parsed((ToolCall("peek"),))
        if action in tuple(LETTERS):
            return Parsed(answer=action)
        return Parsed(error="neither a question nor a letter")

    def render(self, results):
        return (Message("tool", "=" + results[0].content),)

    def render_error(self, error):
        return (Message("tool", "!"),)

    def write_call(self, call):
        return "?"

    def write_answer(self, answer):
        return answer


class PeekEnv(ToolEnv):
    """Its tool tells the secret of the task; without it the chance is one in four."""

    grading = "em"

    def __init__(self, **kwargs):
        tasks = [Task(id=letter, prompt="Q", answers=(letter,)) for letter in LETTERS]
        super().__init__(TaskSet(tasks), format=PeekFormat(), max_turns=3, **kwargs)

    def tools_for(self, task):
        @tool
        def peek() -> str:
            """Tell the secret."""
            return task.answers[0]

        return {"peek": peek}


class Asked:
    """A turn reward: 1 for asking first, 0 for asking again or for nonsense; an answer is not its business."""

    name = "asked"

    def score(self, views: Sequence[TurnView]):
        return [
            None if view.turn.answer is not None else float(bool(view.turn.calls) and view.index == 0) for view in views
        ]


def peek_envs(count=16):
    return ToolVectorEnv([PeekEnv] * count, autoreset_mode="Disabled")


def peek_rewards():
    return RewardSum({"outcome": OutcomeFn("em"), "asked": Asked()})


def peek_tokenizer():
    names = ["<|pad|>", "<|end|>", "Q", "?", "=", "!", *LETTERS]
    vocabulary = {name: i for i, name in enumerate(names)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.decoder = tokenizers.decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>")


def peek_model(seed=0, hidden=32):
    config = Qwen2Config(
        vocab_size=10, hidden_size=hidden, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
        bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def peek_train(train: Callable[..., Any], config: Any, **given: Any) -> Any:
    """Train on the toy; what is given stands in the place of what would be made."""
    made = {
        "model": peek_model(), "tokenizer": peek_tokenizer(), "envs": peek_envs(5), "eval_envs": peek_envs(4),
        "rewards": peek_rewards(), "quiet": True,
    }  # fmt: skip
    return train(config, **{**made, **given})


def timeless(folder: Path) -> list[dict[str, Any]]:
    """A run's metrics, without how long things took."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.startswith("seconds/")} for line in lines]
