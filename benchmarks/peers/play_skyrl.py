"""skyrl-gym: its search environment, which grades answers by exact match, and its environment with both tools."""

from __future__ import annotations

from typing import Any

import skyrl_gym
from skyrl_gym.envs.search.env import SearchEnvConfig
from works import ACTION, ANSWER, CYCLES, QUESTION, SEARCHES, TOP_K, TURNS, Pass, Programs, check, play

PROMPT = [{"role": "user", "content": QUESTION}]


def made(url: str = "http://127.0.0.1:1/retrieve") -> Any:
    """An environment for one episode, as its trainer makes one."""
    extras = {"reward_spec": {"ground_truth": {"target": [ANSWER]}}, "max_turns": SEARCHES + 2}
    env = skyrl_gym.make("search", env_config=SearchEnvConfig(search_url=url, topk=TOP_K), extras=extras)
    env.init(PROMPT)
    return env


def cheap(job: dict[str, Any]) -> Pass:
    """Make and answer: it has no reset."""

    def run() -> None:
        for _ in range(CYCLES):
            found = made().step(ACTION)
            check(found["reward"] == 1.0 and found["done"], "the answer is right and ends the episode")

    return Pass(run, CYCLES)


def python(job: dict[str, Any]) -> Pass:
    """A program a turn."""
    extras = {"reward_spec": {"ground_truth": "42"}, "max_turns": TURNS}
    env, calls = None, 0

    def shown(code: str) -> str:
        nonlocal env, calls
        if calls % (TURNS - 1) == 0:  # its last turn runs nothing
            env = skyrl_gym.make("searchcode", extras=extras)
            env.init(PROMPT)
        calls += 1
        return env.step(f"<tool><python>{code}</python></tool>")["observations"][0]["content"]

    return Pass(Programs(shown), 1, facts={"sandbox": "none: a process with this one's environment variables"})


def search(job: dict[str, Any]) -> Pass:
    """Searches on a server, then the answer."""

    def run() -> None:
        env = made(job["nested_url"])
        for query, title in job["queries"][:SEARCHES]:
            shown = env.step(f"<search> {query} </search>")["observations"][0]["content"]
            check(title in shown, f"{title!r} should stand in {shown!r}")
        check(env.step(ACTION)["reward"] == 1.0, "the answer is right")

    return Pass(run, SEARCHES)


if __name__ == "__main__":
    play({"cheap": cheap, "python": python, "search": search})
