"""OpenEnv: an environment behind its server, and its client, over loopback: the way in which it is used."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import Any

from openenv.core.env_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
from openenv.core.generic_client import GenericEnvClient
from works import ACTION, CYCLES, QUESTION, Pass, Programs, check, graded, play

START_S = 60.0


class Said(Action):
    """What the model wrote."""

    text: str


class Shown(Observation):
    """What it is shown."""

    text: str = ""


class QuestionEnv(Environment[Said, Shown, State]):
    """One question; a turn is a program or the answer."""

    def __init__(self) -> None:
        super().__init__()
        self._interpreter: Any = None

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Shown:
        """Ask."""
        return Shown(text=QUESTION)

    def step(self, action: Said, timeout_s: float | None = None, **kwargs: Any) -> Shown:
        """Run, or grade."""
        if action.text.startswith("<python>"):
            return Shown(text=self._run(action.text.removeprefix("<python>").removesuffix("</python>")))
        return Shown(done=True, reward=graded(action.text))

    @property
    def state(self) -> State:
        """Nothing."""
        return State()

    def _run(self, code: str) -> str:
        from openenv.core.tools.local_python_executor import PyExecutor

        self._interpreter = self._interpreter or PyExecutor(additional_imports=["sympy"])
        done = self._interpreter.run(code)
        return f"{done.stdout}{done.stderr}"


def serve(port: int) -> None:
    """Serve until the process is ended."""
    import uvicorn

    uvicorn.run(create_app(QuestionEnv, Said, Shown), host="127.0.0.1", port=port, log_level="error")


class Served:
    """A server in a process of its own, and a client of it."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._server = subprocess.Popen([sys.executable, __file__, str(port)], stdin=subprocess.DEVNULL)
        end = time.monotonic() + START_S
        while not _listens(port):
            if time.monotonic() > end or self._server.poll() is not None:
                self._server.kill()
                raise SystemExit(f"OpenEnv's server does not answer after {START_S:.0f} s")
            time.sleep(0.05)
        self.client = GenericEnvClient(base_url=f"http://127.0.0.1:{port}").sync()
        self.client.connect()

    def close(self) -> None:
        """End both."""
        self.client.close()
        self._server.terminate()
        self._server.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def cheap(job: dict[str, Any]) -> Pass:
    """Reset and answer."""
    served = Served()

    def run() -> None:
        for _ in range(CYCLES):
            served.client.reset()
            found = served.client.step({"text": ACTION})
            check(found.done and found.reward == 1.0, "the answer is right and ends the episode")

    return Pass(run, CYCLES, served.close)


def python(job: dict[str, Any]) -> Pass:
    """A program a turn."""
    served = Served()
    served.client.reset()

    def shown(code: str) -> str:
        return served.client.step({"text": f"<python>{code}</python>"}).observation["text"]

    facts = {"sandbox": "an interpreter of the syntax tree in the server's process; variables are kept"}
    return Pass(Programs(shown), 1, served.close, facts)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(int(sys.argv[1]))
    else:
        play({"cheap": cheap, "python": python})
