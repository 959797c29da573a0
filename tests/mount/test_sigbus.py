"""Touching a purged page through a mapping: SIGBUS there, at that address, and nowhere else."""

from __future__ import annotations

import random

import pytest

from tests.support.actor import BOTH, How, sigbus
from tests.support.files import VFile, letters
from tests.support.fvrange import PAGE, pages
from tests.support.mount import Mount

COUNT = 8
INTACT = "abcdefgh"
HURT = "abXXefgh"

WINDOW = 64
"""Pages of a file that the kernel reads ahead in one or two requests."""


@pytest.fixture
def file(fs: Mount) -> VFile:
    """Eight pages, all volatile, none purged."""
    file = fs.file("file", COUNT)
    file.mark()
    return file


def test_a_volatile_page_that_was_not_purged_is_an_ordinary_page(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file).map("shared")
    assert actor.loads() == INTACT
    assert actor.stores("z", [1, 2]) == "ww"
    assert actor.loads() == "azzdefgh"


@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("warm", [True, False], ids=["page-cached", "not-cached"])
def test_loads_meet_sigbus_at_exactly_the_purged_pages(
    fs: Mount, file: VFile, how: How, warm: bool
) -> None:
    if not warm:
        file.cool()
    file.purge(*pages(2, 2))
    actor = fs.actor(file).map(how)
    assert actor.loads() == HURT


@pytest.mark.parametrize("how", BOTH)
def test_stores_meet_sigbus_at_exactly_the_purged_pages(fs: Mount, file: VFile, how: How) -> None:
    file.purge(*pages(2, 2))
    actor = fs.actor(file).map(how)
    assert actor.stores("z") == "wwXXwwww"
    assert actor.loads() == "zzXXzzzz"


@pytest.mark.parametrize("offset", [2 * PAGE, 2 * PAGE + 1, 3 * PAGE + 1234, 4 * PAGE - 1])
def test_the_signal_carries_the_address_that_was_touched(
    fs: Mount, file: VFile, offset: int
) -> None:
    file.purge(*pages(2, 2))
    actor = fs.actor(file).map("shared")
    assert actor.load(offset) == sigbus(offset)
    assert actor.store(offset, "z") == sigbus(offset)


@pytest.mark.parametrize("offset", [2 * PAGE - 1, 4 * PAGE])
def test_the_last_byte_before_and_the_first_after_are_fine(
    fs: Mount, file: VFile, offset: int
) -> None:
    file.purge(*pages(2, 2))
    actor = fs.actor(file).map("shared")
    assert actor.load(offset) == INTACT[offset // PAGE]


def test_pages_already_in_the_page_table_are_taken_out(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file).map("shared")
    assert actor.loads() == INTACT
    assert actor.populate(0, COUNT, "w") == "ok"
    file.purge(*pages(2, 2))
    assert actor.loads() == HURT
    assert actor.loads() == HURT, "the failure is not cached as a page"


def test_every_process_that_maps_the_page_sees_it(fs: Mount, file: VFile) -> None:
    first, second = fs.actor(file).map("shared"), fs.actor(file, "r").map("shared", "r")
    assert first.loads() == second.loads() == INTACT
    file.purge(*pages(2, 2))
    assert first.loads() == second.loads() == HURT


def test_a_mapper_that_comes_later_sees_it(fs: Mount, file: VFile) -> None:
    file.purge(*pages(2, 2))
    file.close()
    late = fs.actor(file, "r").map("shared", "r")
    assert late.loads() == HURT


def test_a_mapping_of_a_few_pages_counts_from_its_own_offset(fs: Mount, file: VFile) -> None:
    file.purge(*pages(3))
    actor = fs.actor(file).map("shared", "rw", 3, 2)
    assert actor.load(3 * PAGE + 7) == sigbus(3 * PAGE + 7)
    assert actor.load(4 * PAGE) == "e"


def test_locked_pages_go_too(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file).map("shared")
    actor.must("mlock")
    file.purge(*pages(2, 2))
    assert actor.loads() == HURT


def test_a_forked_child_sees_what_its_parent_sees(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file).map("shared")
    assert actor.loads() == INTACT
    actor.fork()
    file.purge(*pages(2, 2))
    assert actor.loads() == HURT, "the child, forked before the purge"
    assert actor.stores("z", [2, 3]) == "XX"
    actor.leave_child()
    assert actor.loads() == HURT, "the parent"
    actor.fork()
    assert actor.loads() == HURT, "a child forked after the purge"
    actor.leave_child()


def test_a_system_call_that_reads_the_page_fails_with_efault(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file).map("shared")
    file.purge(*pages(2, 2))
    assert [actor.pipe(page) for page in range(5)] == ["4096", "4096", "EFAULT", "EFAULT", "4096"]


def test_populating_fails_over_a_purged_page_and_only_there(fs: Mount, file: VFile) -> None:
    file.purge(*pages(2, 2))
    actor = fs.actor(file).map("shared")
    assert actor.populate(0, 2) == "ok"
    assert actor.populate(4, 4) == "ok"
    assert actor.populate(0, COUNT) == "EFAULT"
    assert actor.populate(3, 1) == "EFAULT"
    assert actor.populate(2, 1, "w") == "EFAULT"


def test_after_unmarking_the_same_mapping_works_again_with_zeros(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file).map("shared")
    file.purge(*pages(2, 2))
    assert actor.loads() == HURT
    assert file.unmark(*pages(2)) == PAGE
    assert actor.loads() == "ab0Xefgh"
    assert file.unmark() == PAGE
    assert actor.loads() == "ab00efgh"
    assert actor.stores("z", [2, 3]) == "ww"
    actor.must("msync")
    assert file.reads() == "abzzefgh"


ORDERS = {
    "ascending": list(range(WINDOW)),
    "descending": list(range(WINDOW))[::-1],
    "random": random.Random(2).sample(range(WINDOW), WINDOW),
    "far-first": [63, 0, 31, 32, *range(1, 31), *range(33, 63)],
}
LOSSES = {
    "one-in-the-middle": [31],
    "first-and-last": [0, 63],
    "alternate": list(range(0, WINDOW, 2)),
    "scattered": [5, 6, 17, 30, 31, 32, 33, 47],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("lost", LOSSES.values(), ids=LOSSES)
def test_neighbours_are_fine_in_every_order_of_access(
    fs: Mount, order: list[int], lost: list[int]
) -> None:
    """Readahead fetches many pages at once; one purged page among them must not hurt the rest."""
    file = fs.file("window", WINDOW)
    for page in lost:
        file.mark(*pages(page))
    file.cool()
    assert file.purge() is not None
    expected = "".join("X" if i in lost else c for i, c in enumerate(letters(WINDOW)))
    assert fs.actor(file).map("shared").loads(order) == expected
    file.cool()
    assert fs.actor(file).map("private").loads(order) == expected
    file.cool()
    assert file.reads() == expected, "and pread agrees"
