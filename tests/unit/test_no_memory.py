"""Python runs out of memory in the middle of a change: at each of its allocations in turn.

Then a change may be half done, its counts included, but never so that a purged page passes for
intact, or an intact one is gone; and what is called next works.
"""

from __future__ import annotations

import ctypes
import errno
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.space import File, P
from vfs_volatile.abi.ioctls import VRANGE_PARTIAL, VRANGE_ZERO
from vfs_volatile.errors import SyscallError

SOURCE = Path(__file__).parents[1] / "support" / "no_memory.c"
PAGES = 24
Call = Callable[[File], object]


def unmark_in_steps(file: File) -> list[int]:
    file.end_intact(0, 0)
    return file.tell([(0, 8 * P), (8 * P, 0)])


CALLS: dict[str, Call] = {
    "mark": lambda file: file.mark(2 * P, 20 * P, 0),
    "mark all": lambda file: file.mark(0, 0, 0),
    "mark many": lambda file: file.mark_many([26 * P, 28 * P], [P, P], 0),
    "unmark a range": lambda file: file.unmark(4 * P, 4 * P),
    "unmark a part": lambda file: file.unmark(11 * P, 2 * P),
    "unmark all": lambda file: file.unmark(0, 0),
    "unmark and record": lambda file: file.unmark(0, 0, record_lost=True),
    "unmark many": lambda file: file.unmark_many([0, 11 * P, 15 * P], [3 * P, 2 * P, 2 * P]),
    "unmark many whole": lambda file: file.unmark_many([0, 4 * P], [3 * P, 4 * P]),
    "unmark in steps": unmark_in_steps,
    "purge": lambda file: file.purge(),
    "agree": lambda file: file.votes.agree("B", 18 * P, 10 * P, 0),
    "hold": lambda file: file.votes.hold("A", 19 * P, 4 * P),
    "hold what is marked": lambda file: file.votes.hold("B", 0, 24 * P, kin="kin"),
}


@pytest.fixture(scope="session")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> ctypes.PyDLL:
    library = tmp_path_factory.mktemp("no_memory") / "no_memory.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE], check=True)
    found = ctypes.PyDLL(str(library))
    found.begin_refusing.argtypes = [ctypes.c_long]
    return found


def marked(behavior: int) -> File:
    """Pages of data, and a hole; in ranges of all kinds, some of them purged."""
    file = File(PAGES)
    file.truncate(30 * P)
    file.mark(0, 3 * P, behavior)
    file.mark(4 * P, 4 * P, behavior | VRANGE_PARTIAL)
    file.mark(10 * P, 10 * P, behavior)
    file.mark(22 * P, 4 * P, behavior)
    for page in (1, 5, 12, 13, 14, 15, 22):
        file.purge(page * P, P)
    file.votes.agree("A", 20 * P, 2 * P, 0)
    return file


def has_refused(refusals: ctypes.PyDLL) -> bool:
    try:
        return bool(refusals.end_refusing())
    except MemoryError:
        return bool(refusals.end_refusing())


def touched(file: File, page: int) -> bytes | int:
    """What reading a page gives, or its errno."""
    try:
        return file.read(page * P, P)
    except SyscallError as error:
        return error.errno


@pytest.mark.parametrize("behavior", [0, VRANGE_ZERO])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_purged_page_passes_for_intact(refusals: ctypes.PyDLL, name: str, behavior: int) -> None:
    failed = 0
    number = 0
    refused = True
    while refused:
        file = marked(behavior)
        purged = list(file.volatility.purged)
        seen = [touched(file, page) for page in range(30)]
        error = None
        try:
            refusals.begin_refusing(number)  # ctypes too needs memory, before and after
            CALLS[name](file)
        except MemoryError as failure:
            error = failure
        refused = has_refused(refusals)
        number += 1
        if error is None:
            continue
        failed += 1
        what = f"{name}, allocation {number}"
        now_purged = {page for page in range(30) if file.purged_bytes(page * P, P)}
        for page in range(30):
            found = touched(file, page)
            lost = page in now_purged and (name == "purge" or found == errno.ENODATA)
            assert lost or found == seen[page], f"{what}: page {page}"
        assert now_purged >= set(purged), f"{what}: forgotten"
        assert file.unmark(0, 0) == len(now_purged) * P, what
        assert len(file.memory.queue) == len(list(file.memory.queue)), what
        file.mark(0, 0, 0)
        file.purge()
        file.close()
    assert failed > 5, "it needs memory"
