"""verifiers 1: a task that scores a trace, and its runtime of plain processes. It has no step to call."""

from __future__ import annotations

import asyncio
from typing import Any

import verifiers.v1 as vf
from verifiers.v1.graph import MessageNode
from verifiers.v1.runtimes import SubprocessConfig, make_runtime
from verifiers.v1.trace import AgentInfo, TraceTask
from works import ACTION, CYCLES, QUESTION, Pass, Programs, check, graded, play


class QuestionTask(vf.Task[vf.TaskData]):
    """One question."""

    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        """Grade what was said last."""
        return graded(trace.last_reply)


def cheap(job: dict[str, Any]) -> Pass:
    """Make a trace of question and answer, as a rollout does, and score it."""
    task = QuestionTask(vf.TaskData(prompt=QUESTION))
    agent = vf.AgentConfig(runtime=SubprocessConfig())

    async def episodes() -> None:
        for _ in range(CYCLES):
            about = TraceTask(type="QuestionTask", data=task.data, key=task.key, hash=task.hash)
            trace = vf.Trace(task=about, agent=AgentInfo(config=agent))
            trace.nodes.append(MessageNode(message=vf.UserMessage(content=QUESTION)))
            trace.nodes.append(MessageNode(message=vf.AssistantMessage(content=ACTION), parent=0, sampled=True))
            await task.score(trace)
            check(trace.reward == 1.0, "the answer is right")

    loop = asyncio.new_event_loop()
    return Pass(lambda: loop.run_until_complete(episodes()), CYCLES, loop.close)


def python(job: dict[str, Any]) -> Pass:
    """A program a call, as its harnesses run what a model wrote."""
    loop = asyncio.new_event_loop()
    runtime = make_runtime(SubprocessConfig())
    loop.run_until_complete(runtime.start())

    def shown(code: str) -> str:
        done = loop.run_until_complete(runtime.run(["python", "-c", code], {}))
        return f"{done.stdout}{done.stderr}"

    def close() -> None:
        loop.run_until_complete(runtime.stop())
        loop.close()

    return Pass(Programs(shown), 1, close, {"sandbox": "none: a process with this one's environment variables"})


if __name__ == "__main__":
    play({"cheap": cheap, "python": python})
