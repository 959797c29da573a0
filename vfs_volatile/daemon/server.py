"""One mounted process, from the mount to the unmount."""

from __future__ import annotations

import gc
import logging
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from functools import partial

import trio

from vfs_volatile.native import shim  # isort: skip  # must come before pyfuse3

import pyfuse3

from vfs_volatile.core.memory import Memory
from vfs_volatile.core.semantics import Semantics
from vfs_volatile.daemon import systemd
from vfs_volatile.daemon.config import MountConfig
from vfs_volatile.daemon.needs import (
    make_arena,
    make_direct_store,
    make_guardian,
    make_metrics_server,
    make_mount,
    make_scanner,
    make_standby,
    only_uid,
    read_further_ahead,
)
from vfs_volatile.daemon.pressure import PressureGuard
from vfs_volatile.daemon.psi import Triggers
from vfs_volatile.daemon.purger import Purger
from vfs_volatile.daemon.watchdog import Watchdog
from vfs_volatile.errors import UserError
from vfs_volatile.fs.addressed import Addressed
from vfs_volatile.fs.aids import DebugAids
from vfs_volatile.fs.anonymous import Anonymous
from vfs_volatile.fs.attributes import ControlAttributes
from vfs_volatile.fs.control import Control
from vfs_volatile.fs.direct import DirectFiles
from vfs_volatile.fs.drains import Drains
from vfs_volatile.fs.electorate import Electorate
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.journal import Journal
from vfs_volatile.fs.looks import Looks
from vfs_volatile.fs.news import News
from vfs_volatile.fs.operations import Operations
from vfs_volatile.fs.polls import Polls
from vfs_volatile.fs.purges import Purges
from vfs_volatile.fs.ranking import Ranking
from vfs_volatile.fs.remains import InBackground, clear_away, free_chunks, free_removed
from vfs_volatile.fs.tree import ROOT, Tree
from vfs_volatile.processes.connector import subscribe
from vfs_volatile.processes.identity import is_dying
from vfs_volatile.processes.kernel import Kernel
from vfs_volatile.processes.kin import look_at_living
from vfs_volatile.processes.maps import OwnMount
from vfs_volatile.units import PAGE_SIZE, total_memory

log = logging.getLogger(__name__)

_BYTES_PER_RANGE = 2048
"""Of the machine's memory: as a range takes some 250, all together take an eighth of it at most."""
_MAX_TASKS = 10_000
"""Requests served at a time. Some wait for others (an unmark for a write-back), so never few."""

_TURN_SECONDS = 0.0001
"""How long a look at processes waits for a busy trio thread to let go of Python's lock: after each
of hundreds of system calls. Python's own choice is fifty times that."""

_STOP_SECONDS = 10.0
"""How long the end of the daemon waits for a purge under way."""


def serve(config: MountConfig, on_ready: Callable[[], None]) -> bool:
    """Mount, call ``on_ready``, and serve until unmounted or told to stop by a signal.

    Returns whether the mount has gone: to take it out a user needs one more process (fusermount3),
    and there may be none. Raises UserError if the mount cannot be made; ends the process if the
    daemon has a bug.
    """
    _calm_collector()
    sys.setswitchinterval(_TURN_SECONDS)
    shim.keep_reserve()
    try:
        return trio.run(_serve, config, on_ready)
    except UserError:
        raise
    except Exception as failure:
        match failure:
            case ExceptionGroup(exceptions=(UserError() as error,)):  # of ``on_ready``
                raise error from None
        log.critical("the daemon of %s has failed", config.mountpoint, exc_info=True)
        raise SystemExit(1) from None


async def _serve(config: MountConfig, on_ready: Callable[[], None]) -> bool:
    triggers = Triggers() if config.pressure else None
    metrics = make_metrics_server(config.metrics) if config.metrics else None
    purger = Purger(shim.set_hurry)
    memory = Memory(
        config.size // PAGE_SIZE,
        config.budget // PAGE_SIZE,
        zero_by_default=config.access == "zero",
        most_ranges=total_memory() // _BYTES_PER_RANGE,
        on_pressure=partial(_wake_at_once, purger),
    )
    arena = make_arena()
    arena.when_left = InBackground(partial(free_chunks, arena)).start
    tmpfs, why_not = make_direct_store(config)
    if tmpfs is not None:
        tmpfs.when_left = InBackground(partial(free_removed, tmpfs)).start
    rules = config.semantics
    electorate = Electorate(
        subscribe() if rules.votes else None,
        partial(look_at_living, only_uid(config), Kernel().pids),
    )
    tree = Tree(memory, arena.make_store, partial(clear_away, electorate))
    _give_root(tree.get(ROOT), config)
    own = OwnMount(config.mountpoint)
    polls = Polls()
    journal = Journal(tree.inodes)
    news = News(tree.inodes, journal, polls)
    looks = Looks(tree.inodes, rules, make_scanner(config, own), electorate, make_standby())
    direct = DirectFiles(
        memory, tmpfs, why_not, tree.inodes, lambda ino: shim.invalidate(ino, -1, 0)
    )
    drains = Drains(shim.invalidate, make_standby())
    purges = Purges(memory, drains, looks, news, Anonymous(memory, journal), direct.count)
    aids = DebugAids(purges)
    addressed = Addressed(own, rules, tree.inodes, purges, electorate, journal, aids)
    ranking = Ranking(tree.inodes, purges.anonymous.attachments)
    facts = _facts(rules, electorate, triggers)
    where = {"metrics": metrics.url} if metrics is not None else {}
    control = Control(purges, addressed, journal, aids, direct)
    xattrs = ControlAttributes(
        memory, purges, addressed, journal, news, ranking, aids, direct, facts | where
    )
    operations = Operations(
        rules, tree, memory, control, xattrs, purges, polls, aids, direct, config.sets_atime
    )
    if config.acls:
        shim.want_acls()
    with trio.open_signal_receiver(*_that_end()) as signals:  # a mount that is not told stays, dead
        make_mount(operations, config)
        read_further_ahead(own)
        try:
            make_guardian(own.numbers[1])
            async with trio.open_nursery() as nursery:
                requests = shim.install(operations, nursery.start_soon, is_dying)
                purging = trio.CancelScope()
                nursery.start_soon(_keep_in_limits, memory, purges, purger, triggers, purging)
                nursery.start_soon(electorate.follow)
                nursery.start_soon(electorate.sweep)
                nursery.start_soon(electorate.orphans.follow)
                nursery.start_soon(direct.watch, operations.unused)
                nursery.start_soon(_stop_on_signal, signals, purges, purging)
                if metrics is not None:
                    metrics.tell(xattrs, purges, {"mountpoint": config.mountpoint, **facts})
                with Watchdog(requests).watching():
                    on_ready()
                    systemd.notify("READY=1")
                    log.info("mounted %s", config.mountpoint)
                    await pyfuse3.main(max_tasks=_MAX_TASKS)
                nursery.cancel_scope.cancel()
        finally:
            pyfuse3.close(unmount=True)
            arena.close()
            if tmpfs is not None:
                tmpfs.close()
            log.info("unmounted %s", config.mountpoint)
    # If others have taken it out, there may be a new one at the same place, of the same number.
    return not (purging.cancel_called and own.is_there())


def _wake_at_once(purger: Purger) -> None:
    purger.wake()
    shim.end_turn()


def _give_root(root: Inode, config: MountConfig) -> None:
    """Whose the root directory is, as the mount options say."""
    if config.uid is not None:
        root.uid = config.uid
    if config.gid is not None:
        root.gid = config.gid
    if config.mode is not None:
        root.mode = stat.S_IFDIR | config.mode


def _calm_collector() -> None:
    """Let Python's garbage collector look at few objects at a time: it stops everything meanwhile.

    A million ranges or files are as many objects and more, half a second's work, and almost none is
    ever garbage. So those of a while are looked at twice, 100,000 at most the second time (some
    ten milliseconds), and all that are older when a thousand million have come.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 3, 12_500)


async def _keep_in_limits(
    memory: Memory,
    purges: Purges,
    purger: Purger,
    triggers: Triggers | None,
    scope: trio.CancelScope,
) -> None:
    """Purge for the budget, and under pressure, until ``scope`` is cancelled."""
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(purger.run, memory, purges)
            if triggers is not None:
                nursery.start_soon(PressureGuard(memory, purges).run, triggers)


def _that_end() -> list[signal.Signals]:
    """Signals that end a mount. SIGHUP: its terminal was closed, and no nohup(1) ignores that."""
    ending = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    return ending


async def _stop_on_signal(
    signals: AsyncIterator[int], purges: Purges, purging: trio.CancelScope
) -> None:
    """End the main loop, but not under a purge if that can be helped.

    A purge waits in the kernel for write-backs that this process must still answer; a process
    that stopped to answer would wait for itself.
    """
    async for _ in signals:
        systemd.notify("STOPPING=1")
        purging.cancel()
        with trio.move_on_after(_STOP_SECONDS):
            await purges.drains.wait_idle()
        pyfuse3.terminate()


def _facts(rules: Semantics, electorate: Electorate, triggers: Triggers | None) -> dict[str, str]:
    facts = {rule: str(choice) for rule, choice in asdict(rules).items()}
    facts["pressure"] = "off" if triggers is None else " and ".join(triggers.watched)
    return {**facts, "processes": electorate.view} if rules.votes else facts
