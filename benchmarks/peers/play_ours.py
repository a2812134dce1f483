"""toolenv: its registered environments, as ``gym.make`` and ``gym.make_vec`` give them, under the outcome reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
from works import (
    ACTION,
    ANSWER,
    CYCLES,
    LOOK_UP,
    NUM_ENVS,
    QUESTION,
    SEARCHES,
    TOP_K,
    TURNS,
    LongEpisode,
    Pass,
    Programs,
    check,
    entry,
    long_action,
    play,
)

import toolenv
from rewards import OutcomeFn, OutcomeReward, VectorRewardWrapper
from toolenv.retrieval.base import Passage
from toolenv.sandbox.choosing import shared_sandbox

TASK = toolenv.Task(id="capital", prompt=QUESTION, answers=(ANSWER,))
SEARCH = {"dataset": [TASK], "format": "search_r1"}
CORPUS = {"corpus": [Passage("1", "Paris", "The capital of France.")], "retriever": "bm25"}


def cheap(job: dict[str, Any]) -> Pass:
    """Reset and answer."""
    env = OutcomeReward(gym.make("ToolSearchQA-v0", **SEARCH, **CORPUS))

    def run() -> None:
        for _ in range(CYCLES):
            env.reset()
            _, reward, terminated, _, _ = env.step(ACTION)
            check(reward == 1.0 and terminated, "the answer is right and ends the episode")

    return Pass(run, CYCLES)


def vector(job: dict[str, Any]) -> Pass:
    """The same in many environments."""
    envs = VectorRewardWrapper(gym.make_vec("ToolSearchQA-v0", num_envs=NUM_ENVS, **SEARCH, **CORPUS), OutcomeFn())
    envs.reset()
    actions = [ACTION] * NUM_ENVS

    def run() -> None:
        for _ in range(CYCLES):
            _, rewards, terminations, _, _ = envs.step(actions)
            check(rewards.all() and terminations.all(), "every answer is right and ends its episode")
            envs.step(actions)  # the resets

    return Pass(run, CYCLES * NUM_ENVS)


def python(job: dict[str, Any]) -> Pass:
    """A program a turn, in the sandbox that is taken by default."""
    sandbox = shared_sandbox()
    env = gym.make("ToolPythonMath-v0", tasks=[TASK], max_turns=None, sandbox=sandbox)
    form = env.unwrapped.format  # type: ignore[attr-defined]
    calls = 0

    def shown(code: str) -> str:
        nonlocal calls
        if calls % TURNS == 0:
            env.reset()
        calls += 1
        return env.step(form.write_call(toolenv.ToolCall("python", {"code": code})))[0][-1].content

    return Pass(Programs(shown), 1, env.close, {"sandbox": sandbox.kind})


def search(job: dict[str, Any]) -> Pass:
    """Searches on a server, then the answer."""
    env = gym.make("ToolSearchQA-v0", **SEARCH, retriever=job["url"], top_k=TOP_K)
    env = OutcomeReward(env)

    def run() -> None:
        env.reset()
        for query, title in job["queries"][:SEARCHES]:
            shown = env.step(f"<search> {query} </search>")[0][-1].content
            check(title in shown, f"{title!r} should stand in {shown!r}")
        check(env.step(ACTION)[1] == 1.0, "the answer is right")

    return Pass(run, SEARCHES, env.close)


def history(job: dict[str, Any]) -> Pass:
    """A long episode, whose ids only grow. The action is encoded too, though a sampler would bring its ids along."""
    from agents.tokens import ConversationEncoder, TokenHistory
    from rewards.tokenizer import load_tokenizer

    @toolenv.tool
    def look_up(turn: int) -> str:
        """Read an entry.

        Args:
            turn: Its number.
        """
        return entry(turn)

    env = toolenv.ToolEnv([toolenv.Task(id="register", prompt=LOOK_UP)], [look_up])
    encoder = ConversationEncoder(load_tokenizer(Path(job["tokenizer"])), env.format)
    tokens = TokenHistory()
    shown: tuple[toolenv.Message, ...] = ()

    def reset() -> list[int]:
        nonlocal tokens, shown
        tokens = TokenHistory()
        shown = env.reset()[0]
        tokens.append_context(encoder.encode_prompt(shown))
        return tokens.ids

    def turn(number: int) -> list[int]:
        nonlocal shown
        action = long_action(number)
        ids = encoder.encode_action(action)
        tokens.append_action(ids, [0.0] * len(ids))
        before, (shown, *_) = len(shown), env.step(action)
        tokens.append_context(encoder.encode_observation(shown[before + 1 :], closed=encoder.is_closed(tokens)))
        return tokens.ids

    facts: dict[str, Any] = {}
    return Pass(LongEpisode(reset, turn, facts), TURNS, facts=facts)


if __name__ == "__main__":
    play({"cheap": cheap, "vector": vector, "python": python, "search": search, "history": history})
