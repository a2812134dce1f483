"""A filter of system calls, on top of whatever filter there is: a program for the kernel's classic BPF machine.

It is set in the worker, once, and every child inherits it, so that a call pays nothing for it. A refused system call
fails with EPERM, one newer than the list does not exist (ENOSYS), and one by another architecture's table kills.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Sequence

from .rights import libc
from .syscalls import JUDGED, LAST, REFUSED

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32 = 0x40000000

LOAD, AND, RETURN, EQUAL, ABOVE, AT_LEAST, ANY_BIT = 0x20, 0x54, 0x06, 0x15, 0x25, 0x35, 0x45
NUMBER, ARCHITECTURE = 0, 4
ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS

NEW_NAMESPACES = 0x7E020000  # CLONE_NEW*: mount, cgroup, uts, ipc, user, pid, net
AF_UNIX, SOCK_TYPE, SOCK_STREAM, SOCK_SEQPACKET = 1, 0xF, 1, 5
FILE_TYPE, FIFO = 0o170000, 0o010000
F_SETSIG = 10  # with it, a stopped process can have itself woken
TERMINAL_INPUT, FILE_FLAGS = (0x5412, 0x541C), (0x40086602, 0x401C5820)  # TIOCSTI TIOCLINUX, FS_IOC_SETFLAGS FSSETXATTR

Code = list[bytes]


def refuse_calls() -> str | None:
    """Set the filter for this process and all that it will start; for good.

    Returns:
        Why there is none now, ``None`` where all is well.
    """
    if platform.system() != "Linux":
        return f"{platform.system()} has no seccomp"
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        return f"there is no table of system calls for {machine!r}"
    code = b"".join(build_filter(machine))
    buffer = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer)))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        return f"the kernel refused the filter: {os.strerror(ctypes.get_errno())}"
    return None


def build_filter(machine: str) -> Code:
    """The instructions, for ``"x86_64"`` or ``"aarch64"``."""
    code = [step(LOAD, ARCHITECTURE), step(EQUAL, ARCHITECTURES[machine], 1, 0), step(RETURN, KILL)]
    code += [step(LOAD, NUMBER)]
    if machine == "x86_64":
        code += [step(AT_LEAST, X32, 0, 1), step(RETURN, KILL)]
    code += [step(ABOVE, LAST, 0, 1), step(RETURN, UNKNOWN)]
    for name, number in JUDGED[machine].items():
        judgement = judge(name)
        code += [step(EQUAL, number, 0, len(judgement)), *judgement]
    for first, last in ranges(REFUSED[machine].values()):
        code += [step(AT_LEAST, first, 0, 2), step(ABOVE, last, 1, 0), step(RETURN, REFUSE)]
    return [*code, step(RETURN, ALLOW)]


def judge(name: str) -> Code:
    """Instructions that allow or refuse a call by its arguments."""
    allow, refuse = step(RETURN, ALLOW), step(RETURN, REFUSE)
    match name:
        case "clone":
            return [load(0), step(ANY_BIT, NEW_NAMESPACES, 0, 1), refuse, allow]
        case "clone3":  # its flags lie in memory, out of a filter's sight; libc then takes clone
            return [step(RETURN, UNKNOWN)]
        case "personality":
            return unless_equal(0, 0xFFFFFFFF)  # which asks, and changes nothing
        case "setpriority":
            return [load(1), step(EQUAL, 0, 1, 0), refuse, *unless_equal(0, 0)]  # of the calling process alone
        case "prlimit64" | "sched_setparam" | "sched_setscheduler" | "sched_setattr" | "sched_setaffinity":
            return unless_equal(0, 0)  # likewise: the worker may have the same user
        case "socketpair":  # a datagram socket of a pair could write to any other
            kind = [load(1), step(AND, SOCK_TYPE), step(EQUAL, SOCK_STREAM, 2, 0), step(EQUAL, SOCK_SEQPACKET, 1, 0)]
            return [*kind, refuse, *unless_equal(0, AF_UNIX)]
        case "sendto":  # no address: both halves of the pointer are zero
            return [load(4), step(EQUAL, 0, 1, 0), refuse, load(4, 4), step(EQUAL, 0, 1, 0), refuse, allow]
        case "mknod" | "mknodat":  # a pipe with a name, but no device and no socket
            mode = 1 if name == "mknod" else 2
            return [load(mode), step(AND, FILE_TYPE), step(EQUAL, FIFO, 1, 0), step(RETURN, REFUSE), allow]
        case "fcntl":
            return if_equal(1, [F_SETSIG])
        case "ioctl":
            return if_equal(1, [*TERMINAL_INPUT, *FILE_FLAGS])
    raise KeyError(name)


def if_equal(argument: int, values: Sequence[int]) -> Code:
    """Refuse these values of an argument."""
    checks = [step(EQUAL, value, len(values) - at, 0) for at, value in enumerate(values)]
    return [load(argument), *checks, step(RETURN, ALLOW), step(RETURN, REFUSE)]


def unless_equal(argument: int, value: int) -> Code:
    """Refuse every other value of an argument."""
    return [load(argument), step(EQUAL, value, 1, 0), step(RETURN, REFUSE), step(RETURN, ALLOW)]


def load(argument: int, byte: int = 0) -> bytes:
    """Take 32 bits of an argument: the low ones, or those from a byte on."""
    return step(LOAD, 16 + 8 * argument + byte)


def step(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; a comparison skips so many of the next ones."""
    return struct.pack("HBBI", operation, if_true, if_false, value)


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers: ``(first, last)``."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
