"""Watches that requests are answered, from a thread of its own: it runs when nothing else does.

A request that waits longer than a limit is logged with the stack of its task; at a second limit it
fails with ETIMEDOUT, whatever its task still does. When the thread that serves the mount is busy
with one thing for so long, that is logged with its stack: nothing can be failed then, as
what the kernel holds ready has not even been read. While nothing happens the thread sleeps.
"""

from __future__ import annotations

import errno
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from vfs_volatile.errors import log_failure
from vfs_volatile.fs.threads import start_needed
from vfs_volatile.native.requests import Request, Requests
from vfs_volatile.native.shortage import enter_native

log = logging.getLogger(__name__)

LOG_SECONDS = 10.0
FAIL_SECONDS = 60.0
TICK_SECONDS = 1.0


class Watchdog(trio.abc.Instrument):
    """For the trio run that it is made in."""

    def __init__(self, requests: Requests) -> None:
        # -- dependencies --
        self._requests = requests
        self._token = trio.lowlevel.current_trio_token()
        self._served_by = threading.get_ident()
        # -- mutable --
        self._stirred = threading.Event()
        """Has the serving thread run since the watchdog fell asleep?"""
        self._over = threading.Event()
        self._rounds = 0
        """Of the serving thread."""
        self._at_rest = False
        """Does it wait for something to do?"""
        self._seen = 0
        """The round at the last look, since when it is that, and is that logged?"""
        self._seen_at = time.monotonic()
        self._is_logged = False
        self._logged: set[Request] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the body runs. Raises UserError if there can be no thread."""
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        start_needed(thread.start)
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)
            self._over.set()
            self._stirred.set()
            thread.join()

    # ---- on the serving thread ----

    def before_io_wait(self, timeout: float) -> None:
        """It has nothing to do."""
        self._at_rest = True

    def after_io_wait(self, timeout: float) -> None:
        """It has."""
        self._at_rest = False
        self._rounds += 1
        if not self._stirred.is_set():
            self._stirred.set()

    # ---- on the watchdog's ----

    def _watch(self) -> None:
        enter_native()
        while not self._over.is_set():
            try:
                self._sleep_at_rest()
                self._look_at_thread()
                self._look_at_requests()
            except Exception as error:  # nobody else would watch from then on
                log_failure(log, "watching requests", error)
            self._over.wait(TICK_SECONDS)

    def _sleep_at_rest(self) -> None:
        if not self._requests and self._at_rest:
            self._stirred.clear()
            if not self._requests and self._at_rest:  # nothing came just before clear()
                self._stirred.wait()

    def _look_at_thread(self) -> None:
        if self._seen != self._rounds or self._at_rest:
            self._seen, self._seen_at, self._is_logged = self._rounds, time.monotonic(), False
        elif not self._is_logged and time.monotonic() - self._seen_at > LOG_SECONDS:
            self._log_busy_thread(time.monotonic() - self._seen_at)
            self._is_logged = True

    def _look_at_requests(self) -> None:
        waiting = {request for _, request in self._requests.older_than(LOG_SECONDS)}
        for request in waiting - self._logged:
            log.warning("%s waits for %.0f s:\n%s", *_facts(request))
        self._logged = waiting
        for key, request in self._requests.older_than(FAIL_SECONDS):
            if self._requests.claim(key, request):
                log.warning("%s fails after %.0f s:\n%s", *_facts(request))
                request.fail(errno.ETIMEDOUT)
                self._token.run_sync_soon(request.scope.cancel)

    def _log_busy_thread(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._served_by)  # noqa: SLF001  # documented
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        log.warning("the mount is busy with one thing for %.0f s:\n%s", seconds, stack)


def _facts(request: Request) -> tuple[str, float, str]:
    """What it is and who made it, how long it waits, and where."""
    frames = request.task.iter_await_frames()
    stack = "".join(traceback.StackSummary.extract(frames).format())
    waits = time.monotonic() - request.since
    return f"{request.name} of thread {request.tid}", waits, stack
