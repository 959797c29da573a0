"""FVRANGE, NEXT and PURGE as system calls: every errno of the contract, rounding and clipping."""

from __future__ import annotations

import fcntl
import os

import pytest

from tests.support import fvrange
from tests.support.errnos import errno_of
from tests.support.files import VFile
from tests.support.fvrange import (
    IOC_FVRANGE,
    IOC_NEXT,
    IOC_PURGE,
    NONVOLATILE,
    PAGE,
    PARTIAL,
    SIGBUS,
    VOLATILE,
    ZERO,
    Range,
    iowr,
    pages,
    priority,
)
from tests.support.mount import Mount

U64 = 1 << 64


@pytest.fixture
def file(fs: Mount) -> VFile:
    """Eight pages; 2 to 5 are volatile, 3 is purged."""
    file = fs.file("file", 8)
    file.mark(*pages(2, 4))
    file.purge(*pages(3))
    return file


AS_MADE = [
    Range(*pages(2), 0, False),
    Range(*pages(3), 0, True),
    Range(*pages(4, 2), 0, False),
]


@pytest.mark.parametrize(
    ("command", "mode", "behavior"),
    [
        (IOC_FVRANGE, VOLATILE, 0),
        (IOC_FVRANGE, NONVOLATILE, 0),
        (IOC_PURGE, 0, 0),
    ],
)
def test_a_file_not_open_for_writing_gives_ebadf(
    fs: Mount, file: VFile, command: int, mode: int, behavior: int
) -> None:
    reader = fs.open("file", os.O_RDONLY)
    assert errno_of(fvrange.call, reader.fd, command, 0, 0, mode, behavior) == "EBADF"
    assert file.ranges() == AS_MADE


def test_next_needs_no_write_access(fs: Mount, file: VFile) -> None:
    assert fs.open("file", os.O_RDONLY).ranges() == AS_MADE


def test_a_file_open_for_writing_only_will_do(fs: Mount, file: VFile) -> None:
    writer = fs.open("file", os.O_WRONLY)
    assert writer.unmark() == PAGE
    writer.mark(*pages(0))
    writer.purge()
    assert file.reads() == "Xbc0efgh"


@pytest.mark.parametrize(
    ("command", "start", "length", "mode", "behavior"),
    [
        pytest.param(IOC_FVRANGE, 0, 0, 2, 0, id="unknown-mode"),
        pytest.param(IOC_FVRANGE, 0, 0, 0xFFFFFFFF, 0, id="mode-of-all-ones"),
        pytest.param(IOC_FVRANGE, 0, 0, VOLATILE, 8, id="unknown-behavior-bit-3"),
        pytest.param(IOC_FVRANGE, 0, 0, VOLATILE, 0x80, id="unknown-behavior-bit-7"),
        pytest.param(IOC_FVRANGE, 0, 0, VOLATILE, priority(8), id="priority-8"),
        pytest.param(IOC_FVRANGE, 0, 0, VOLATILE, 1 << 31, id="unknown-behavior-bit-31"),
        pytest.param(IOC_FVRANGE, 0, 0, VOLATILE, ZERO | SIGBUS, id="zero-and-sigbus"),
        pytest.param(IOC_FVRANGE, 0, 0, NONVOLATILE, PARTIAL, id="unmark-with-behavior"),
        pytest.param(IOC_FVRANGE, 0, 0, NONVOLATILE, priority(1), id="unmark-with-priority"),
        pytest.param(IOC_FVRANGE, U64 - 1, 2, VOLATILE, 0, id="overflow-of-a-mark"),
        pytest.param(IOC_FVRANGE, 2, U64 - 1, NONVOLATILE, 0, id="overflow-of-an-unmark"),
        pytest.param(IOC_PURGE, PAGE, U64 - PAGE, 0, 0, id="overflow-of-a-purge"),
        pytest.param(IOC_PURGE, 0, 0, VOLATILE, 0, id="purge-with-mode"),
        pytest.param(IOC_PURGE, 0, 0, 0, PARTIAL, id="purge-with-behavior"),
    ],
)
def test_what_makes_no_sense_gives_einval_and_changes_nothing(
    file: VFile, command: int, start: int, length: int, mode: int, behavior: int
) -> None:
    assert errno_of(fvrange.call, file.fd, command, start, length, mode, behavior) == "EINVAL"
    assert file.ranges() == AS_MADE
    assert file.reads() == "abcXefgh"


@pytest.mark.parametrize("command", [IOC_FVRANGE, IOC_NEXT, IOC_PURGE])
def test_a_directory_gives_enotty(fs: Mount, command: int) -> None:
    directory = os.open(fs.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert errno_of(fcntl.ioctl, directory, command, bytearray(32), True) == "ENOTTY"
    finally:
        os.close(directory)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(iowr(0, 32), id="number-0"),
        pytest.param(iowr(99, 32), id="number-99"),
        pytest.param(iowr(1, 24), id="fvrange-too-small"),
        pytest.param(iowr(1, 40), id="fvrange-too-large"),
        pytest.param(iowr(3, 8), id="next-too-small"),
        pytest.param(iowr(4, 64), id="purge-too-large"),
        pytest.param(iowr(1, 32, kind=0xF6), id="another-type"),
        pytest.param(IOC_FVRANGE & ~(3 << 30), id="fvrange-without-direction"),
        pytest.param(IOC_FVRANGE & ~(1 << 30), id="fvrange-read-only"),
        pytest.param(0x5401, id="TCGETS"),
    ],
)
def test_an_unknown_command_or_a_wrong_size_gives_enotty(file: VFile, command: int) -> None:
    assert errno_of(fcntl.ioctl, file.fd, command, bytearray(128), True) == "ENOTTY"
    assert file.ranges() == AS_MADE


@pytest.mark.parametrize("start", [6 * PAGE, 8 * PAGE, U64 - 1])
def test_next_past_the_last_range_gives_enxio(file: VFile, start: int) -> None:
    buffer = bytearray(fvrange.INFO.pack(start, 0, 0, 0, 0))
    assert errno_of(fcntl.ioctl, file.fd, IOC_NEXT, buffer, True) == "ENXIO"


def test_next_tells_behavior_and_splits_runs_by_state(file: VFile) -> None:
    file.mark(*pages(7), behavior=PARTIAL | ZERO | priority(5))
    assert file.ranges() == [*AS_MADE, Range(*pages(7), PARTIAL | ZERO | priority(5), False)]


def test_ranges_are_never_merged(fs: Mount) -> None:
    file = fs.file("marked-in-steps", 4)
    file.mark(*pages(1))
    file.mark(*pages(2))
    file.mark(*pages(0, 4))
    assert file.ranges() == [Range(*pages(page), 0, False) for page in range(4)]


@pytest.mark.parametrize(
    ("start", "length", "marked"),
    [
        pytest.param(0, 0, "vvv", id="zero-length-reaches-the-end"),
        pytest.param(PAGE, 0, ".vv", id="from-the-middle-to-the-end"),
        pytest.param(0, PAGE, "v..", id="one-page"),
        pytest.param(0, PAGE - 1, "...", id="less-than-a-page"),
        pytest.param(1, PAGE, "...", id="no-page-is-wholly-inside"),
        pytest.param(1, 2 * PAGE, ".v.", id="inward"),
        pytest.param(PAGE, PAGE + 99, ".v.", id="not-to-the-end-of-the-last-page"),
        pytest.param(PAGE, PAGE + 100, ".vv", id="the-last-page-counts-as-whole"),
        pytest.param(2 * PAGE + 1, 0, "...", id="the-last-page-begun-too-late"),
        pytest.param(PAGE, 1 << 40, ".vv", id="clipped-at-the-end"),
        pytest.param(2 * PAGE + 100, 50, "...", id="begins-at-the-end"),
        pytest.param(1 << 50, 0, "...", id="begins-far-beyond"),
        pytest.param(0, U64 - 1, "vvv", id="the-longest"),
    ],
)
def test_marking_and_purging_take_the_pages_wholly_inside(
    fs: Mount, start: int, length: int, marked: str
) -> None:
    """A file of two pages and 100 bytes."""
    file = fs.open("file")
    os.pwrite(file.fd, b"x" * (2 * PAGE + 100), 0)
    assert file.mark(start, length) == 0
    volatile = {page for run in file.ranges() for page in range(run.start // PAGE, 3)
                if page * PAGE < run.start + run.length}  # fmt: skip
    assert "".join("v" if page in volatile else "." for page in range(3)) == marked
    file.mark()
    file.purge(start, length)
    assert file.reads() == marked.replace("v", "X").replace(".", "x")


def test_the_partial_last_page_is_reported_by_its_bytes(fs: Mount) -> None:
    file = fs.open("file")
    os.pwrite(file.fd, b"x" * (2 * PAGE + 100), 0)
    file.mark()
    file.purge()
    assert file.unmark() == 2 * PAGE + 100


@pytest.mark.parametrize(
    ("start", "length", "left"),
    [
        pytest.param(2 * PAGE + 5, 1, "XX.X", id="one-byte-in-the-middle"),
        pytest.param(2 * PAGE - 1, 2, "X..X", id="two-bytes-over-a-boundary"),
        pytest.param(PAGE, PAGE, "X.XX", id="one-page"),
        pytest.param(4 * PAGE - 1, 0, "XXX.", id="the-last-byte"),
    ],
)
def test_unmarking_takes_every_page_it_meets(fs: Mount, start: int, length: int, left: str) -> None:
    file = fs.file("file", 4)
    file.mark()
    file.purge()
    assert file.unmark(start, length) > 0
    assert file.purged_pages() == [page for page in range(4) if left[page] == "X"]
    assert file.reads() == left.replace(".", "0")


def test_unmarking_counts_the_bytes_of_exactly_its_range(file: VFile) -> None:
    assert file.unmark(3 * PAGE + 100, 50) == 50


@pytest.mark.parametrize(("start", "length"), [(8 * PAGE, 0), (8 * PAGE, PAGE), (1 << 60, 5)])
def test_beyond_the_end_nothing_is_left_and_that_is_success(
    file: VFile, start: int, length: int
) -> None:
    assert file.mark(start, length) == 0
    assert file.unmark(start, length) == 0
    assert file.purge(start, length) == 0
    assert file.ranges() == AS_MADE


def test_an_empty_file_takes_every_call(fs: Mount) -> None:
    empty = fs.open("empty")
    assert (empty.mark(), empty.purge(), empty.unmark(), empty.ranges()) == (0, 0, 0, [])
