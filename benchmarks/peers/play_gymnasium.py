"""Bare Gymnasium: the least environment that asks and grades, and its own vector environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium import spaces
from works import ACTION, CYCLES, NUM_ENVS, QUESTION, Pass, check, graded, play


class QuestionEnv(gym.Env[str, str]):
    """One question, one answer."""

    action_space = observation_space = spaces.Text(100, min_length=0, charset="".join(map(chr, range(32, 127))) + "\n")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Ask."""
        super().reset(seed=seed)
        return QUESTION, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Grade."""
        return "", graded(action), True, False, {}


def cheap(job: dict[str, Any]) -> Pass:
    """Reset and answer."""
    env = gym.make("Question-v0")

    def run() -> None:
        for _ in range(CYCLES):
            env.reset()
            _, reward, terminated, _, _ = env.step(ACTION)
            check(reward == 1.0 and terminated, "the answer is right and ends the episode")

    return Pass(run, CYCLES)


def vector(job: dict[str, Any]) -> Pass:
    """The same in many environments."""
    envs = gym.make_vec("Question-v0", num_envs=NUM_ENVS, vectorization_mode="sync")
    envs.reset()
    actions = [ACTION] * NUM_ENVS

    def run() -> None:
        for _ in range(CYCLES):
            _, rewards, terminations, _, _ = envs.step(actions)
            check(rewards.all() and terminations.all(), "every answer is right and ends its episode")
            envs.step(actions)  # the resets

    return Pass(run, CYCLES * NUM_ENVS)


if __name__ == "__main__":
    gym.register("Question-v0", QuestionEnv)
    play({"cheap": cheap, "vector": vector})
