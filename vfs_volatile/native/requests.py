"""Requests that may wait: each is answered once, by whoever comes first.

That is its own task; or the death of its caller, which ends the task (the kernel waits for an
answer even for a killed process, once a request is under way: request_wait_answer in
linux/fs/fuse/dev.c); or the watchdog, from a thread of its own, when the task takes too long.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import trio

from vfs_volatile.errors import REFUSALS, SyscallError

Answer = Callable[[int], object]
"""Answer a request with an errno; may be called from any thread."""

_LOOK_SECONDS = 0.02
"""A process that got a signal and lives may die of the next, of which the kernel says nothing."""


_claim: ContextVar[Callable[[], bool] | None] = ContextVar("_claim", default=None)


def will_be_answered() -> None:
    """Make sure that what this task does now is told to whoever asked for it, if somebody did.

    Nobody else answers the request after this; let no ``await`` follow. Raises
    SyscallError(ETIMEDOUT) if somebody has.
    """
    claim = _claim.get()
    if claim is not None and not claim():
        raise SyscallError(errno.ETIMEDOUT)


@dataclass(eq=False, slots=True)
class Request:
    """One that may wait."""

    name: str
    tid: int
    """The thread that made it; 0 for one of another pid namespace."""
    fail: Answer
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    task: trio.lowlevel.Task = field(default_factory=trio.lowlevel.current_task)
    since: float = field(default_factory=time.monotonic)


class Requests:
    """All that are waiting now."""

    def __init__(self, is_dying: Callable[[int], bool]) -> None:
        # -- dependencies --
        self._is_dying = is_dying
        """Has this thread been killed, or ended?"""
        # -- mutable --
        # INVARIANT: whoever takes a request out of here answers it, and nobody else does.
        self._waiting: dict[int, Request] = {}

    async def serve(
        self,
        key: int,
        request: Request,
        call: Callable[[], Awaitable[Any]],
        reply: Callable[[Any], object],
        errno_of: Callable[[Exception], int],
    ) -> None:
        """Run ``call`` and answer with its result; ``key`` is what the kernel's side calls it."""
        self._waiting[key] = request
        claimed = False

        def claim() -> bool:
            nonlocal claimed
            claimed = claimed or self.claim(key, request)
            return claimed

        _claim.set(claim)
        code, result = errno.EINTR, None
        try:
            with request.scope:
                result = await call()
                code = 0
        except Exception as error:
            code = errno_of(error)
        if not claim():
            return
        if code:
            request.fail(code)
        else:
            reply(result)

    def claim(self, key: int, request: Request) -> bool:
        """May I answer it? Asked once for each answer; from any thread."""
        if self._waiting.get(key) is not request:  # keys are used again
            return False
        return self._waiting.pop(key, None) is not None

    async def interrupted(self, key: int) -> None:
        """Its caller got a signal: end the request as soon as that thread has been killed.

        A signal that only has a handler ends nothing, as with a disk.
        """
        request = self._waiting.get(key)
        while request is not None and self._waiting.get(key) is request:
            with contextlib.suppress(*REFUSALS):  # it is looked at again
                if not request.tid or self._is_dying(request.tid):
                    request.scope.cancel()
                    return
            await trio.sleep(_LOOK_SECONDS)

    def older_than(self, seconds: float) -> list[tuple[int, Request]]:
        """Those that have waited longer, by key, the oldest first; from any thread."""
        since = time.monotonic() - seconds
        return [entry for entry in self._waiting.copy().items() if entry[1].since < since]

    def __len__(self) -> int:
        return len(self._waiting)
