"""One GRPO update beside TRL's, on the same episodes: tokens a second, peak memory, and that it is the same update.

Run: ``pip install -e '.[bench]' -c constraints.txt``, then ``python -m benchmarks.bench_update``, on a machine that
does nothing else (``--device cuda`` on a GPU). Prints medians and writes ``benchmarks/results/update.json``.

The episodes are a scripted expert's on bundled questions, in groups, as token ids. Both sides get the same ids, the
same mask of sampled tokens and the same advantage for each token, and train the same weights with AdamW, the same
learning rate, clipping and token-mean loss, and as many rows a micro-batch. An update is forward, backward, clipping
and the step, as each trainer itself does it: ``agents.update.update_policy``, and a step of ``GRPOTrainer.train`` that
is handed the prepared batch in place of generated completions. Sides alternate, each time in a process of its own: one
update whose gradient is compared, then the timed ones. Memory is the most that the process held, above what it held
before its first update, so it counts gradients, the optimiser's state and activations. Time is also given in seconds of
the processor, which other programs disturb less. TRL 1.16 always makes its logits in tiles (its fused head).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.batch import TokenTensors, pack_histories
from agents.experts import SearchExpert
from agents.models import load_model
from agents.nano import ENV_KWARGS, nano_format
from agents.sft import encode_episode
from agents.tokens import ConversationEncoder, TokenHistory
from toolenv.envs.search_qa import SearchQAEnv
from toolenv.episode import Episode
from toolenv.formats import SearchR1
from toolenv.seeding import rng

RESULTS = Path(__file__).with_name("results") / "update.json"
LEARNING_RATE = 1e-6
SAME = {"float32": 1e-4, "bfloat16": 0.1}  # how far gradients may be apart, relative to their norm


@dataclass(frozen=True)
class Case:
    """A policy and its batch.

    Attributes:
        groups: Tasks.
        group_size: Episodes a task.
        micro_batch: Rows that go through the model at once.
        timed: Timed updates a process.
    """

    groups: int
    group_size: int
    micro_batch: int
    timed: int


CASES = {"nano": Case(8, 8, 16, 5), "smollm2-135m": Case(1, 4, 2, 1)}

# TRL's defaults are gradient checkpointing, and matrix products in bfloat16 whatever the weights have.
SIDES = {
    "ours": ("ours", ()),
    "TRL": ("trl", ()),
    "ours, checkpointing": ("ours", ("--checkpointing",)),
    "TRL, checkpointing": ("trl", ("--checkpointing",)),
    "TRL, its defaults": ("trl", ("--checkpointing", "--autocast")),
}


def histories(name: str, case: Case, tokenizer: Any) -> list[TokenHistory]:
    """Tokens of the expert's episodes: of each task as many as a group has."""
    if name == "nano":
        form, settings = nano_format(), ENV_KWARGS
    else:
        form, settings = SearchR1(), {"hops": (1, 2), "top_k": 3, "max_turns": 4}
    env = SearchQAEnv(split="train", retriever="bm25", format=form, **settings)
    encoder = ConversationEncoder(tokenizer, form)
    encoded = []
    for index in range(case.groups * case.group_size):
        expert = SearchExpert(form, rng(0, "expert", index), max_searches=settings["max_turns"] - 1)
        env.reset(seed=index // case.group_size)
        while not (env.episode.terminated or env.episode.truncated):
            action = expert.act(env.episode.task, env.episode.turns)
            env.step(action if name == "nano" else f"<think> {thought(env.episode)} </think>\n{action}")
        encoded.append(encode_episode(encoder, env.episode))
    return encoded


def thought(episode: Episode) -> str:
    """What a model may say before it acts, so that a fair share of the tokens is its own; the nano policy says none."""
    read = [message.content for turn in episode.turns[-1:] for message in turn.observation]
    return " ".join(re.sub(r"<[^>]*>", "", text).strip() for text in (episode.task.prompt, *read))


def write_case(folder: Path, name: str, case: Case, precision: str) -> dict[str, Any]:
    """Write model and batch for the children; returns what is worth knowing of the batch."""
    model, tokenizer = load_model(name, device="cpu", precision=precision)  # type: ignore[arg-type]
    tokens = pack_histories(histories(name, case, tokenizer), tokenizer.pad_token_id, keep_tail=False)
    drawn = rng(0, "advantages").normal(size=(len(tokens.input_ids), int(tokens.turn_ids.max()) + 1))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save({"tokens": tokens, "advantages": drawn}, folder / "batch.pt")
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "episodes": len(tokens.input_ids),
        "tokens": int(tokens.attention_mask.sum()),
        "action_tokens": int(tokens.action_mask.sum()),
        "padding": round(1 - float(tokens.attention_mask.float().mean()), 3),
        "vocabulary": int(model.config.vocab_size),
    }


def read_case(folder: Path) -> tuple[TokenTensors, np.ndarray]:
    """The batch, and an advantage for each turn."""
    saved = torch.load(folder / "batch.pt", weights_only=False)
    return saved["tokens"], saved["advantages"]


def child(folder: Path, side: str, case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one side in a process of its own."""
    module, options = SIDES[side]
    words = [sys.executable, "-m", f"benchmarks.update_{module}", str(folder), "--device", arguments.device, *options]
    words += ["--micro-batch", str(case.micro_batch), "--timed", str(case.timed), "--precision", arguments.precision]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def apart(folder: Path) -> float:
    """How far the two sides' gradients of the first update are apart, relative to their size."""
    ours, theirs = (torch.load(folder / f"gradient-{side}.pt", weights_only=True) for side in ("ours", "trl"))
    assert ours.keys() == theirs.keys()
    difference = sum(float((ours[name] - theirs[name]).double().square().sum()) for name in ours)
    return float((difference / sum(float(g.double().square().sum()) for g in theirs.values())) ** 0.5)


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All sides of a case, in turn, round after round."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        facts = write_case(Path(folder), name, case, arguments.precision)
        print(f"{name}: {facts}", flush=True)
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for _ in range(arguments.rounds):
            for side in SIDES:
                runs[side].append(child(Path(folder), side, case, arguments))
        facts["gradient_difference"] = apart(Path(folder))
    if facts["gradient_difference"] > SAME[arguments.precision]:
        raise SystemExit(f"{name}: gradients differ by {facts['gradient_difference']:.1e}; it is not the same update")
    facts["sides"] = {side: summary(found, facts["tokens"]) for side, found in runs.items()}
    return facts


def summary(runs: Sequence[Mapping[str, Any]], tokens: int) -> dict[str, Any]:
    """Medians of a side."""
    times = {name: [round(value, 4) for run in runs for value in run[name]] for name in ("seconds", "cpu_seconds")}
    return {
        "tokens_per_s": round(tokens / statistics.median(times["seconds"]), 1),
        "tokens_per_cpu_s": round(tokens / statistics.median(times["cpu_seconds"]), 1),
        "peak_mib": round(statistics.median(run["peak_mib"] for run in runs), 1),
        "loss": runs[0]["loss"],
        "grad_norm": runs[0]["grad_norm"],
        **times,
        "peaks_mib": [round(run["peak_mib"], 1) for run in runs],
        "version": runs[0]["version"],
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    cases = {name: measure(name, arguments) for name in arguments.models}
    for name, facts in cases.items():
        print(f"\n{name}: {facts['episodes']} episodes, {facts['tokens']:,} tokens, {facts['action_tokens']:,} sampled")
        for side, found in facts["sides"].items():
            rates = f"{found['tokens_per_s']:>9,.0f} tokens/s {found['tokens_per_cpu_s']:>9,.0f} tokens/CPU-s"
            print(f"  {side:20} {rates} {found['peak_mib']:>9,.0f} MiB")
        print(f"  gradients differ by {facts['gradient_difference']:.1e} of their norm")
    record = {
        "device": arguments.device,
        "precision": arguments.precision,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "cases": cases,
    }
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
