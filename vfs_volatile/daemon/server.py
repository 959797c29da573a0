"""One mounted process, from the mount to the unmount."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import signal
import stat
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from vfs_volatile.native import kcmp, procmap, shim  # isort: skip  # must come before pyfuse3

import pyfuse3

from vfs_volatile.core.memory import Memory
from vfs_volatile.core.semantics import Semantics
from vfs_volatile.daemon import systemd
from vfs_volatile.daemon.config import SUBTYPE, Address, MountConfig
from vfs_volatile.daemon.guardian import start_guardian
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
from vfs_volatile.fs.remains import Leftovers, clear_away
from vfs_volatile.fs.threads import Standby
from vfs_volatile.fs.tree import ROOT, Tree
from vfs_volatile.mountinfo import find_mount
from vfs_volatile.native.shortage import require_spare
from vfs_volatile.processes.connector import subscribe
from vfs_volatile.processes.identity import is_dying
from vfs_volatile.processes.kernel import Kernel
from vfs_volatile.processes.kin import look_at_living
from vfs_volatile.processes.mappings import MappingScanner
from vfs_volatile.processes.maps import OwnMount, query_text
from vfs_volatile.store.arena import Arena
from vfs_volatile.store.detached import DetachedTmpfs
from vfs_volatile.units import PAGE_SIZE, total_memory

if TYPE_CHECKING:
    from vfs_volatile.daemon.metrics import MetricsServer

log = logging.getLogger(__name__)

_BYTES_PER_RANGE = 2048
"""Of the machine's memory: as a range takes some 250, all together take an eighth of it at most."""
_MAX_TASKS = 10_000
"""Requests served at a time. Some wait for others (an unmark for a write-back), so never few."""

_READ_AHEAD_KIB = 256
"""What a sequential reader is ahead, and what a fault elsewhere reads around it unless told not to
(MADV_RANDOM). Twice the kernel's own choice: twice that again gains a sequential reader a twentieth
and costs a random fault twice as much."""
_STOP_SECONDS = 10.0
"""How long the end of the daemon waits for a purge under way."""

_MOST_FILES = 4096
"""Open files by which sleeping processes are followed, one for each thread."""


def serve(config: MountConfig, on_ready: Callable[[], None]) -> bool:
    """Mount, call ``on_ready``, and serve until unmounted or told to stop by a signal.

    Returns whether the mount has gone: to take it out a user needs one more process (fusermount3),
    and there may be none. Raises UserError if the mount cannot be made; ends the process if the
    daemon has a bug.
    """
    _calm_collector()
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
    metrics = _metrics_server(config.metrics) if config.metrics else None
    purger = Purger(shim.set_hurry)
    memory = Memory(
        config.size // PAGE_SIZE,
        config.budget // PAGE_SIZE,
        zero_by_default=config.access == "zero",
        most_ranges=total_memory() // _BYTES_PER_RANGE,
        on_pressure=partial(_wake_at_once, purger),
    )
    arena = _arena()
    arena.when_left = Leftovers(arena).free
    tmpfs, why_not = _direct_store(config)
    rules = config.semantics
    electorate = Electorate(
        subscribe() if rules.votes else None,
        partial(look_at_living, _only_uid(config), Kernel().pids),
    )
    tree = Tree(memory, arena.make_store, partial(clear_away, electorate))
    _give_root(tree.get(ROOT), config)
    own = OwnMount(config.mountpoint)
    polls = Polls()
    journal = Journal(tree.inodes)
    news = News(tree.inodes, journal, polls)
    looks = Looks(tree.inodes, rules, _scanner(config, own), electorate, _standby())
    direct = DirectFiles(
        memory, tmpfs, why_not, tree.inodes, lambda ino: shim.invalidate(ino, -1, 0)
    )
    drains = Drains(shim.invalidate, _standby())
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
    _mount(operations, config)
    _read_further_ahead(own)
    try:
        _start_guardian(own.numbers[1])
        async with trio.open_nursery() as nursery:
            requests = shim.install(operations, nursery.start_soon, is_dying)
            purging = trio.CancelScope()
            nursery.start_soon(_keep_in_limits, memory, purges, purger, triggers, purging)
            nursery.start_soon(electorate.follow)
            nursery.start_soon(electorate.sweep)
            nursery.start_soon(electorate.orphans.follow)
            nursery.start_soon(direct.watch, operations.unused)
            await nursery.start(_stop_on_signal, purges, purging)
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
    """Let Python's garbage collector look at all objects seldom: it stops everything meanwhile.

    A million ranges are as many objects, half a second's work, and almost none is ever garbage.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 1_000)


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


async def _stop_on_signal(
    purges: Purges, purging: trio.CancelScope, *, task_status: trio.TaskStatus[None]
) -> None:
    """On SIGTERM, SIGINT or SIGHUP end the main loop, but not under a purge if that can be helped.

    A purge waits in the kernel for write-backs that this process must still answer; a process
    that stopped to answer would wait for itself.
    """
    ending = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup(1) has it
        ending.append(signal.SIGHUP)  # a terminal was closed
    with trio.open_signal_receiver(*ending) as signals:
        task_status.started()
        async for _ in signals:
            systemd.notify("STOPPING=1")
            purging.cancel()
            with trio.move_on_after(_STOP_SECONDS):
                await purges.drains.wait_idle()
            pyfuse3.terminate()


def _metrics_server(address: Address) -> MetricsServer:
    """Raises UserError if it cannot be had."""
    try:
        from vfs_volatile.daemon.metrics import MetricsServer  # here: an extra, and slow to load
    except ModuleNotFoundError as error:
        raise UserError(
            f"--metrics: {error.name} is missing; install it with: pip install prometheus-client"
        ) from None
    return MetricsServer(address)


def _facts(rules: Semantics, electorate: Electorate, triggers: Triggers | None) -> dict[str, str]:
    facts = {rule: str(choice) for rule, choice in asdict(rules).items()}
    facts["pressure"] = "off" if triggers is None else " and ".join(triggers.watched)
    return {**facts, "processes": electorate.view} if rules.votes else facts


def _standby() -> Standby:
    """Raises UserError if there can be none."""
    standby = Standby()
    standby.start()
    return standby


def _arena() -> Arena:
    """Raises UserError if there can be none."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))  # it is about all files together here
    try:
        return Arena()
    except OSError as error:
        raise UserError(
            f"no memory can be had for files: {error.strerror};"
            " see the limits of the shell (ulimit)"
        ) from None


def _start_guardian(connection: int) -> None:
    """Raises UserError if there can be none."""
    try:
        start_guardian(connection)
    except OSError as error:
        raise UserError(
            f"no second process can be started: {error.strerror}; see the limits of the shell"
            " (ulimit) or of the unit (TasksMax)"
        ) from None


def _direct_store(config: MountConfig) -> tuple[DetachedTmpfs | None, str]:
    """Where files on the direct path are kept, or why no file can take it."""
    if config.passthrough == "off":
        return None, "the mount has -o passthrough=off"
    try:
        tmpfs = DetachedTmpfs(config.size // PAGE_SIZE, sets_atime=config.sets_atime)
    except PermissionError:
        return None, "the daemon lacks CAP_SYS_ADMIN"
    except OSError as error:
        return None, f"this kernel makes no tmpfs for it: {error.strerror}"
    shim.want_passthrough()
    return tmpfs, ""


def _read_further_ahead(own: OwnMount) -> None:
    """Let the kernel ask for more at a time, if we may: before it asks for anything."""
    device = "{}:{}".format(*own.numbers)
    with contextlib.suppress(OSError):  # not root, or no sysfs: as the kernel has it
        Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(str(_READ_AHEAD_KIB))


def _scanner(config: MountConfig, own: OwnMount) -> MappingScanner:
    query = procmap.query if procmap.available() else query_text
    return MappingScanner(
        own,
        Kernel(query, kcmp.compare_memory, require_spare),
        only_uid=_only_uid(config),
        most_files=_files_for_looks(),
    )


def _only_uid(config: MountConfig) -> int | None:
    """Whose processes alone can have files of the mount; None if that may be anybody's."""
    return None if config.allow_other or os.getuid() == 0 else os.getuid()


def _files_for_looks() -> int:
    """How many files the looks at processes may hold open: a quarter of what all may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(soft, min(hard, 4 * _MOST_FILES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return min(_MOST_FILES, limit // 4)


def _mount(operations: Operations, config: MountConfig) -> None:
    """Make the mount. Raises UserError if it cannot be made."""
    options = {
        *pyfuse3.default_options,
        f"fsname={config.fsname}",
        f"subtype={SUBTYPE}",
        *config.mount_options,
    }
    if config.allow_other:
        options.add("allow_other")
    try:
        pyfuse3.init(operations, config.mountpoint, options)
    except RuntimeError as error:
        raise UserError(
            f"cannot mount at {config.mountpoint}: {error}; check the options and /dev/fuse"
        ) from error
    if not shim.took_hold():
        pyfuse3.close(unmount=True)
        raise UserError("the shim did not take hold of libfuse; build it again with 'make setup'")
    if find_mount(config.mountpoint) is None:
        pyfuse3.close(unmount=True)
        raise UserError(
            f"{config.mountpoint} was replaced while it was mounted; give a directory of your own"
        )
