"""How a program is handed to a process that was there before it: some numbers, and its ends of the pipes."""

from __future__ import annotations

import array
import socket
from typing import NamedTuple

from .messages import Request
from .streams import Ends

ORDER_BYTES = 100
RIGHTS = socket.CMSG_SPACE(len(Ends._fields) * array.array("i").itemsize)


class Order(NamedTuple):
    """What the process is told of the program, which it reads itself."""

    id: int
    cpu_s: int
    code_bytes: int
    max_output_bytes: int


def hand_over(channel: socket.socket, request: Request, ends: Ends, cpu_s: int = 0) -> None:
    """Hand a program over.

    Raises:
        OSError: The other side is gone.
    """
    order = Order(request["id"], cpu_s, request["code_bytes"], request["max_output_bytes"])
    channel.sendmsg([b"%d %d %d %d" % order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", ends))])


def take_over(channel: socket.socket) -> tuple[Order, Ends]:
    """Wait for a program.

    Raises:
        EOFError: There will be none.
    """
    data, extra, _, _ = channel.recvmsg(ORDER_BYTES, RIGHTS)
    if not data:
        raise EOFError
    return Order(*map(int, data.split())), Ends(*array.array("i", extra[0][2]))
