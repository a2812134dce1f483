"""Tiny tokenizers, models and environments for the tests of ``agents``, made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from agents.sampling.base import Generation
from agents.tokens import TokenHistory
from rewards.chat import encode_markup
from toolenv.env import ToolEnv
from toolenv.episode import Task, TaskSet
from toolenv.errors import InfrastructureError, ToolError
from toolenv.tools import tool
from toolenv.vector import ToolVectorEnv

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LINES = [
    "<search>capital of France</search>\n\n<information>Paris is the capital of France.</information>\n\n",
    "<answer>Paris</answer> Answer the question below. Question: What is the capital of France?",
    '<tool_call>\n{"name": "search", "arguments": {"query": "Lyon"}}\n</tool_call>',
    "<tool_response>\nLyon lies on the Rhône.\n</tool_response>",
]


@cache
def make_tokenizer(chat_template: str | None = CHATML) -> Any:
    """A byte-level BPE tokenizer with ChatML's special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(LINES * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_model(seed: int = 0, layers: int = 2, hidden: int = 32, spread: float = 0.25) -> Any:
    """A Qwen2 with drawn weights; ``spread`` makes its distributions far from flat."""
    config = Qwen2Config(
        vocab_size=len(make_tokenizer()),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=spread,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config).eval()


@tool
def search(query: str) -> str:
    """Look something up.

    Args:
        query: What to look up.
    """
    if "nothing" in query:
        raise ToolError("nothing was found")
    if "outage" in query:
        raise InfrastructureError("the index is down")
    return f"{query} is a town.<|im_end|>"


@tool
def python(code: str) -> str:
    """Run a program; the one tool that ToRL's format can call.

    Args:
        code: The program.
    """
    return code


def make_tasks(count: int = 5) -> TaskSet:
    """Tasks whose answers are their numbers."""
    return TaskSet([Task(id=f"t{i}", prompt=f"What is town {i}?", answers=(str(i),)) for i in range(count)])


def make_env(format: str = "search_r1", max_turns: int | None = 3) -> ToolEnv:
    """A toy environment with one tool."""
    return ToolEnv(make_tasks(), [python if format == "torl" else search], format=format, max_turns=max_turns)


def make_envs(count: int, format: str = "search_r1", max_turns: int | None = 3) -> ToolVectorEnv:
    """Toy environments that are reset by hand."""
    return ToolVectorEnv([lambda: make_env(format, max_turns)] * count, AutoresetMode.DISABLED)


class TextSampler:
    """Says fixed texts, one a turn, encoded as a policy would have written them, and counts its calls."""

    def __init__(self, *texts: str, end: tuple[int, ...] = ()) -> None:
        self.texts = texts
        self.end = end
        self.batches: list[int] = []

    def generate(self, prompts: Sequence[TokenHistory], *, seeds: Sequence[int]) -> list[Generation]:
        """The text of each history's turn."""
        self.batches.append(len(prompts))
        return [
            self._say(self.texts[min(p.num_turns, len(self.texts) - 1)], seed)
            for p, seed in zip(prompts, seeds, strict=True)
        ]

    def _say(self, text: str, seed: int) -> Generation:
        ids = (*encode_markup(make_tokenizer(), text), *self.end)
        return Generation(ids, (-0.5,) * len(ids), text, "stop", seed % 7)
