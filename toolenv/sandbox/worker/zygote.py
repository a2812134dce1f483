"""The warm process that reads requests, forks a child for each, and sees it to its end."""

from __future__ import annotations

import json
import os
import time
import traceback
from typing import Any, NoReturn

from .kill import Reaper
from .messages import HEADER_BYTES, Answer, Request, Settings
from .outcome import Judge
from .pages import Ranges
from .session import Session
from .standby import Standby
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
        hot: Where programs are likely to write.
    """

    def __init__(
        self,
        settings: Settings,
        requests: int,
        replies: int,
        wake: int,
        scratch: Scratch,
        oom: int | None,
        hot: Ranges,
    ) -> None:
        self.settings, self.requests, self.replies, self.wake = settings, requests, replies, wake
        self.scratch, self.oom = scratch, oom
        self.reaper = Reaper(wake, settings["uid"])
        self.session = Session(settings, self.reaper)
        self.standby = Standby(settings, hot, self.fork)
        self.judge = Judge()

    def serve(self) -> NoReturn:
        """Answer requests until their pipe closes."""
        try:
            while True:
                if not self.session.pid:
                    self.standby.prepare()
                self.answer(json.loads(self._read_header()))
        except (EOFError, BrokenPipeError):  # the host is gone
            self.leave()
        except BaseException:  # a mistake of ours: nothing may outlive it
            traceback.print_exc()
            self.leave()

    def answer(self, request: Any) -> None:
        """Do what is asked, and say what came of it."""
        if "end" in request:
            self.session.close()
            self.standby.dismiss()  # there is one where the session was lost
            clean = self.reaper.kill_all()
            self.tell({"id": request["id"], "clean": self.scratch.wipe() and clean})
            return
        streams = Streams(request, self.requests)
        answer = self.keep(request, streams) if request["keep"] else self.call(request, streams)
        captures = streams.captures.values()
        kept = [(capture, sum(map(len, capture.parts()))) for capture in captures]
        answer["streams"] = [[count, capture.head_bytes, capture.total] for capture, count in kept]
        self.tell(answer, *(part for capture in captures for part in capture.parts()))
        streams.forget()

    def call(self, request: Request, streams: Streams) -> Answer:
        """Run a program in a child, then remove every trace of it."""
        started = time.monotonic()
        pid = self.standby.start(request, streams.ends)
        streams.close_ends()

        def ended() -> End | None:
            drain(self.wake)
            gone, status = os.waitpid(pid, os.WNOHANG)
            return ("exit", status) if gone else None

        end = watch(streams, started + request["timeout_s"], self.requests, [self.wake], ended)
        wall_s = time.monotonic() - started
        clean = self.reaper.kill_all(pid)
        streams.finish()
        clean = self.scratch.wipe() and clean
        return self._told(request, end) | {"wall_s": wall_s, "clean": clean}

    def keep(self, request: Request, streams: Streams) -> Answer:
        """Run a program in the session, which then stands still."""
        self.standby.dismiss()
        started = time.monotonic()
        end: End = ("lost", 0)
        heard = self.session.run(request, streams.ends, self.fork)
        streams.close_ends()
        if heard:
            deadline = started + request["timeout_s"]
            end = watch(streams, deadline, self.requests, [self.wake, self.session.news], self.ended_in_session)
        wall_s = time.monotonic() - started
        goes_on = self.session.settle(end)
        clean = goes_on or self.reaper.kill_all()
        streams.finish()
        answer = self._told(request, end) | {"wall_s": wall_s, "clean": clean}
        if not goes_on:
            answer |= {"status": "killed", "note": "the variables of this session are lost"}
        elif not self.session.advanced:
            answer["note"] = "variables are as they were before this program"
            if answer["status"] == "ok":
                answer["status"] = "error"
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
        self.standby.dismiss()
        self.reaper.kill_all()
        self.scratch.remove()
        os._exit(0)

    def _told(self, request: Request, end: End) -> Answer:
        return {"id": request["id"]} | self.judge.outcome(*end, request["timeout_s"])

    def _read_header(self) -> bytes:
        data = b""
        while len(data) < HEADER_BYTES:
            part = os.read(self.requests, HEADER_BYTES - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def tell(self, message: Answer, *parts: memoryview) -> None:
        """Write a line, and bytes after it."""
        for part in (memoryview(json.dumps(message).encode("ascii") + b"\n"), *parts):
            sent = 0
            while sent < len(part):
                sent += os.write(self.replies, part[sent:])
