"""The nano policy: a language model of about a million parameters that searches on a laptop's CPU.

It is a real Qwen2 with a byte-level BPE tokenizer, a chat template and special tokens, made for the bundled world
alone. Its warm-started weights ship with the package; ``python -m agents.nano`` makes them again.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agents.experts import SearchExpert
from agents.rollout import play
from agents.sft import Evaluation, SFTConfig, fit
from agents.tokens import ConversationEncoder
from toolenv.data.world import load_world, questions
from toolenv.envs.search_qa import SearchQAEnv
from toolenv.episode import Episode, Turn
from toolenv.extras import require
from toolenv.formats import SearchR1
from toolenv.messages import Message, ToolCall, ToolResult
from toolenv.seeding import rng

ASSETS = Path(__file__).parent / "assets" / "nano"
HOPS = (1, 2)
VOCABULARY = 4096
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

ENV_KWARGS: dict[str, Any] = {"hops": HOPS, "top_k": 1, "max_turns": 6}
"""Settings of ``ToolSearchQA-v0`` that the nano policy was made for; with ``nano_format()``."""


def nano_format() -> SearchR1:
    """Search-R1's format with a prompt that is the question alone, since every token costs."""
    return SearchR1(template="$question", invalid="\n\n<information> invalid action</information>\n\n")


def load_nano(folder: str | Path = ASSETS) -> tuple[Any, Any]:
    """The warm-started nano policy.

    Returns:
        Model (float32) and tokenizer, as transformers gives them.

    Raises:
        MissingExtraError: transformers or torch is not installed.
    """
    transformers = require("transformers", "train")
    torch = require("torch", "train")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def new_nano(tokenizer: Any, seed: int = 0) -> Any:
    """A nano model with random weights."""
    torch = require("torch", "train")
    transformers = require("transformers", "train")
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.Qwen2ForCausalLM(config)


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Any:
    """A byte-level BPE tokenizer with ChatML's special tokens; any text survives it."""
    tokenizers = require("tokenizers", "train")
    transformers = require("transformers", "train")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def expert_episodes(split: str, count: int, seed: int = 0) -> list[Episode]:
    """Episodes of the scripted expert that ended with the right answer.

    The expert does not know how to phrase a query (see ``SearchExpert``): what it shows is how to search, read and
    answer, and every way to ask, good and bad.
    """
    env = SearchQAEnv(split=split, format=nano_format(), **ENV_KWARGS)
    episodes: list[Episode] = []
    index = 0
    while len(episodes) < count:
        agent = SearchExpert(nano_format(), rng(seed, "expert", split, index))
        episode = play(env, agent, seed=index)
        index += 1
        if episode.answer in episode.task.answers:
            episodes.append(episode)
    return episodes


def rename_entities(episode: Episode, seed: int) -> Episode:
    """Give the names in an episode made-up ones, the same everywhere: a model must read them, not remember them."""
    generator = rng(seed, "names")
    if generator.random() < 0.3:
        return episode
    names = _names(episode)
    parts = _name_parts()
    renamed = {name: _fuse(parts, generator) for name in names if not any(c.isdigit() for c in name)}
    if not renamed:
        return episode
    pattern = re.compile("|".join(rf"\b{re.escape(n)}\b" for n in sorted(renamed, key=len, reverse=True)))

    def new(text: str) -> str:
        return pattern.sub(lambda match: renamed[match.group()], text)

    return replace(
        episode,
        prompt=tuple(Message(m.role, new(m.content), m.name) for m in episode.prompt),
        turns=tuple(_renamed_turn(turn, new) for turn in episode.turns),
    )


def _renamed_turn(turn: Turn, new: Any) -> Turn:
    observation = tuple(Message(m.role, new(m.content), m.name) for m in turn.observation)
    return replace(turn, action=new(turn.action), observation=observation)


def _names(episode: Episode) -> list[str]:
    """Names that matter in an episode: of its hops, and of the articles that were found."""
    world = load_world()
    names = {str(hop[key]) for hop in episode.task.metadata["hops"] for key in ("subject", "object")}
    found = {p for turn in episode.turns for result in turn.results for p in result.data["passages"]}
    return sorted(names | {world.passage(p).title for p in found})


def _name_parts() -> Sequence[str]:
    return _titles()


def _titles(cache: list[str] | None = None) -> list[str]:
    return sorted({passage.title for passage in load_world().passages})


def _fuse(parts: Sequence[str], generator: Any) -> str:
    """The head of one name and the tail of another."""
    head = parts[int(generator.integers(len(parts)))]
    tail = parts[int(generator.integers(len(parts)))]
    return head[: max(2, len(head) // 2)].rstrip() + tail[len(tail) // 2 :].lower()
