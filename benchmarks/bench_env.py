"""Cheap vector steps: 16 ``ToolSearchQA-v0``, a valid answer turn each, graded, beside bare Gymnasium.

Run: ``python -m benchmarks.bench_env``. Prints medians of several rounds, interleaved, and writes
``benchmarks/results/env.json``. A cycle is one answer turn in every environment and the reset that follows it; rates
count answer turns, so a reset is paid for but not counted.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import spaces

import toolenv
from rewards import OutcomeFn, VectorRewardWrapper

NUM_ENVS = 16
CYCLES = 400
ROUNDS = 7
PEERS = {"GEM": 46_435, "skyrl-gym": 78_083, "bare Gymnasium": 341_748}  # turns a second, measured elsewhere


class BareEnv(gym.Env[str, str]):
    """The least that an environment of text can do: compare the action with a string."""

    action_space = spaces.Text(100)
    observation_space = spaces.Text(100)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Ask."""
        super().reset(seed=seed)
        return "question", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Compare."""
        return "", float(action == "Paris"), True, False, {}


def tool_search() -> Callable[[], None]:
    """One cycle of the search environment under the outcome reward."""
    envs = VectorRewardWrapper(gym.make_vec("ToolSearchQA-v0", num_envs=NUM_ENVS), OutcomeFn())
    _, infos = envs.reset(seed=0)
    gold = {task.id: f"<answer>{task.answers[0]}</answer>" for task in envs.unwrapped.envs[0].tasks}
    ids = [infos["task_id"]]

    def cycle() -> None:
        answers = [gold[task_id] for task_id in ids[0]]
        _, rewards, terminations, _, _ = envs.step(answers)
        assert rewards.all(), "an answer was graded wrong"
        assert terminations.all(), "an answer did not end its episode"
        ids[0] = envs.step(answers)[4]["task_id"]

    return cycle


def bare_gymnasium() -> Callable[[], None]:
    """One cycle of ``SyncVectorEnv`` over ``BareEnv``."""
    envs = gym.vector.SyncVectorEnv([BareEnv] * NUM_ENVS)
    envs.reset(seed=0)
    answers = ["Paris"] * NUM_ENVS

    def cycle() -> None:
        envs.step(answers)
        envs.step(answers)

    return cycle


def rate(cycle: Callable[[], None]) -> float:
    """Answer turns a second over one round."""
    start = time.perf_counter()
    for _ in range(CYCLES):
        cycle()
    return NUM_ENVS * CYCLES / (time.perf_counter() - start)


def main() -> None:
    """Measure, print, write."""
    cases = {"toolenv": tool_search(), "bare Gymnasium": bare_gymnasium()}
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, cycle in cases.items():
            rates[name].append(rate(cycle))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name:16} {medians[name]:>10,.0f} turns/s  [{min(values):,.0f} .. {max(values):,.0f}]")
    ratios = [own / bare for own, bare in zip(rates["toolenv"], rates["bare Gymnasium"], strict=True)]
    print(f"{'ratio to bare':16} {statistics.median(ratios):>10.2f}")
    for name, value in PEERS.items():
        print(f"{'ratio to ' + name:24} {medians['toolenv'] / value:>5.2f}   (theirs: {value:,} on another day)")
    result = {"version": toolenv.__version__, "num_envs": NUM_ENVS, "turns_per_s": rates, "ratio_to_bare": ratios}
    Path(__file__).with_name("results").joinpath("env.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
