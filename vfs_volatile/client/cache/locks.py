"""Exclusive locks on single bytes of a file, between processes and between threads.

Between processes they are open file description locks (fcntl(2), F_OFD_SETLKW): the kernel ends
them with the last descriptor, so with their holder, however it dies. They belong to a descriptor of
their own. A child closes it at once after fork(2), or it would hold what its parent holds.
Between the threads of a process the same byte is a ``threading.Lock``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_FLOCK = struct.Struct("hhqqi4x")
"""``struct flock`` of 64-bit Linux: type, whence, start, length, pid (0 for these locks)."""


class _Turn:
    """Threads of this process that want the same byte."""

    __slots__ = ("lock", "owner", "wanted")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.owner = 0
        """The thread that has it; 0 for none."""
        self.wanted = 0
        """How many threads have it or wait for it. Guarded by ByteLocks._mutex."""


class ByteLocks:
    """Locks on bytes of the file behind ``fd``, which stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        """-1 when closed."""
        self._own = -1
        """The descriptor that locks belong to; -1 before the first, and after fork."""
        self._mutex = threading.Lock()
        self._turns: dict[int, _Turn] = {}

    @contextmanager
    def held(self, byte: int, *, wait: bool = True) -> Iterator[None]:
        """Hold the lock of ``byte`` (0..2**63-1).

        Raises RuntimeError when this very thread holds it, ValueError (closed), OSError:
        BlockingIOError if it is not to wait and another descriptor holds it.
        """
        turn = self._enter(byte)
        try:
            own = self._descriptor()
            command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
            fcntl.fcntl(own, command, _FLOCK.pack(fcntl.F_WRLCK, 0, byte, 1, 0))
            try:
                yield
            finally:
                if self._own == own:  # a child that was forked meanwhile holds nothing
                    fcntl.fcntl(own, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, 0, byte, 1, 0))
        finally:
            self._leave(byte, turn)

    def forked(self) -> None:
        """We are a child now: locks, and threads that waited for them, stay with the parent."""
        self._let_go()
        self._mutex = threading.Lock()
        self._turns = {}

    def close(self) -> None:
        """Let go of the descriptor, and of all that is held."""
        self._fd = -1
        self._let_go()

    def _let_go(self) -> None:
        if self._own >= 0:
            own, self._own = self._own, -1
            close_quietly(own)

    def _descriptor(self) -> int:
        with self._mutex:
            if self._fd < 0:
                raise ValueError("the cache is closed")
            if self._own < 0:
                self._own = os.open(f"/proc/self/fd/{self._fd}", os.O_RDWR | os.O_CLOEXEC)
            return self._own

    def _enter(self, byte: int) -> _Turn:
        with self._mutex:
            turn = self._turns.setdefault(byte, _Turn())
            if turn.owner == threading.get_ident():
                raise RuntimeError("this thread already holds the lock; it would wait for itself")
            turn.wanted += 1
        try:
            turn.lock.acquire()
        except BaseException:  # a signal's handler may raise while we wait
            self._forget(byte, turn)
            raise
        turn.owner = threading.get_ident()
        return turn

    def _leave(self, byte: int, turn: _Turn) -> None:
        turn.owner = 0
        turn.lock.release()
        self._forget(byte, turn)

    def _forget(self, byte: int, turn: _Turn) -> None:
        with self._mutex:
            turn.wanted -= 1
            if not turn.wanted and self._turns.get(byte) is turn:
                del self._turns[byte]


def close_quietly(fd: int) -> None:
    """Close it; a dead mount answers with an errno, and it is closed all the same."""
    with contextlib.suppress(OSError):
        os.close(fd)
