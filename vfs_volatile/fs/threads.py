"""Worker threads, which the system may refuse."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

import trio

from vfs_volatile.errors import UserError
from vfs_volatile.native.shortage import doing_job, make_room_for_thread

T = TypeVar("T")
_REFUSED = "can't start new thread"
"""All that Python tells of an error of pthread_create(3)."""


async def run_in_thread(
    call: Callable[..., T],
    *arguments: object,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    """trio.to_thread.run_sync. Raises OSError(EAGAIN) if there can be no thread."""
    for has_reserve in (True, False):
        try:
            return await trio.to_thread.run_sync(
                _as_job,
                call,
                *arguments,
                thread_name=getattr(call, "__name__", None),
                abandon_on_cancel=abandon_on_cancel,
                limiter=limiter,
            )
        except RuntimeError as error:
            if str(error) != _REFUSED:
                raise
            if not has_reserve or not make_room_for_thread():
                break
    raise OSError(errno.EAGAIN, _REFUSED)


def _as_job(call: Callable[..., T], *arguments: object) -> T:
    with doing_job():
        return call(*arguments)


def start_needed(start: Callable[[], object]) -> None:
    """Start a thread without which there can be no mount. Raises UserError if there can be none."""
    try:
        start()
    except RuntimeError as error:
        if str(error) != _REFUSED:
            raise
        raise UserError(
            "no thread can be started; see the limits of the shell (ulimit -u, -v) or of the unit"
            " (TasksMax)"
        ) from None
