"""GEM: its question-answering environment, its tools, and its wrapper that keeps the history."""

from __future__ import annotations

from typing import Any

import gem
from datasets import Dataset
from gem.tools.base_tool import BaseTool
from gem.tools.tool_env_wrapper import ToolEnvWrapper
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
    long_action,
    play,
    shown_entry,
)

ENV_ID = "peers:Question"


def cheap(job: dict[str, Any]) -> Pass:
    """Reset and answer."""
    env = gem.make(ENV_ID)

    def run() -> None:
        for _ in range(CYCLES):
            env.reset()
            _, reward, terminated, _, _ = env.step(ACTION)
            check(reward == 1.0 and terminated, "the answer is right and ends the episode")

    return Pass(run, CYCLES)


def vector(job: dict[str, Any]) -> Pass:
    """The same in many environments; its vector environment of threads is slower at this."""
    envs = gem.make_vec([ENV_ID] * NUM_ENVS)
    envs.reset()
    actions = [ACTION] * NUM_ENVS

    def run() -> None:
        for _ in range(CYCLES):
            _, rewards, terminations, _, _ = envs.step(actions)
            check(rewards.all() and terminations.all(), "every answer is right and ends its episode")
            envs.step(actions)  # the resets

    return Pass(run, CYCLES * NUM_ENVS)


def python(job: dict[str, Any]) -> Pass:
    """A program a turn."""
    from gem.tools.python_code_tool import PythonCodeTool

    env = ToolEnvWrapper(gem.make(ENV_ID), [PythonCodeTool(timeout=5)], max_tool_uses=None)
    env.reset()
    shown = Programs(lambda code: env.step(f"<python>{code}</python>")[0])
    return Pass(shown, 1, facts={"sandbox": "none: a process, after a search for forbidden words"})


def search(job: dict[str, Any]) -> Pass:
    """Searches on a server, then the answer."""
    from gem.tools.search_tool import SearchTool

    tool = SearchTool(search_url=job["msgpack_url"], topk=TOP_K)
    env = ToolEnvWrapper(gem.make(ENV_ID), [tool], max_tool_uses=None)

    def run() -> None:
        env.reset()
        for query, title in job["queries"][:SEARCHES]:
            shown = env.step(f"<search> {query} </search>")[0]
            check(title in shown, f"{title!r} should stand in {shown!r}")
        check(env.step(ACTION)[1] == 1.0, "the answer is right")

    return Pass(run, SEARCHES)


class Register(BaseTool):
    """Reads the entry that the turn is at."""

    tool_type = "register"
    name = "register"
    turn = 0

    def instruction_string(self) -> str:
        """How it is called."""
        return "Call look_up with the number of the turn to read an entry."

    def execute_action(self, action: str) -> tuple[bool, bool, str, str]:
        """Read."""
        return True, False, shown_entry(self.turn), action


def history(job: dict[str, Any]) -> Pass:
    """A long episode under the wrapper that shows the whole chat, which is encoded for every turn."""
    from gem.wrappers.observation_wrapper import ObservationWrapper
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(job["tokenizer"])
    register = Register()
    env = ToolEnvWrapper(gem.make("peers:Register"), [register], max_tool_uses=None)
    env = ObservationWrapper(env, tokenizer=tokenizer)

    def encoded(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    def turn(number: int) -> list[int]:
        register.turn = number
        return encoded(env.step(long_action(number))[0])

    facts: dict[str, Any] = {}
    return Pass(LongEpisode(lambda: encoded(env.reset()[0]), turn, facts), TURNS, facts=facts)


if __name__ == "__main__":
    for name, question in ((ENV_ID, QUESTION), ("peers:Register", LOOK_UP)):
        rows = Dataset.from_list([{"question": question, "answer": ANSWER}] * 1024)
        gem.register(name, "gem.envs.qa_env:QaEnv", dataset=rows)
    play({"cheap": cheap, "vector": vector, "python": python, "search": search, "history": history})
