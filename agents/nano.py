"""The nano policy: a language model of about a million parameters that searches on a laptop's CPU.

It is a real Qwen2 with a byte-level BPE tokenizer, a chat template and special tokens, made for the bundled world
alone. Its warm-started weights ship with the package; ``python -m agents.nano`` makes them again.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.experts import SearchExpert
from agents.sft import Evaluation, SFTConfig, fit
from agents.tokens import ConversationEncoder
from rewards.tokenizer import load_tokenizer
from toolenv.data.world import load_world, questions
from toolenv.envs.search_qa import make_vec
from toolenv.episode import Episode, Turn
from toolenv.extras import require
from toolenv.formats import SearchR1
from toolenv.messages import Message, ToolCall
from toolenv.quiet import without_transformers_bars
from toolenv.seeding import rng

if TYPE_CHECKING:
    from numpy.random import Generator

    from toolenv.data.world.world import Split

ASSETS = Path(__file__).parent / "assets" / "nano"
"""The folder of the warm-started policy."""
HOPS = (1, 2)
VOCABULARY = 4096
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

STAGES = (
    SFTConfig(
        learning_rate=2.5e-3,
        warmup_updates=100,
        batch_episodes=16,
        max_updates=4500,
        eval_every=200,
        patience=10,
        context_share=0.2,
    ),
    SFTConfig(
        learning_rate=1.5e-3,
        warmup_updates=50,
        batch_episodes=16,
        max_updates=4000,
        eval_every=200,
        patience=10,
        seed=1,
    ),
)
"""The warm start: first with a share of the real names, then with none, so that what was remembered is forgotten.

The second stage is the long one: the held-out loss rises at its start, and then falls to its plateau.
"""
REAL_NAMES = (0.2, 0.0)

ENV_KWARGS: dict[str, Any] = {"hops": HOPS, "top_k": 1, "max_turns": 4}
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
    with without_transformers_bars():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), load_tokenizer(Path(folder))


def new_nano(tokenizer: Any, seed: int = 0) -> Any:
    """A nano model with random weights."""
    torch = require("torch", "train")
    transformers = require("transformers", "train")
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
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


def expert_episodes(split: Split, count: int, seed: int = 0, num_envs: int = 64) -> list[Episode]:
    """Episodes of the scripted expert that ended with the right answer.

    The expert does not know how to phrase a query (see ``SearchExpert``): what it shows is how to search, read and
    answer, and every way to ask, good and bad.

    Args:
        split: Split of the bundled questions.
        count: How many episodes.
        seed: Seed of the expert.
        num_envs: Environments that play side by side.
    """
    form = nano_format()
    envs = make_vec(num_envs, autoreset_mode="Disabled", split=split, format=form, **ENV_KWARGS)
    tasks = len(envs.envs[0].tasks)
    episodes: list[Episode] = []
    first = 0
    while len(episodes) < count:
        agents = [
            SearchExpert(form, rng(seed, "expert", split, first + i), max_searches=ENV_KWARGS["max_turns"] - 1)
            for i in range(num_envs)
        ]
        envs.reset(options={"task": [(first + i) % tasks for i in range(num_envs)]})
        for _ in range(ENV_KWARGS["max_turns"]):
            running = [env.episode for env in envs.envs]
            envs.step([agent.act(e.task, e.turns) for agent, e in zip(agents, running, strict=True)])
        played = [env.episode for env in envs.envs]
        episodes += [episode for episode in played if episode.answer in episode.task.answers]
        first += num_envs
    return episodes[:count]


def rename_entities(episode: Episode, seed: int) -> Episode:
    """Give the names, codes and numbers that matter in an episode other ones, the same everywhere.

    So a model has to read them, and cannot remember them. Names come from the titles of all splits, whole or cut and
    joined, with nothing of their facts; so the tokens of held-out names are known, and what they stand for is not. The
    task itself stays as it is.
    """
    generator = rng(seed, "names")
    renamed: dict[str, str] = {}
    for name in _names(episode):
        new = _other_name(name, generator)
        renamed[name] = new
        # An element's title is "Zinc", and a question writes "zinc".
        renamed.setdefault(name[0].lower() + name[1:], new[0].lower() + new[1:])
    words = "|".join(re.escape(name) for name in sorted(renamed, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:{words})(?!\w)")

    def substitute(text: str) -> str:
        return pattern.sub(lambda match: renamed[match.group()], text)

    return replace(
        episode,
        prompt=tuple(Message(m.role, substitute(m.content), m.name) for m in episode.prompt),
        turns=tuple(_renamed_turn(turn, substitute) for turn in episode.turns),
    )


def _renamed_turn(turn: Turn, substitute: Callable[[str], str]) -> Turn:
    def call(made: ToolCall) -> ToolCall:
        given = made.arguments.items()
        return ToolCall(made.name, {k: substitute(v) if isinstance(v, str) else v for k, v in given})

    return replace(
        turn,
        action=substitute(turn.action),
        calls=tuple(call(made) for made in turn.calls),
        results=tuple(replace(r, call=call(r.call), content=substitute(r.content)) for r in turn.results),
        answer=None if turn.answer is None else substitute(turn.answer),
        observation=tuple(Message(m.role, substitute(m.content), m.name) for m in turn.observation),
    )


def _names(episode: Episode) -> list[str]:
    """What matters in an episode: subjects and objects of its hops, and the articles that were found."""
    world = load_world()
    names = {str(hop[key]) for hop in episode.task.metadata["hops"] for key in ("subject", "object")}
    found = {p for turn in episode.turns for result in turn.results for p in result.data.get("passages", ())}
    names |= {world.passage(p).title for p in found}
    # Two small letters are a language's code, and too often a word.
    return sorted(name for name in names if not re.fullmatch(r"[a-z]{2}", name))


@cache
def _titles() -> tuple[str, ...]:
    return tuple(sorted({passage.title for passage in load_world().passages}))


def _other_name(name: str, generator: Generator) -> str:
    """Another name of the same kind: digits for digits, a code for a code, a name for a name."""
    if any(c.isdigit() for c in name):
        return re.sub(r"\d", lambda _: str(generator.integers(10)), name)
    if re.fullmatch(r"[A-Z]{1,3}|[A-Z][a-z]|\.[a-z]+", name):
        return re.sub(r"[A-Z]", lambda _: chr(65 + generator.integers(26)), _random_small_letters(name, generator))
    if "/" in name:
        area, _, _ = name.partition("/")
        return f"{area}/{_title(generator).replace(' ', '_')}"
    return _title(generator) if generator.random() < 0.5 else _joined_title(generator)


def _random_small_letters(code: str, generator: Generator) -> str:
    return re.sub(r"[a-z]", lambda _: chr(97 + generator.integers(26)), code)


def _title(generator: Generator) -> str:
    titles = _titles()
    return titles[int(generator.integers(len(titles)))]


def _joined_title(generator: Generator) -> str:
    """The head of one title and the tail of another."""
    head, tail = _title(generator), _title(generator)
    return head[: max(2, len(head) // 2)].rstrip() + tail[len(tail) // 2 :].lower()


def build(
    folder: Path, *, episodes: int, stages: Sequence[SFTConfig], report: Callable[[Evaluation], None]
) -> list[list[Evaluation]]:
    """Make the warm-started policy: tokenizer, expert episodes, supervised training to the plateau.

    What was stopped goes on: each stage keeps where it stands beside the results, in ``stage-N.pt``, until all is done.

    Args:
        folder: Where model, tokenizer and ``warmstart.json`` (the held-out curves) go.
        episodes: Expert episodes to learn from.
        stages: Settings of the training, stage by stage.
        report: Told of each look at the held-out loss.

    Returns:
        The looks of each stage.
    """
    train = expert_episodes("train", episodes)
    validation = expert_episodes("validation", 200)
    articles = [passage.contents for passage in load_world().passages]
    asked = [task.prompt for task in questions("train")]
    spoken = ["".join(m.content for m in episode.messages()) for episode in train[:2000]]
    tokenizer = train_tokenizer([*articles, *asked, *spoken])
    model = new_nano(tokenizer)
    encoder = ConversationEncoder(tokenizer, nano_format())
    folder.mkdir(parents=True, exist_ok=True)
    kept = [folder / f"stage-{number}.pt" for number in range(1, len(stages) + 1)]
    curves = []
    for config, share, checkpoint in zip(stages, REAL_NAMES, kept, strict=True):
        transform = partial(_sometimes_renamed, real=share)
        options: dict[str, Any] = {"transform": transform, "progress": report, "checkpoint": checkpoint}
        curves.append(fit(model, encoder, train, validation, config, **options))
    # Half the bytes; training reads them back as float32.
    with without_transformers_bars():
        model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {
        "episodes": episodes,
        "stages": [asdict(config) for config in stages],
        "curves": [[asdict(look) for look in curve] for curve in curves],
    }
    (folder / "warmstart.json").write_text(json.dumps(record, indent=1) + "\n")
    for checkpoint in kept:
        checkpoint.unlink()
    return curves


def _sometimes_renamed(episode: Episode, seed: int, real: float) -> Episode:
    """Renamed, except for a share of the episodes."""
    return episode if rng(seed, "real").random() < real else rename_entities(episode, seed)


def main() -> None:
    """Make the weights again: ``python -m agents.nano``."""
    parser = argparse.ArgumentParser(description="Make the warm-started nano policy again.")
    parser.add_argument("--output-dir", type=Path, default=ASSETS)
    parser.add_argument("--episodes", type=int, default=6000)
    parser.add_argument("--max-updates", type=int, help="most updates a stage, to try it out")
    arguments = parser.parse_args()
    limit = arguments.max_updates
    stages = [config if limit is None else replace(config, max_updates=limit) for config in STAGES]
    total = sum(config.max_updates for config in stages)
    start, looks = time.monotonic(), [0]

    def report(look: Evaluation) -> None:
        looks[0] += stages[0].eval_every
        left = (time.monotonic() - start) / looks[0] * max(0, total - looks[0])
        print(
            f"update {look.update}  train {look.train_loss:.3f}  held-out {look.validation_loss:.3f} nats a token  "
            f"about {left / 60:.0f} min left",
            flush=True,
        )

    build(arguments.output_dir, episodes=arguments.episodes, stages=stages, report=report)


if __name__ == "__main__":
    main()
