"""GRPO with ToolRM and no gold, beside gold and the schemas alone: ``python -m benchmarks.bench_toolrm_grpo``.

In small: bundled tasks of a few functions, a policy of about a million parameters that a short warm start leaves half
right, and a ToolRM of that size trained on pairs of the same tasks. Each part goes on where it was stopped. Success is
that of other tasks, by their gold calls, which only the evaluation and the gold reward see.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agents.checkpoint import latest
from agents.cli import main as toolenv
from agents.environments import make_envs
from agents.experts import FunctionCallExpert
from agents.nano import new_nano, train_tokenizer
from agents.sft import SFTConfig, fit
from agents.tokens import ConversationEncoder
from toolenv.data.functions import function_tasks
from toolenv.episode import Episode, Task

ROOT = Path(__file__).resolve().parents[1]
REWARDS = ("toolrm", "gold", "schema")
MOST_CALLS = {"max_turns": 2}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    train, held_out = write_tasks(options)
    warm = make_policy(options, train)
    toolrm = make_toolrm(options, train, warm)
    results: dict[str, Any] = {"settings": {k: v for k, v in vars(options).items() if k not in ("work", "results")}}
    results["warm start"] = evaluate(options, "warm-start", warm, held_out)
    for reward in REWARDS:
        for seed in range(options.seeds):
            results[f"{reward}, seed {seed}"] = learn(options, reward, seed, warm, toolrm, train, held_out)
    options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, found in results.items():
        if "success_rate" in found:
            print(f"{name:20} {found['success_rate']:.3f} {[round(end, 3) for end in found['interval_95']]}")


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    words.add_argument("--work", type=Path, default=Path("runs/bench-toolrm-grpo"), help="tasks, models, runs")
    words.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/toolrm_grpo.json")
    words.add_argument("--functions", type=int, default=8, help="how many functions tasks are about")
    words.add_argument("--drawn", type=int, default=12_000, help="tasks that are drawn, of which few are about these")
    words.add_argument("--held-out", type=int, default=100, help="tasks for the evaluation")
    words.add_argument("--warm-updates", type=int, default=250, help="of the warm start, 16 episodes each")
    words.add_argument("--pairs", type=int, default=2000, help="for the ToolRM")
    words.add_argument("--updates", type=int, default=30, help="of GRPO")
    words.add_argument("--groups", type=int, default=8, help="tasks an update, 8 episodes each")
    words.add_argument("--seeds", type=int, default=2, help="runs a reward")
    return words


def run(*words: object) -> None:
    print("toolenv", *words, flush=True)
    status = toolenv([str(word) for word in words])
    if status:
        raise SystemExit(status)


def write_tasks(options: argparse.Namespace) -> tuple[Path, Path]:
    """Tasks of one call about the commonest functions; each offers the right function and another one."""
    single = [task for task in function_tasks("train", options.drawn) if task.metadata["category"] == "single"]
    counts = Counter(task.gold_calls[0].name for task in single)
    names = {name for name, _ in counts.most_common(options.functions)}
    schemas = {f["name"]: f for task in single for f in task.functions if f["name"] in names}
    tasks = [_offering(task, schemas) for task in single if task.gold_calls[0].name in names]
    files = options.work / "train-tasks.jsonl", options.work / "held-out-tasks.jsonl"
    for path, part in zip(files, (tasks[options.held_out :], tasks[: options.held_out]), strict=True):
        path.write_text("".join(json.dumps(asdict(task)) + "\n" for task in part), encoding="utf-8")
    return files


def _offering(task: Task, schemas: dict[str, Any]) -> Task:
    names = sorted(schemas)
    right = task.gold_calls[0].name
    other = names[(names.index(right) + 1) % len(names)]
    return replace(task, functions=tuple(schemas[name] for name in sorted({right, other})))


def make_policy(options: argparse.Namespace, tasks: Path) -> Path:
    folder: Path = options.work / "policy"
    if (folder / "config.json").is_file():
        return folder
    episodes = expert_episodes(tasks)
    texts = ["".join(message.content for message in episode.messages()) for episode in episodes]
    tokenizer = train_tokenizer(texts)
    model = new_nano(tokenizer)
    envs = make_envs("ToolFunctionCall-v0", 1, {"tasks": str(tasks), **MOST_CALLS})
    encoder = ConversationEncoder(tokenizer, envs.envs[0].format)
    updates = options.warm_updates
    looks = max(1, updates // 10)
    config = SFTConfig(learning_rate=2.5e-3, batch_episodes=16, max_updates=updates, eval_every=looks, patience=99)
    watched = max(1, len(episodes) // 10)
    state = options.work / "warm-start.pt"
    fit(model, encoder, episodes[watched:], episodes[:watched], config, progress=print, checkpoint=state)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def expert_episodes(path: Path) -> list[Episode]:
    env = make_envs("ToolFunctionCall-v0", 1, {"tasks": str(path), **MOST_CALLS}).envs[0]
    expert = FunctionCallExpert(env.format)
    episodes = []
    for index in range(len(env.tasks)):
        env.reset(options={"task": index})
        for _ in range(MOST_CALLS["max_turns"]):
            env.step(expert.act(env.episode.task, env.episode.turns))
        episodes.append(env.episode)
    return episodes


def make_toolrm(options: argparse.Namespace, tasks: Path, backbone: Path) -> Path:
    """A ToolRM over the warm-started policy; the tasks that are evaluated on have no pair."""
    pairs, folder = options.work / "pairs.jsonl", options.work / "toolrm"
    kinds = ("--obfuscate", 0, "--withheld", 0, "--per-prompt", 8)
    run("toolrm", "pairs", "--tasks", tasks, "--pairs", options.pairs, *kinds, "--output", pairs)
    whole = ("--lora-rank", 0, "--learning-rate", 1e-3, "--epochs", 3, "--precision", "float32")
    run("toolrm", "train", pairs, "--model", backbone, "--output", folder, *whole, "--device", "cpu")
    return folder


def learn(
    options: argparse.Namespace, reward: str, seed: int, warm: Path, toolrm: Path, train: Path, held_out: Path
) -> dict[str, Any]:
    scorer = json.dumps({"scorer": str(toolrm), "invalid": -3.0})
    outcome = {
        "toolrm": f"rewards:ToolRMFn{scorer}",
        "gold": "rewards:ToolFn",
        "schema": "rewards:SchemaFn",
    }[reward]
    folder = options.work / f"grpo-{reward}-{seed}"
    sizes = ("--num-updates", options.updates, "--groups-per-update", options.groups, "--group-size", 8)
    how = ("--estimator", "grpo", "--learning-rate", 2e-4, "--max-new-tokens", 96, "--seed", seed, "--device", "cpu")
    place = ("--env-id", "ToolFunctionCall-v0", "--env-kwargs", json.dumps({"tasks": str(train), **MOST_CALLS}))
    resume = ("--resume",) if latest(folder / "checkpoints") is not None else ()
    run("train", "grpo", *place, "--model", warm, "--outcome", outcome, *sizes, *how, "--output-dir", folder, *resume)
    return evaluate(options, f"{reward}-{seed}", latest(folder / "checkpoints"), held_out)


def evaluate(options: argparse.Namespace, name: str, model: Path | None, tasks: Path) -> dict[str, Any]:
    """Success on the held-out tasks, by their gold calls."""
    folder = options.work / f"eval-{name}"
    asked = ("--env-id", "ToolFunctionCall-v0", "--tasks", tasks, "--env-kwargs", json.dumps(MOST_CALLS))
    how = ("--episodes", options.held_out, "--max-new-tokens", 96, "--greedy", "--device", "cpu")
    run("eval", *asked, "--model", model, *how, "--output", folder)
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {key: found[key] for key in ("episodes", "success_rate", "interval_95", "calls_per_episode")}


if __name__ == "__main__":
    main()
