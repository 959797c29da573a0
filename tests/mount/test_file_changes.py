"""What truncate, fallocate and lseek do to volatile and purged pages."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

from tests.support.files import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    VFile,
    fallocate,
)
from tests.support.fvrange import PAGE, Range, pages
from tests.support.mount import Mount

PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


@pytest.fixture
def file(fs: Mount) -> VFile:
    """Eight volatile pages; 2 and 3 are purged."""
    file = fs.file("file", 8)
    file.mark()
    file.purge(*pages(2, 2))
    return file


def volatile_bytes(file: VFile) -> int:
    return sum(run.length for run in file.ranges())


def test_truncating_below_a_range_drops_it(file: VFile) -> None:
    os.ftruncate(file.fd, 0)
    assert file.ranges() == []
    os.ftruncate(file.fd, 8 * PAGE)
    assert file.ranges() == []
    assert file.reads() == "00000000"
    assert file.unmark() == 0


def test_truncating_into_a_range_drops_what_is_cut_off(file: VFile) -> None:
    os.ftruncate(file.fd, 3 * PAGE)
    assert file.ranges() == [Range(*pages(0, 2), 0, False), Range(*pages(2), 0, True)]
    os.ftruncate(file.fd, 5 * PAGE)
    assert volatile_bytes(file) == 3 * PAGE
    assert file.reads() == "abX00"
    assert file.unmark() == PAGE


def test_a_purged_page_cut_in_half_is_not_called_intact(file: VFile) -> None:
    os.ftruncate(file.fd, 2 * PAGE + 100)
    assert file.reads() == "abX"
    os.ftruncate(file.fd, 3 * PAGE)
    assert file.reads() == "abX"
    assert file.unmark() == PAGE


def test_a_mapping_sees_the_pages_that_were_cut_off(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file).map("shared")
    os.ftruncate(file.fd, 3 * PAGE)
    os.ftruncate(file.fd, 8 * PAGE)
    assert actor.loads() == "abX00000"


def test_opening_with_o_trunc_drops_everything(fs: Mount, file: VFile) -> None:
    fs.open("file", os.O_RDWR | os.O_TRUNC)
    assert file.ranges() == []


def test_growing_adds_nothing(file: VFile) -> None:
    os.ftruncate(file.fd, 12 * PAGE)
    os.pwrite(file.fd, b"z" * PAGE, 12 * PAGE)
    fallocate(file.fd, 0, 13 * PAGE, PAGE)
    assert volatile_bytes(file) == 8 * PAGE
    file.purge()
    assert file.reads() == "XXXXXXXX0000z0"


def test_the_partial_last_page_stays_volatile_when_the_file_grows(fs: Mount) -> None:
    file = fs.open("partial")
    os.pwrite(file.fd, b"x" * (PAGE + 100), 0)
    file.mark()
    os.ftruncate(file.fd, 3 * PAGE)
    file.purge()
    assert file.reads() == "XX0"


@pytest.mark.parametrize("mode", [PUNCH, FALLOC_FL_ZERO_RANGE], ids=["punch-hole", "zero-range"])
def test_punched_and_zeroed_pages_are_intact_and_still_volatile(file: VFile, mode: int) -> None:
    fallocate(file.fd, mode, *pages(3, 2))
    assert file.reads() == "abX00fgh"
    assert file.purged_pages() == [2]
    assert volatile_bytes(file) == 8 * PAGE
    assert file.unmark() == PAGE


@pytest.mark.parametrize("mode", [PUNCH, FALLOC_FL_ZERO_RANGE], ids=["punch-hole", "zero-range"])
def test_punching_does_not_mark(fs: Mount, mode: int) -> None:
    file = fs.file("unmarked", 4)
    fallocate(file.fd, mode, *pages(1))
    assert file.ranges() == []
    file.purge()
    assert file.reads() == "a0cd"


@pytest.mark.parametrize("mode", [PUNCH, FALLOC_FL_ZERO_RANGE], ids=["punch-hole", "zero-range"])
def test_a_mapping_sees_punched_pages(fs: Mount, file: VFile, mode: int) -> None:
    actor = fs.actor(file).map("shared")
    assert actor.loads() == "abXXefgh"
    fallocate(file.fd, mode, *pages(3, 2))
    assert actor.loads() == "abX00fgh"


def test_a_purged_page_punched_in_part_is_not_called_intact(file: VFile) -> None:
    with contextlib.suppress(OSError):  # like a partial write, or a success that mends nothing
        fallocate(file.fd, PUNCH, 2 * PAGE, 100)
    assert file.reads() == "abXXefgh"
    assert file.unmark() == 2 * PAGE


def test_allocating_does_not_mend_purged_pages(file: VFile) -> None:
    fallocate(file.fd, 0, 0, 8 * PAGE)
    assert file.reads() == "abXXefgh"
    assert file.unmark() == 2 * PAGE


def extents(file: VFile) -> str:
    """One letter for each page by SEEK_DATA and SEEK_HOLE: D data, . hole."""
    size = os.fstat(file.fd).st_size
    picture = ["."] * (size // PAGE)
    at = 0
    while at < size:
        try:
            start = os.lseek(file.fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        at = os.lseek(file.fd, start, os.SEEK_HOLE)
        picture[start // PAGE : at // PAGE] = "D" * (at // PAGE - start // PAGE)
    return "".join(picture)


def test_seek_shows_purged_pages_as_holes(file: VFile) -> None:
    assert extents(file) == "DD..DDDD"
    file.purge()
    assert extents(file) == "........"


def test_seek_shows_a_rewritten_page_as_data_and_an_unmarked_one_as_a_hole(file: VFile) -> None:
    os.pwrite(file.fd, b"z" * PAGE, 2 * PAGE)
    assert extents(file) == "DDD.DDDD"
    file.unmark()
    assert extents(file) == "DDD.DDDD"


def test_seek_agrees_on_sparse_files(fs: Mount) -> None:
    file = fs.open("sparse")
    os.ftruncate(file.fd, 8 * PAGE)
    for page in (1, 2, 5):
        os.pwrite(file.fd, b"x" * PAGE, page * PAGE)
    assert extents(file) == ".DD..D.."
    file.mark(*pages(2, 4))
    file.purge()
    assert extents(file) == ".D......"


def test_seek_knows_of_pages_that_are_dirty_in_the_kernel_only(fs: Mount) -> None:
    file = fs.open("sparse")
    os.ftruncate(file.fd, 8 * PAGE)
    file.mark()
    assert fs.actor(file).map("shared").stores("z", [1, 5]) == "ww"
    assert extents(file) == ".D...D.."
    file.purge(*pages(1))
    assert extents(file) == ".....D.."


def test_purging_gives_blocks_back(file: VFile) -> None:
    before = os.fstat(file.fd).st_blocks
    assert before == 6 * PAGE // 512
    file.purge()
    assert os.fstat(file.fd).st_blocks == 0
    assert os.fstat(file.fd).st_size == 8 * PAGE


def test_a_sparse_file_of_terabytes_is_marked_and_purged_as_a_whole(fs: Mount) -> None:
    file = fs.open("sparse")
    far = 4 << 40
    os.ftruncate(file.fd, far + PAGE)
    os.pwrite(file.fd, b"x" * PAGE, far)
    os.pwrite(file.fd, b"y" * PAGE, 0)
    file.mark()
    file.purge()
    assert file.ranges()[0] == Range(0, PAGE, 0, True)
    assert file.ranges()[-1] == Range(far, PAGE, 0, True)
    assert os.lseek(file.fd, 0, os.SEEK_HOLE) == 0
    assert file.unmark() == 2 * PAGE
    assert os.fstat(file.fd).st_blocks == 0
