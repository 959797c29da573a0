"""A mount for one test, and what a test can do to it."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from vfs_volatile.abi import xattrs
from vfs_volatile.errors import UserError
from vfs_volatile.trial.deadline import Deadline
from vfs_volatile.trial.mounting import TemporaryMount

DEADLINE_SECONDS = 60.0


class VolatileMount:
    """A mount of its own, with a daemon of its own, for the time of a ``with``.

    Everything that waits for the mount is let go when ``deadline`` seconds are over (it gets
    errors, and who touches a mapping SIGBUS), so a test cannot hang in it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        deadline: float = DEADLINE_SECONDS,
        purge_on_mark: bool = False,
        **options: str | float | bool,
    ) -> None:
        """Mount below ``directory``, which is empty or missing.

        ``options`` are those of ``vfs-volatile mount``: ``budget="64M"``, ``access="zero"``,
        ``allow_other=True``. Raises UserError with the words of the command if it fails.
        """
        self.path = directory.resolve() / "mnt"
        """Where it is mounted."""
        self._deadline = deadline
        self._held = ExitStack()
        self.path.mkdir(parents=True)
        with ExitStack() as stack:
            self._mount = stack.enter_context(
                TemporaryMount(self.path, directory / "daemon.log", _arguments(options))
            )
            self._watch = stack.enter_context(Deadline(self._mount, deadline))
            self._mount.wait_until_ready()
            self.purge_on_mark = purge_on_mark
            self._held = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmount, whoever uses it. Raises UserError if its time had run out."""
        self._held.close()
        if self._watch.expired:
            raise UserError(
                f"the mount was freed {self._deadline:g} s after it was made, its deadline:"
                " something hung, or the test needs a later one"
            )

    # ---- memory ----

    def purge(self, path: str | os.PathLike[str] | None = None) -> int:
        """Purge what is volatile of the file ``path``, or of all; the bytes that went.

        Page by page, whatever the budget. What somebody has mapped private stays.
        """
        before = self._purged_ever()
        for file in self._files() if path is None else [os.fspath(path)]:
            os.setxattr(file, xattrs.PURGE, b"all")
        if path is None:
            self._set(xattrs.MOUNT_PURGE, "all")  # files that have no name any more
        return self._purged_ever() - before

    def pressure(self, need: int | str | None = None) -> int:
        """Be short of ``need`` bytes (``"1M"``; None: of all there are); the bytes that went.

        As when so much is resident above the budget: in the order of the rules, ranges as a whole
        unless they are partial, and nothing of what somebody holds.
        """
        before = self._purged_ever()
        self._set(xattrs.MOUNT_PURGE, "all" if need is None else str(need))
        return self._purged_ever() - before

    @property
    def purge_on_mark(self) -> bool:
        """Is everything purged the moment it is marked? What somebody holds stays, as ever."""
        return os.getxattr(self.path, xattrs.PURGE_ON_MARK) == b"1"

    @purge_on_mark.setter
    def purge_on_mark(self, on: bool) -> None:
        self._set(xattrs.PURGE_ON_MARK, str(int(on)))

    # ---- the daemon ----

    @contextmanager
    def slow_faults(self, seconds: float) -> Iterator[None]:
        """Let the mount take so long to answer a READ, at most 5: a fault, or a read(2).

        What the kernel has cached is not asked for (``os.posix_fadvise`` drops it), and nothing is
        of files on the passthrough data path.
        """
        self._set(xattrs.SLOW_FAULTS, str(seconds))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # it was killed meanwhile
                self._set(xattrs.SLOW_FAULTS, "0")

    def kill(self) -> None:
        """Let the daemon die. Calls get ENOTCONN from now on, touches of mappings SIGBUS."""
        self._mount.kill()

    # ---- helpers ----

    def _files(self) -> Iterator[str]:
        """Every regular file that has a name."""
        for directory, _, names in os.walk(self.path):
            for name in names:
                file = os.path.join(directory, name)
                if stat.S_ISREG(os.lstat(file).st_mode):
                    yield file

    def _set(self, name: str, value: str) -> None:
        os.setxattr(self.path, name, value.encode())

    def _purged_ever(self) -> int:
        """Bytes."""
        return int(json.loads(os.getxattr(self.path, xattrs.STATS))["purged_ever"])


def _arguments(options: dict[str, str | float | bool]) -> list[str]:
    """``budget="64M", allow_other=True, o="ro"`` as ``vfs-volatile mount`` wants them."""
    words = []
    for name, value in options.items():
        option = f"-{name}" if len(name) == 1 else "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is not False:
            words += [option, str(value)]
    return words
