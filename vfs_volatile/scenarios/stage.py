"""What happens from outside: files are there, pressure comes, somebody looks.

Nothing here counts as a user of a file: O_PATH descriptors hold it, and FUSE is not told of them.
"""

from __future__ import annotations

import errno
import os
import time

from vfs_volatile.abi import xattrs
from vfs_volatile.scenarios.acts import OK
from vfs_volatile.scenarios.grammar import Arguments
from vfs_volatile.units import PAGE_SIZE, pages_for

_PURGER_SECONDS = 5.0
_POLL_SECONDS = 0.01


class Stage:
    """The files of a scenario, by the names that they had first."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files: dict[str, int] = {}

    def do(self, verb: str, arguments: Arguments) -> str:
        """The result of one step: words. Raises OSError."""
        return str(getattr(self, f"do_{verb}")(arguments))

    def do_create(self, arguments: Arguments) -> str:
        """A file with a page of the letter d for each ``d``, and a hole for each ``0``."""
        path = os.path.join(self._directory, str(arguments["FILE"]))
        letters = str(arguments["letters"])
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.ftruncate(fd, len(letters) * PAGE_SIZE)
        for page, letter in enumerate(letters):
            if letter == "d":
                os.pwrite(fd, b"d" * PAGE_SIZE, page * PAGE_SIZE)
        os.close(fd)
        self._files[str(arguments["FILE"])] = os.open(path, os.O_PATH)
        return OK

    def do_purge(self, arguments: Arguments) -> str:
        start, length = _span(arguments)
        os.setxattr(self._path(arguments), xattrs.PURGE, f"{start}+{length}".encode())
        return OK

    def do_reclaim(self, arguments: Arguments) -> str:
        self._set(xattrs.MOUNT_PURGE, arguments)
        return OK

    def do_budget(self, arguments: Arguments) -> str:
        """Set the budget, and give the purger its time. ETIMEDOUT if more stays resident."""
        self._set(xattrs.BUDGET, arguments)
        budget = int(str(arguments["N"])) * PAGE_SIZE
        deadline = time.monotonic() + _PURGER_SECONDS
        while int(os.getxattr(self._directory, xattrs.MOUNT_RESIDENT)) > budget:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "the purger stays above the budget")
            time.sleep(_POLL_SECONDS)
        return OK

    def do_status(self, arguments: Arguments) -> str:
        path = self._path(arguments)
        letters = ["-"] * pages_for(os.stat(path).st_size)
        for name, letter in ((xattrs.VOLATILE, "v"), (xattrs.PURGED, "p")):
            for start, length in _spans(os.getxattr(path, name).decode()):
                for page in range(start // PAGE_SIZE, pages_for(start + length)):
                    letters[page] = letter
        return "".join(letters)

    def _set(self, name: str, arguments: Arguments) -> None:
        size = int(str(arguments["N"])) * PAGE_SIZE
        os.setxattr(self._directory, name, str(size).encode())

    def _path(self, arguments: Arguments) -> str:
        """A path that leads to the file whatever its name is now."""
        return f"/proc/self/fd/{self._files[str(arguments['FILE'])]}"


def _span(arguments: Arguments) -> tuple[int, int]:
    given = arguments.get("RANGE", (0, 0))
    assert not isinstance(given, str | int)
    return given[0], given[1]


def _spans(text: str) -> list[xattrs.Span]:
    return xattrs.parse_ranges(text) if text else []
