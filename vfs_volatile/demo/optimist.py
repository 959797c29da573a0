"""Reading without pinning: whoever touches a purged page gets SIGBUS, and dies of it.

No handler in Python outlives a SIGBUS, so each look is a child process's, and the parent reads in
its exit status how it ended. The parent holds a shared lock on the entry meanwhile: nobody can
unmark or rebuild it, and the parent can ask which state the entry is in.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import time

from vfs_volatile.abi.ioctls import STATE_PURGED
from vfs_volatile.client.calls import fvrange_next
from vfs_volatile.demo.cache import Cache
from vfs_volatile.demo.plan import Plan
from vfs_volatile.demo.roles import pick
from vfs_volatile.demo.tally import fail, say

LOOKS = 100

_RIGHT, _WRONG, _FAILED = 0, 1, 2
"""Exit codes of the child."""


def touch(plan: Plan, number: int) -> None:
    """Look at some entries without pinning them."""
    cache = Cache(plan)
    rng = plan.rng("touch", number)
    until = time.monotonic() + plan.lookup_seconds
    entries = cache.records.recorded()
    for _ in range(LOOKS):
        if time.monotonic() > until:
            return
        index = pick(rng, entries)
        with cache.locked(index, shared=True) as fd:
            _judge(plan, index, fd, _look(cache, index, fd))


def _look(cache: Cache, index: int, fd: int) -> int:
    """Have a child read the entry through a mapping; its exit code, or minus its signal."""
    pid = os.fork()
    if pid == 0:
        code = _FAILED
        try:
            _die_quietly()
            code = _RIGHT if cache.matches(index, fd) else _WRONG
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _die_quietly() -> None:
    """No dump of stacks, no core. A limit of 1, as 0 does not hold for a core_pattern that is a
    pipe (core(5)): a desktop's crash reporter would start each time.
    """
    faulthandler.disable()
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (min(1, hard) if hard >= 0 else 1, hard))


def _judge(plan: Plan, index: int, fd: int, code: int) -> None:
    """SIGBUS is right exactly where the entry is purged."""
    source = plan.sources[index]
    if code == _RIGHT:
        say(looked=1, verified=1)
    elif code == -signal.SIGBUS:
        if any(run.state == STATE_PURGED for run in fvrange_next(fd)):
            say(looked=1, sigbus=1)
        else:
            fail(f"{source} gave SIGBUS, though nothing of it is purged")
    elif code == _WRONG:
        fail(f"{source} was read intact through a mapping, but its checksum is wrong")
    else:
        fail(f"{source} could not be read: the process that did ended with {code}")
