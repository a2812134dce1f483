"""A process that keeps what a program left, for the next one.

The session's process holds a namespace. For each program it forks a *runner*. A runner that comes to its end, well or
by an error, forks once more: that fork, which has what the program left but none of its threads, is the session from
then on. Where the runner is killed, the session stays as it was before.

Programs can do as they like with these processes, which are theirs; so the worker believes nothing of what they say. It
asks the kernel who said it, and between two calls it keeps one process of the session, stopped, and ends all others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from os import _exit, close, dup2, fork, getpid, pipe, read, waitpid  # as they are before any program
from random import getstate, setstate
from types import ModuleType
from typing import NoReturn

from .child import CRASHED, become_program, keep_descriptors, read_code, report, take_no_streams, take_streams
from .handing import Order, hand_over, take_over
from .kill import Reaper, send
from .messages import Request, Settings
from .notebook import Ending, finish, new_main, run_code, tell
from .streams import Ends
from .watch import End

CREDENTIALS = struct.Struct("3i")
SO_PASSCRED = 16
SCM_CREDENTIALS = 2
MESSAGE_BYTES = 64
ERROR_BYTES = 4000
NEW, ENDED = b"new", b"ended"


class Session:
    """The worker's side of the session, which is open or not.

    Args:
        settings: Those of the worker.
        reaper: Ends what programs started.
    """

    def __init__(self, settings: Settings, reaper: Reaper) -> None:
        self.settings, self.reaper = settings, reaper
        self.pid = 0
        self._heir = 0
        self._request = 0
        self._socket: socket.socket | None = None

    @property
    def news(self) -> int:
        """A descriptor that can be read when the session says something."""
        assert self._socket is not None
        return self._socket.fileno()

    def run(self, request: Request, ends: Ends, fork_child: Callable[[], int]) -> bool:
        """Have the session run a program; whether it was heard.

        Args:
            request: The program.
            ends: The program's ends of its pipes.
            fork_child: Makes the session's process, where there is none.
        """
        if not self.pid:
            self._open(fork_child)
        assert self._socket is not None
        self._heir, self._request = 0, request["id"]
        send(self.pid, signal.SIGCONT)
        try:
            hand_over(self._socket, request, ends)
        except OSError:  # the last program closed its end, or filled it
            return False
        return True

    def ended(self) -> End | None:
        """How the program ended, once it has."""
        while (message := self._receive()) is not None:
            sender, words = message
            if words == [NEW]:
                self._heir = sender
            elif sender == self.pid and words[:2] == [ENDED, b"%d" % self._request]:
                return "exit", int(words[2]) & 0xFFFF
        try:
            gone = waitpid(self.pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            gone = True
        return ("lost", 0) if gone else None

    def settle(self, end: End) -> bool:
        """Choose the process that goes on, and end all others; whether one goes on."""
        alive = end[0] != "lost"
        heir = self._heir if end[0] == "exit" and os.WIFEXITED(end[1]) else 0
        self.pid = heir or self.pid
        if not (alive and self.reaper.kill_others(self.pid)):
            self.close()
            return False
        while self._receive() is not None:  # what is said late, or for a later call
            pass
        return True

    @property
    def advanced(self) -> bool:
        """Whether the session is now what the last program left."""
        return self.pid == self._heir

    def close(self) -> None:
        """Forget the session; its processes are to be killed by the caller."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self.pid = None, 0

    def _open(self, fork_child: Callable[[], int]) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
        mine.setblocking(False)
        self.pid = fork_child()
        if self.pid == 0:
            _serve(theirs.fileno(), self.settings)
        theirs.close()
        self._socket = mine

    def _receive(self) -> tuple[int, list[bytes]] | None:
        """A message: who sent it, by the kernel's word, and what."""
        assert self._socket is not None
        try:
            # There is room for credentials alone, so that nobody hands us descriptors.
            data, extra, _, _ = self._socket.recvmsg(MESSAGE_BYTES, socket.CMSG_SPACE(CREDENTIALS.size))
        except OSError:  # there is none; or nobody is left to send one
            return None
        if not data:
            return None
        for level, kind, body in extra:
            if (level, kind) == (socket.SOL_SOCKET, SCM_CREDENTIALS) and len(body) == CREDENTIALS.size:
                return CREDENTIALS.unpack(body)[0], data.split()
        return 0, []


def _serve(control: int, settings: Settings) -> NoReturn:
    """Be the session: fork a runner for each program, and go on as its heir."""
    try:
        take_no_streams()
        channel = socket.socket(fileno=keep_descriptors(control))
        become_program(settings)
        main, count = new_main(), 0
        while True:
            order, ends = take_over(channel)
            count += 1
            runner = _fork()
            if runner == 0:
                _run(order, ends, main, count, channel)
                continue
            for fd in ends:
                close(fd)
            status = 0
            with contextlib.suppress(ChildProcessError):  # a program may ignore SIGCHLD: nobody knows how it ended
                _, status = waitpid(runner, 0)
            channel.send(b"%s %d %d" % (ENDED, order.id, status))
    finally:
        _exit(0)


def _run(order: Order, ends: Ends, main: ModuleType, count: int, channel: socket.socket) -> None:
    """Run a program, and return as the session that has what it left."""
    me, exit_code, heir = getpid(), CRASHED, False
    told: Ending | None = None
    try:
        take_streams(ends)
        for fd in (ends.stdin, ends.stdout, ends.stderr):
            close(fd)
        code = read_code(order.code_bytes)
        stdout = sys.stdout
        ending = run_code(code, main, count)
        if getpid() == me:  # a fork in the program comes past here too
            report(ends.report, ending, order.max_output_bytes)
        told, ending = ending, finish(ending, stdout, leaves=False)
        exit_code = ending.exit_code
        if getpid() == me:
            if ending is not told:
                report(ends.report, ending, order.max_output_bytes, told)
                told = ending
            heir = ending.usable and _fork_heir(ends.report, channel)
    except BaseException as error:  # the program broke what this needs; the session goes on without it
        exit_code = CRASHED
        report(ends.report, Ending(exit_code, error=tell(error)), ERROR_BYTES, told)
    finally:
        if not heir:
            _exit(exit_code)


def _fork() -> int:
    """Fork, and go on with the same random numbers: Python itself seeds ``random`` anew in a fork."""
    state = getstate()
    pid = fork()
    if pid == 0:
        setstate(state)
    return pid


def _fork_heir(report_fd: int, channel: socket.socket) -> bool:
    """Fork the session as it is to go on; whether this process is the fork."""
    told, telling = pipe()
    if _fork():
        close(telling)
        read(told, 1)  # until the heir has spoken
        return False
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        dup2(null, fd)
    for fd in (null, report_fd, told):
        close(fd)
    channel.send(NEW)
    close(telling)
    return True
