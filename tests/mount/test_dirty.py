"""Pages that are dirty in the kernel when they are purged; holes, which have nothing to lose."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.support.actor import Actor
from tests.support.files import VFile
from tests.support.fvrange import PAGE, ZERO, pages
from tests.support.mount import Mount


@pytest.fixture
def sparse(fs: Mount) -> VFile:
    """Eight pages of hole, all volatile."""
    file = fs.open("sparse")
    os.ftruncate(file.fd, 8 * PAGE)
    file.mark()
    return file


@pytest.fixture
def dirty(fs: Mount, sparse: VFile) -> Actor:
    """An actor that has stored to pages 2, 3 and 5; nothing has asked for their write-back."""
    actor = fs.actor(sparse).map("shared")
    assert actor.stores("z", [2, 3, 5]) == "www"
    return actor


def test_holes_are_neither_purged_nor_reported(fs: Mount, sparse: VFile) -> None:
    actor = fs.actor(sparse).map("shared")
    assert actor.loads() == "00000000", "a load does not make a page"
    sparse.purge()
    assert sparse.purged_pages() == []
    assert sparse.reads() == actor.loads() == "00000000"
    assert sparse.unmark() == 0


def test_a_hole_beside_data_stays_a_zero_page(sparse: VFile) -> None:
    os.pwrite(sparse.fd, b"c" * PAGE, 2 * PAGE)
    sparse.purge()
    assert sparse.reads() == "00X00000"
    assert sparse.unmark() == PAGE


def test_a_page_dirty_in_the_kernel_only_is_purged_and_reported(
    sparse: VFile, dirty: Actor
) -> None:
    sparse.purge()
    assert dirty.loads() == "00XX0X00"
    assert sparse.purged_pages() == [2, 3, 5]
    assert sparse.unmark() == 3 * PAGE
    assert dirty.loads() == "00000000"


def test_a_dirty_page_outside_the_purge_survives(sparse: VFile, dirty: Actor) -> None:
    sparse.purge(*pages(0, 5))
    assert dirty.loads() == "00XX0z00"
    assert sparse.unmark() == 2 * PAGE
    assert sparse.reads() == "00000z00"


@pytest.mark.parametrize(
    "flush", [lambda a: a.must("msync"), lambda a: a.must("fsync")], ids=["msync", "fsync"]
)
def test_flushing_after_the_purge_succeeds_and_the_page_stays_purged(
    sparse: VFile, dirty: Actor, flush: Callable[[Actor], None]
) -> None:
    sparse.purge()
    flush(dirty)
    assert dirty.loads() == "00XX0X00"
    assert sparse.unmark() == 3 * PAGE


def test_a_dirty_intact_page_is_found_intact(sparse: VFile, dirty: Actor) -> None:
    """NONVOLATILE without a purge: what is dirty in the kernel is neither lost nor reported."""
    assert sparse.unmark() == 0
    assert dirty.loads() == sparse.reads() == "00zz0z00"


def test_dirty_over_data_that_the_daemon_holds(fs: Mount) -> None:
    file = fs.file("file", 4)
    file.mark()
    actor = fs.actor(file).map("shared")
    actor.must("msync")
    assert actor.stores("z", [1, 2]) == "ww"
    file.purge(*pages(1))
    actor.must("fsync")
    assert actor.loads() == "aXzd"
    assert file.unmark() == PAGE
    assert file.reads() == "a0zd"


def test_a_dirty_zero_page_is_purged_and_reads_zeros(zero_fs: Mount) -> None:
    file = zero_fs.open("zero")
    os.ftruncate(file.fd, 4 * PAGE)
    file.mark(behavior=ZERO)
    actor = zero_fs.actor(file).map("shared")
    assert actor.stores("z", [1]) == "w"
    file.purge()
    assert actor.loads() == file.reads() == "0000"
    assert file.unmark() == PAGE


def test_dirty_pages_without_a_mark_survive_everything(fs: Mount) -> None:
    file = fs.file("file", 6)
    file.mark(*pages(0, 2))
    actor = fs.actor(file).map("shared")
    assert actor.stores("z") == "wwwwww"
    file.purge()
    assert actor.loads() == "XXzzzz"
    file.unmark()
    assert file.reads() == "00zzzz"


def test_stores_purges_and_unmarks_in_turn_on_one_mapping(fs: Mount, sparse: VFile) -> None:
    """The same page goes through dirty, purged, unmarked, dirty, marked and purged again."""
    actor = fs.actor(sparse).map("shared")
    for character in "xyz":
        assert actor.stores(character, [4]) == "w"
        sparse.mark()
        sparse.purge(*pages(4))
        assert actor.loads() == "0000X000"
        assert sparse.unmark(*pages(4)) == PAGE
        assert actor.loads() == "00000000"
    assert actor.stores("w", [4]) == "w"
    assert sparse.unmark() == 0
    assert sparse.reads() == "0000w000"
