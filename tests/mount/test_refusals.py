"""What the system refuses the daemon is told to whoever asked, and changes nothing."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.parity.sides import attempt
from tests.support.files import FALLOC_FL_KEEP_SIZE as KEEP_SIZE
from tests.support.files import FALLOC_FL_PUNCH_HOLE as PUNCH_HOLE
from tests.support.files import FALLOC_FL_ZERO_RANGE as ZERO_RANGE
from tests.support.files import VFile, fallocate
from tests.support.fvrange import PAGE
from tests.support.mount import LONG_DEADLINE, ROOT, Mount, MountFactory, command, run
from tests.support.mountinfo import is_mounted
from tests.support.waiting import PATIENCE, eventually
from vfs_volatile import VRANGE_NONVOLATILE, VRANGE_ZERO, fvrange_many

MODULE = "tests.support.refusing_daemon"

Call = Callable[[VFile], object]
State = tuple[object, ...]


def store(file: VFile) -> None:
    """Through a mapping, so that it is written back."""
    with mmap.mmap(file.fd, 8 * PAGE) as shared:
        shared[7 * PAGE] = ord("s")
        shared.flush()


def create(file: VFile) -> None:
    os.close(os.open(f"{file.path}.new", os.O_RDWR | os.O_CREAT, 0o600))


def reopen(file: VFile) -> None:
    os.close(os.open(file.path, os.O_RDWR))


CALLS: dict[str, Call] = {
    "write to a hole": lambda file: os.pwrite(file.fd, b"w" * 2 * PAGE, 6 * PAGE),
    "write over what is purged": lambda file: os.pwrite(file.fd, b"w" * PAGE, 2 * PAGE),
    "write far beyond": lambda file: os.pwrite(file.fd, b"w" * PAGE, (16 << 20) - PAGE // 2),
    "store": store,
    "allocate": lambda file: fallocate(file.fd, 0, PAGE, 8 * PAGE),
    "zero": lambda file: fallocate(file.fd, ZERO_RANGE, PAGE + 5, 7 * PAGE),
    "punch": lambda file: fallocate(file.fd, PUNCH_HOLE | KEEP_SIZE, PAGE // 2, 4 * PAGE),
    "cut": lambda file: os.ftruncate(file.fd, 4 * PAGE + 10),
    "grow": lambda file: os.ftruncate(file.fd, 20 * PAGE),
    "mark": lambda file: file.mark(),
    "unmark": lambda file: file.unmark(),
    "unmark many": lambda file: fvrange_many(
        file.fd, [(0, PAGE), (2 * PAGE, PAGE), (3 * PAGE, PAGE)], VRANGE_NONVOLATILE
    ),
    "unmark by attribute": lambda file: file.set_attribute("nonvolatile", "all"),
    "purge": lambda file: file.purge(),
    "purge of the mount": lambda file: os.setxattr(
        file.path.parent, "user.vfs_volatile.purge", b"all"
    ),
    "create": create,
    "open": reopen,
    "set an attribute": lambda file: os.setxattr(file.fd, "user.a", b"value"),
}
"""Each twice is as once."""
FEW_CALLS = ("write to a hole", "write over what is purged", "mark", "unmark", "unmark many")
"""Those that are answered at once."""

REFUSED = ("any MemoryError 0 9", "open EMFILE 0 1000", "system EMFILE 0 1000")
"""Beside each call of the daemon alone."""
ERRORS = ("ENOMEM", "ENOSPC", "EIO", "EPERM")
TOLD = {"MemoryError": "ENOMEM", "EMFILE": "ENOMEM", "EPERM": "EIO"}
"""Errors that are not told as they are."""


class Refused:
    """A mount whose daemon is refused things."""

    def __init__(self, mounted: Mount, *, zero: bool) -> None:
        self.mounted = mounted
        mounted.declared_stderr = True
        self._zero = zero
        self._switch = Path(f"{mounted.path}.refuse")
        self._done = Path(f"{mounted.path}.refused")
        self._numbers = count()

    @contextlib.contextmanager
    def refusing(self, orders: str) -> Iterator[None]:
        new = self._switch.with_suffix(".new")
        new.write_text(orders)
        new.rename(self._switch)
        try:
            yield
        finally:
            self._switch.unlink()

    @contextlib.contextmanager
    def file(self) -> Iterator[VFile]:
        """Two pages volatile, two purged (one of them written since, if it may be), two of data, a
        hole of two.
        """
        assert eventually(lambda: self.mounted.resident == 0), "the last file has gone"
        file = self.mounted.file(f"file{next(self._numbers)}", 6)
        os.ftruncate(file.fd, 8 * PAGE)
        file.mark(0, 4 * PAGE, VRANGE_ZERO if self._zero else 0)
        file.purge(2 * PAGE, 2 * PAGE)
        if self._zero:
            os.pwrite(file.fd, b"z", 3 * PAGE)
        try:
            yield file
        finally:
            os.ftruncate(file.fd, 0)  # gives its memory back at once
            file.close()
            for path in file.path.parent.iterdir():
                path.unlink()

    def all_orders(self) -> Iterator[str]:
        """Those of REFUSED; then the first call of the daemon alone, the second, until there are no
        more.
        """
        yield from REFUSED
        for number in count():
            self._done.unlink(missing_ok=True)
            yield f"any {ERRORS[number % len(ERRORS)]} {number} 1"
            if not self._done.exists():
                return

    def orders_for_python(self) -> Iterator[str]:
        """Every third allocation, until there are no more."""
        for number in count(step=3):
            self._done.unlink(missing_ok=True)
            yield f"python MemoryError {number} 1"
            if not self._done.exists():
                return

    def state(self, file: VFile) -> State:
        """All that can be seen of it, but for times; its data by the daemon's account."""
        file.cool()
        others = sorted(
            (path.name.removeprefix(file.path.name), path.stat().st_size)
            for path in file.path.parent.iterdir()
        )
        return (
            file.reads(), os.fstat(file.fd).st_size, others, [tuple(run) for run in file.ranges()],
            [self.mounted.number(name) for name in ("resident", "volatile", "purged")],
            os.listxattr(file.fd), file.attribute("lost"),
        )  # fmt: skip

    def expected(self, call: Call) -> tuple[object, State, State]:
        """What a call returns, and the state before and after it, if nothing is refused."""
        with self.file() as file:
            before = self.state(file)
            return call(file), before, self.state(file)


PATHS = {
    "cached": {},
    "zero": {"access": "zero", "o": "passthrough=off"},
    "passthrough": {"access": "zero"},
}
PURGES = ("purge", "purge of the mount")
NOT_AS_ELSEWHERE = ("unmark", "unmark many", "unmark by attribute", "zero", "purge", "store")
"""Calls that meet purged pages which hold what was stored since: alone on the path "zero"."""
NEEDS_MEMORY = {"allocate", "cut", "grow", "punch", "purge", "unmark", "write to a hole"}
FAILS_NOT = {
    "cached": {"unmark", "grow"},
    "zero": {"grow", "allocate", "cut", "punch", "write to a hole"},
    "passthrough": {"write to a hole", "cut", "grow", "punch"},
}
"""Calls that need nothing of the system there, or nothing by way of the daemon."""


def is_between(before: State, now: State, after: State) -> bool:
    """Is each page as it was before, or as it is after?"""
    pages = zip(str(before[0]), str(now[0]), str(after[0]), strict=True)
    return all(seen in (one, other) for one, seen, other in pages)


@pytest.mark.parametrize("path", PATHS)
def test_whatever_is_refused(mount: MountFactory, path: str) -> None:
    """Either it is told and nothing has changed, or it was not needed; in the end all works.

    But for a purge, which may have taken some pages; memory allocated on the passthrough path:
    processes may have stored in it, so it stays; and zeros stored over what is there, which needs
    nothing: refused halfway they stay.
    """
    mounted = mount(deadline=LONG_DEADLINE, module=MODULE, size="64M", **PATHS[path])
    refused = Refused(mounted, zero=path != "cached")
    told: set[str] = set()
    for name, call in CALLS.items():
        if path == "zero" and name not in NOT_AS_ELSEWHERE:
            continue
        result, before, after = refused.expected(call)
        for orders in refused.all_orders():
            with refused.file() as file:
                with refused.refusing(orders):
                    seen = attempt(call, file)
                state = refused.state(file)
                what = f"{name}, {orders}: {seen}"
                if isinstance(seen, str):
                    error = orders.split()[1]
                    assert seen in (TOLD.get(error, error), "ENOMEM"), what
                    kept = slice(int(name == "zero"), 4 if path == "passthrough" else None)
                    if name in PURGES:
                        assert is_between(before, state, after), what
                    else:
                        assert state[kept] == before[kept], what
                    told |= {name, seen}
                elif seen != result:
                    assert "write" in name, what
                again = attempt(call, file)
                assert again == result or seen == result, f"{what}, then {again}"
                assert refused.state(file) == after, what
    assert told >= {"EIO", "ENOMEM", "ENOSPC", *NEEDS_MEMORY} - FAILS_NOT[path], told
    assert "Traceback" not in mounted.stderr


@pytest.mark.parametrize("path", PATHS)
def test_an_allocation_of_python_is_refused(mount: MountFactory, path: str) -> None:
    """Then the same call works, tells of all that was purged, and leaves nothing miscounted."""
    mounted = mount(deadline=LONG_DEADLINE, module=MODULE, size="64M", **PATHS[path])
    refused = Refused(mounted, zero=path != "cached")
    told = 0
    for name in FEW_CALLS:
        call = CALLS[name]
        result, _, after = refused.expected(call)
        for orders in refused.orders_for_python():
            with refused.file() as file:
                with refused.refusing(orders):
                    seen = attempt(call, file)
                again = attempt(call, file)
                told += seen == "ENOMEM"
                assert seen in ("ENOMEM", result), f"{name}, {orders}: {seen}"
                assert again == result or seen == result, f"{name}, {orders}: then {again}"
                # The rest of a range that was to be cut may not be volatile any more.
                kept = slice(3 if name == "unmark many" else None)
                assert refused.state(file)[kept] == after[kept], f"{name}, {orders}"
    assert told > 5
    assert "unexpectedly" not in mounted.stderr


def limited(soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_limit_on_the_size_of_files_is_not_about_the_mount(tmp_path: Path) -> None:
    """RLIMIT_FSIZE of the shell (ulimit -f): raised if it may be; else the mount says so."""
    directory = tmp_path / "mnt"
    directory.mkdir()
    for hard, code in ((resource.RLIM_INFINITY, 0), (1 << 20, 1)):
        done = subprocess.run(
            command("mount", directory), cwd=ROOT, capture_output=True, text=True,
            timeout=PATIENCE, check=False, preexec_fn=limited(1 << 16, hard),
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        if code:
            said = "vfs-volatile: no memory can be had for files: File too large; see the limits"
            assert done.stderr.startswith(said)
            assert done.stderr.count("\n") == 1
            assert not is_mounted(directory)
            continue
        try:
            (directory / "file").write_bytes(b"x" * (1 << 20))
            assert (directory / "file").stat().st_size == 1 << 20
        finally:
            assert run("umount", directory).returncode == 0
