"""The warm process that reads requests, forks a child for each, and sees it to its end."""

from __future__ import annotations

import json
import os
import time
from typing import Any, NoReturn

from .child import run_child
from .kill import Reaper
from .messages import Answer, Request, Settings
from .outcome import Judge
from .session import Session
from .streams import Streams
from .watch import End, drain, watch
from .wipe import Scratch


class Zygote:
    """Serves requests, one after the other.

    Args:
        settings: Those of the worker.
        requests: Where requests come from.
        replies: Where answers go.
        wake: A descriptor that can be read when a child has ended.
        scratch: The folders that programs can write to.
        oom: This process's ``oom_score_adj``, open to be written; ``None`` where there is none.
    """

    def __init__(
        self, settings: Settings, requests: int, replies: int, wake: int, scratch: Scratch, oom: int | None
    ) -> None:
        self.settings, self.requests, self.replies, self.wake = settings, requests, replies, wake
        self.scratch, self.oom = scratch, oom
        self.reaper = Reaper(wake, settings["uid"])
        self.session = Session(settings, self.reaper)
        self.judge = Judge()

    def serve(self) -> NoReturn:
        """Answer requests until their pipe closes."""
        with open(self.requests, "rb", closefd=False) as lines:
            for line in lines:
                self.reply(self.answer(json.loads(line)))
        self.leave()

    def reply(self, message: Answer) -> None:
        """Write one line."""
        data = json.dumps(message).encode("ascii") + b"\n"
        while data:
            data = data[os.write(self.replies, data) :]

    def answer(self, request: Any) -> Answer:
        """Do what is asked."""
        if "end" in request:
            self.session.close()
            clean = self.reaper.kill_all()
            return {"id": request["id"], "clean": self.scratch.wipe() and clean}
        return self.keep(request) if request["keep"] else self.call(request)

    def call(self, request: Request) -> Answer:
        """Run a program in a child, then remove every trace of it."""
        streams = Streams(request)
        started = time.monotonic()
        pid = self.fork()
        if pid == 0:
            run_child(request, self.settings, streams.ends)
        streams.close_ends()

        def ended() -> End | None:
            drain(self.wake)
            gone, status = os.waitpid(pid, os.WNOHANG)
            return ("exit", status) if gone else None

        end = watch(streams, started + request["timeout_s"], self.requests, [self.wake], ended)
        wall_s = time.monotonic() - started
        clean = self.reaper.kill_all()
        streams.finish()
        clean = self.scratch.wipe() and clean
        return self.told(request, streams, end, wall_s) | {"clean": clean}

    def told(self, request: Request, streams: Streams, end: End, wall_s: float) -> Answer:
        """What is answered to a request."""
        if end[0] == "orphaned":
            self.leave()
        texts = {"stdout": streams.stdout.text(), "stderr": streams.stderr.text()}
        outcome = self.judge.outcome(*end, streams.report, request["timeout_s"])
        return {"id": request["id"], "wall_s": wall_s} | texts | outcome

    def keep(self, request: Request) -> Answer:
        """Run a program in the session, which then stands still."""
        streams = Streams(request)
        request_fd = streams.source(json.dumps(request).encode("ascii"))
        started = time.monotonic()
        end: End = ("lost", 0)
        heard = self.session.run(request, [*streams.ends, request_fd], self.fork)
        streams.close_ends()
        os.close(request_fd)
        if heard:
            deadline = started + request["timeout_s"]
            end = watch(streams, deadline, self.requests, [self.wake, self.session.news], self.ended_in_session)
        wall_s = time.monotonic() - started
        goes_on = self.session.settle(end)
        clean = goes_on or self.reaper.kill_all()
        streams.finish()
        answer = self.told(request, streams, end, wall_s) | {"clean": clean}
        if not goes_on:
            _add(answer, "killed", "the variables of this session are lost")
        elif not self.session.advanced:
            _add(answer, "error", "variables are as they were before this program")
        return answer

    def ended_in_session(self) -> End | None:
        """How the session's program ended, once it has."""
        drain(self.wake)
        return self.session.ended()

    def fork(self) -> int:
        """Fork a process that the kernel ends before this one, where memory is short."""
        self._set_oom(b"1000")
        pid = os.fork()
        if pid:
            self._set_oom(b"0")
        return pid

    def _set_oom(self, value: bytes) -> None:
        if self.oom is not None:
            os.pwrite(self.oom, value, 0)

    def leave(self) -> NoReturn:
        """End, and leave nothing behind."""
        self.reaper.kill_all()
        os._exit(0)


def _add(answer: Answer, status: str, words: str) -> None:
    """Say more of a call than how its program ended."""
    if answer["status"] == "ok":
        answer["status"] = status
    answer["error"] = f"{answer['error'] or 'exited with code 0'}; {words}"
