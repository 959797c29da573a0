"""What a mount needs of the system to start. If that is refused the user is told in a line why."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from vfs_volatile.native import kcmp, procmap, shim  # isort: skip  # must come before pyfuse3

import pyfuse3

from vfs_volatile.daemon.config import SUBTYPE, Address, MountConfig
from vfs_volatile.daemon.guardian import start_guardian
from vfs_volatile.errors import UserError
from vfs_volatile.fs.operations import Operations
from vfs_volatile.fs.threads import Standby
from vfs_volatile.mountinfo import find_mount
from vfs_volatile.native.shortage import require_spare
from vfs_volatile.processes.kernel import Kernel
from vfs_volatile.processes.mappings import MappingScanner
from vfs_volatile.processes.maps import OwnMount, query_text
from vfs_volatile.store.arena import Arena
from vfs_volatile.store.detached import DetachedTmpfs
from vfs_volatile.units import PAGE_SIZE

if TYPE_CHECKING:
    from vfs_volatile.daemon.metrics import MetricsServer

_READ_AHEAD_KIB = 256
"""What a sequential reader is ahead, and what a fault elsewhere reads around it unless told not to
(MADV_RANDOM). Twice the kernel's own choice: twice that again gains a sequential reader a twentieth
and costs a random fault twice as much."""

_MOST_FILES = 4096
"""Open files by which sleeping processes are followed, one for each thread."""


def make_mount(operations: Operations, config: MountConfig) -> None:
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


def read_further_ahead(own: OwnMount) -> None:
    """Let the kernel ask for more at a time, if we may: before it asks for anything."""
    device = "{}:{}".format(*own.numbers)
    with contextlib.suppress(OSError):  # not root, or no sysfs: as the kernel has it
        Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(str(_READ_AHEAD_KIB))


def make_guardian(connection: int) -> None:
    """Raises UserError if there can be none."""
    try:
        start_guardian(connection)
    except OSError as error:
        raise UserError(
            f"no second process can be started: {error.strerror}; see the limits of the shell"
            " (ulimit) or of the unit (TasksMax)"
        ) from None


def make_metrics_server(address: Address) -> MetricsServer:
    """Raises UserError if it cannot be had."""
    try:
        from vfs_volatile.daemon.metrics import MetricsServer  # here: an extra, and slow to load
    except ModuleNotFoundError as error:
        raise UserError(
            f"--metrics: {error.name} is missing; install it with: pip install prometheus-client"
        ) from None
    return MetricsServer(address)


def make_standby() -> Standby:
    """Raises UserError if there can be none."""
    standby = Standby()
    standby.start()
    return standby


def make_arena() -> Arena:
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


def make_direct_store(config: MountConfig) -> tuple[DetachedTmpfs | None, str]:
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


def make_scanner(config: MountConfig, own: OwnMount) -> MappingScanner:
    query = procmap.query if procmap.available() else query_text
    return MappingScanner(
        own,
        Kernel(query, kcmp.compare_memory, require_spare),
        only_uid=only_uid(config),
        most_files=_files_for_looks(),
    )


def only_uid(config: MountConfig) -> int | None:
    """Whose processes alone can have files of the mount; None if that may be anybody's."""
    return None if config.allow_other or os.getuid() == 0 else os.getuid()


def _files_for_looks() -> int:
    """How many files the looks at processes may hold open: a quarter of what all may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(soft, min(hard, 4 * _MOST_FILES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return min(_MOST_FILES, limit // 4)
