"""The same scene on our mount and on a real tmpfs: whatever a program can see has to be equal.

A scene is a generator: it does things below the directory it is given, and yields what it saw.
The decorator :func:`on_both` makes a test of it that plays the scene on both sides and compares.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import re
import stat
import traceback
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.waiting import eventually

Scene = Callable[[Path], Iterable[object]]

USER = 12345
"""An ordinary user, and its group, that own nothing."""


class Sides(NamedTuple):
    """One directory on each side."""

    ours: Path
    tmpfs: Path

    def compare(self, scene: Scene) -> None:
        """Play ``scene`` on both; raises AssertionError with everything seen that differs."""
        expected = list(scene(self.tmpfs))
        seen = list(scene(self.ours))
        assert expected, "a scene that sees nothing tests nothing"
        differences = [
            f"{number}: {_brief(ours)}\n   tmpfs: {_brief(theirs)}"
            for number, (ours, theirs) in enumerate(
                zip_longest(seen, expected, fillvalue="the end")
            )
            if ours != theirs
        ]
        if differences:
            raise AssertionError(
                f"{len(differences)} of {len(expected)} sights differ:\n" + "\n".join(differences)
            )


def _brief(sight: object) -> str:
    return re.sub(r"(.)\1{40,}", r"\1...\1", repr(sight))


def on_both(scene: Scene) -> Callable[[Sides], None]:
    """A test that plays ``scene`` on both sides."""

    def test(sides: Sides) -> None:
        sides.compare(scene)

    test.__name__ = scene.__name__
    test.__doc__ = scene.__doc__
    test.__module__ = scene.__module__
    return test


def attempt(call: Callable[..., object], *arguments: object, **options: object) -> object:
    """What ``call`` returns, or the name of its errno."""
    try:
        return call(*arguments, **options)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


@contextlib.contextmanager
def opened(
    path: Path | str, flags: int = os.O_RDWR | os.O_CREAT, mode: int = 0o644
) -> Iterator[int]:
    """A descriptor, closed at the end."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def try_open(path: Path | str, flags: int, mode: int = 0o644) -> str:
    """``ok``, or the name of the errno; the descriptor is closed."""
    try:
        os.close(os.open(path, flags, mode))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def made(path: Path, content: bytes = b"", mode: int = 0o644) -> Path:
    """A file with this content."""
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
        os.write(fd, content)
        os.fchmod(fd, mode)
    return path


def look(path: Path | int) -> tuple[object, ...]:
    """What stat(2) says of it, without what two file systems may differ in: numbers and times."""
    found = os.stat(path) if isinstance(path, int) else os.lstat(path)
    return (
        stat.filemode(found.st_mode), found.st_nlink, found.st_uid, found.st_gid, found.st_size,
        found.st_blocks, found.st_blksize, found.st_rdev,
    )  # fmt: skip


def is_empty(here: Path) -> bool:
    """Wait until all space is free: what was deleted gives it back a moment later."""
    return eventually(lambda: (found := os.statvfs(here)).f_bfree == found.f_blocks)


def as_user(
    scene: Scene, at: Path, uid: int = USER, gid: int = USER, groups: Iterable[int] = ()
) -> list[Any]:
    """What an ordinary user sees of ``scene``, played in a child process below ``.``.

    The way to the mount leads through directories of pytest that are root's alone.
    """

    def child() -> list[object]:
        os.chdir(at)
        os.setgroups(list(groups))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        return list(scene(Path()))

    seen: list[Any] = in_child(child)
    return seen


def in_child(work: Callable[[], Any]) -> Any:
    """The result of ``work`` in a child process; raises AssertionError if it raised."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            result = (True, work())
        except BaseException:
            result = (False, traceback.format_exc())
        with open(writer, "wb", closefd=False) as out:
            pickle.dump(result, out)
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as source:
        data = source.read()
    _, status = os.waitpid(pid, 0)
    assert data, f"the child ended with status {status}"
    fine, result = pickle.loads(data)
    assert fine, f"in the child: {result}"
    return result
