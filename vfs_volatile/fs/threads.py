"""Worker threads, which the system may refuse."""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import trio

from vfs_volatile.errors import UserError
from vfs_volatile.native.shortage import doing_job, enter_native, make_room_for_thread

T = TypeVar("T")
_REFUSED = "can't start new thread"
"""All that Python tells of an error of pthread_create(3)."""
_AGAIN_SECONDS = 0.05
"""After there was no memory to do a job, or to tell that it is done."""


class NoThreadError(OSError):
    """There can be no more threads: see RLIMIT_NPROC, and pids.max of the cgroup."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, _REFUSED)


async def run_in_thread(
    call: Callable[..., T],
    *arguments: object,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    """trio.to_thread.run_sync. Raises NoThreadError if there can be none."""
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
            _require_room(error, has_reserve=has_reserve)
    raise NoThreadError


def start_job(call: Callable[..., object], *arguments: object) -> None:
    """Do it in a thread of its own, of which nobody hears again. Raises NoThreadError."""
    for has_reserve in (True, False):
        try:
            threading.Thread(target=_as_job, args=(call, *arguments), daemon=True).start()
        except RuntimeError as error:
            _require_room(error, has_reserve=has_reserve)
        else:
            return


def _require_room(error: RuntimeError, *, has_reserve: bool) -> None:
    """There was no thread; return if there may be one now. Raises NoThreadError."""
    if str(error) != _REFUSED:
        raise error
    if not has_reserve or not make_room_for_thread():
        raise NoThreadError from None


class Standby:
    """One thread that is there from the start, for what must be done when there can be no other.

    All jobs wait for those before.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._last: _Job | None = None

    @property
    def is_busy(self) -> bool:
        """Has a job not ended, which may have been abandoned?"""
        return self._last is not None and not self._last.is_over

    def start(self) -> None:
        """Raises UserError if there can be no thread."""
        start_needed(threading.Thread(target=self._work, name="standby", daemon=True).start)

    async def run(
        self, call: Callable[..., object], *arguments: object, abandon_on_cancel: bool = False
    ) -> None:
        """As trio.to_thread.run_sync."""
        job = _Job(call, arguments)

        def abort(_: object) -> trio.lowlevel.Abort:
            return job.abandon() if abandon_on_cancel else trio.lowlevel.Abort.FAILED

        self._jobs.put(job)
        self._last = job
        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
        finally:  # also if there is no memory to wait
            job.abandon()
        if job.error is not None:
            raise job.error

    def _work(self) -> None:
        enter_native()
        while True:
            job = self._jobs.get()
            while not job.is_told:
                try:
                    job.do()
                except MemoryError:
                    time.sleep(_AGAIN_SECONDS)


class _Job:
    """Of the task that makes it."""

    def __init__(self, call: Callable[..., object], arguments: tuple[object, ...]) -> None:
        self._call = call
        self._arguments = arguments
        self._trio = trio.lowlevel.current_trio_token()
        self._waits: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        # -- mutable --
        self._is_done = False
        self.error: Exception | None = None
        self.is_told = False
        """For the thread: it need not be told again that the job is done."""
        self.is_over = False
        """For the task: it has been told."""

    def abandon(self) -> trio.lowlevel.Abort:
        """Nobody waits for it any more."""
        self._waits = None
        return trio.lowlevel.Abort.SUCCEEDED

    def do(self) -> None:
        """Raises MemoryError if there was too little to tell of the end: to be called again."""
        if not self._is_done:
            try:
                _as_job(self._call, *self._arguments)
            except Exception as error:
                self.error = error
            self._is_done = True
        with contextlib.suppress(trio.RunFinishedError):  # nobody waits any more
            self._trio.run_sync_soon(self._go_on)
        self.is_told = True

    def _go_on(self) -> None:
        """May come twice: run_sync_soon may fail halfway."""
        self.is_over = True
        waits, self._waits = self._waits, None
        if waits is not None:
            trio.lowlevel.reschedule(waits)


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
