"""fork, exec and exit of all processes, as the kernel's proc connector tells them (root only).

linux/drivers/connector/cn_proc.c, <linux/cn_proc.h>. A fork or exec is queued for us before the
call returns, so whoever reads all that is pending knows all that has happened before. The end of a
thread is queued when its memory is gone, perhaps a moment after its parent was told.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import NamedTuple

_NETLINK_CONNECTOR = 11
_CN_IDX_PROC = _CN_VAL_PROC = 1
_LISTEN = 1
_SO_RCVBUFFORCE = 33
_NLMSG_DONE = 3
_HEADER = struct.Struct("=IHHII IIIIHH")  # nlmsghdr, cn_msg
_EVENT = struct.Struct("=IIQ")  # proc_event: what, cpu, timestamp_ns
_FORK_DATA = struct.Struct("=iiii")  # parent thread, parent process, child thread, child process
_PROCESS_DATA = struct.Struct("=ii")  # thread, process
_ACK, _FORK, _EXEC, _EXIT = 0, 0x1, 0x2, 0x80000000
_ANSWER_SECONDS = 1.0


class Fork(NamedTuple):
    """A process has a child now."""

    parent: int
    child: int


class Exec(NamedTuple):
    """A process runs another program."""

    pid: int


class ThreadEnd(NamedTuple):
    """A thread of a process has ended, perhaps the last."""

    pid: int


Event = Fork | Exec | ThreadEnd


class ProcessEvents:
    """A subscription to the events."""

    def __init__(self, events: socket.socket) -> None:
        self.socket = events
        """Readable when something is pending; non-blocking."""
        self.overrun = False
        """Have events ever been dropped: by the kernel, when too many were pending, or here?"""

    def pending(self) -> list[Event]:
        """All that has happened since the last call. Does not block."""
        found: list[Event] = []
        while True:
            try:
                message = self.socket.recv(4096)
            except BlockingIOError:
                return found
            except OSError:  # ENOBUFS
                self.overrun = True
                continue
            found += _events_in(message)

    def close(self) -> None:
        self.socket.close()


def subscribe() -> ProcessEvents | None:
    """Subscribe, or None where that is not possible: not root, or in a namespace of its own."""
    try:
        events = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR)
    except OSError:
        return None
    try:
        events.bind((0, _CN_IDX_PROC))
        events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
        events.send(_subscription())
        # Outside the first namespaces the kernel stays silent.
        if select.select([events], [], [], _ANSWER_SECONDS)[0]:
            events.setblocking(False)
            return ProcessEvents(events)
    except OSError:
        pass
    events.close()
    return None


def _subscription() -> bytes:
    size = _HEADER.size + 4
    header = _HEADER.pack(
        size, _NLMSG_DONE, 0, 0, os.getpid(), _CN_IDX_PROC, _CN_VAL_PROC, 0, 0, 4, 0
    )
    return header + struct.pack("=I", _LISTEN)


def _events_in(message: bytes) -> list[Event]:
    what, _, _ = _EVENT.unpack_from(message, _HEADER.size)
    at = _HEADER.size + _EVENT.size
    if what == _FORK:
        _, parent, thread, child = _FORK_DATA.unpack_from(message, at)
        return [Fork(parent, child)] if thread == child else []  # else a new thread
    if what in (_EXEC, _EXIT):
        _, process = _PROCESS_DATA.unpack_from(message, at)
        return [Exec(process) if what == _EXEC else ThreadEnd(process)]
    return []
