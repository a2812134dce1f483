"""The warm process that reads requests, forks a child for each, and sees it to its end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import tempfile
import time
from typing import NoReturn

from .child import run_child
from .cleanup import kill_all, wipe
from .messages import Answer, Request, Settings
from .outcome import outcome
from .streams import Streams


class Zygote:
    """Serves requests, one after the other."""

    def __init__(self, settings: Settings, requests: int, replies: int, wake: int) -> None:
        self.settings, self.requests, self.replies, self.wake = settings, requests, replies, wake
        self.private = os.getpid() == 1

    def serve(self) -> None:
        """Answer requests until their pipe closes."""
        buffer = b""
        while True:
            line, newline, rest = buffer.partition(b"\n")
            if newline:
                buffer = rest
                self.reply(self.call(json.loads(line)))
                continue
            data = os.read(self.requests, 1 << 16)
            if not data:
                return
            buffer += data

    def reply(self, message: Answer) -> None:
        """Write one line."""
        data = json.dumps(message).encode("ascii") + b"\n"
        while data:
            data = data[os.write(self.replies, data) :]

    def call(self, request: Request) -> Answer:
        """Run one request in a child, then remove every trace of it."""
        home = self.settings["tmp"] if self.private else tempfile.mkdtemp(dir=self.settings["tmp"])
        if not self.private and self.settings["uid"] is not None:
            os.chown(home, self.settings["uid"], self.settings["uid"])
        streams = Streams(request)
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            run_child(request, self.settings, streams.ends, home)
        streams.close_ends()
        end, status = self.watch(pid, streams, started + request["timeout_s"])
        wall_s = time.monotonic() - started
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        clean = kill_all()
        streams.finish()
        clean = self._clear(home) and clean
        answer = {"id": request["id"], "stdout": streams.stdout.text(), "stderr": streams.stderr.text()}
        answer |= {"wall_s": wall_s, "clean": clean}
        return answer | outcome(end, status, streams.report, request["timeout_s"])

    def watch(self, pid: int, streams: Streams, deadline: float) -> tuple[str, int]:
        """Feed and read the child until it ends: ``(why it ended, wait status)``."""
        poll = select.poll()
        for fd in (*streams.captures, self.wake):
            poll.register(fd, select.POLLIN)
        for fd in streams.feeds:
            poll.register(fd, select.POLLOUT)
        poll.register(self.requests, 0)  # only its end is news
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return "timeout", 0
            for fd, _ in poll.poll(left * 1000 + 1):
                if fd == self.requests:
                    end()
                if fd == self.wake:
                    os.read(fd, 4096)
                elif streams.feed(fd) if fd in streams.feeds else streams.drain(fd):
                    poll.unregister(fd)
            if streams.flooded:
                return "flood", 0
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return "exit", status

    def _clear(self, home: str) -> bool:
        try:
            wipe(home)
            if self.private and os.path.isdir("/dev/shm"):
                wipe("/dev/shm")
            if not self.private:
                os.rmdir(home)
        except OSError:
            return False
        return True


def end() -> NoReturn:
    """Leave, and leave nothing behind."""
    kill_all()
    os._exit(0)
