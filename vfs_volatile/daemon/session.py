"""pyfuse3's session, with one turn of trio's loop for a request instead of two."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import trio

from vfs_volatile.native import shim  # noqa: F401  # isort: skip  # must come before pyfuse3

import pyfuse3


class _ReadLock:
    """A lock that is taken without a checkpoint while it is free.

    pyfuse3 takes one before each request and then waits for the device, which is a checkpoint too:
    that of the lock alone would cost a turn of the loop, a third of an empty request.
    """

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def __aenter__(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


class _Trio:
    """The module ``trio`` as pyfuse3 sees it."""

    Lock = _ReadLock

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def spare_turns() -> None:
    """Let pyfuse3 take its lock faster; before its main loop starts."""
    pyfuse3.trio = _Trio()  # type: ignore[attr-defined]
