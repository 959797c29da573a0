"""read(2) and write(2) over purged pages, with the default access (an error) and with zeros."""

from __future__ import annotations

import os

import pytest

from tests.support.actor import BOTH
from tests.support.errnos import errno_of
from tests.support.files import VFile, content
from tests.support.fvrange import PAGE, SIGBUS, ZERO, pages
from tests.support.mount import Mount, MountFactory


@pytest.fixture
def file(fs: Mount) -> VFile:
    """Eight volatile pages; 2 and 3 are purged."""
    file = fs.file("file", 8)
    file.mark()
    file.purge(*pages(2, 2))
    return file


def test_pread_of_a_purged_page_fails_with_enodata(file: VFile) -> None:
    assert file.reads() == "abXXefgh"
    assert errno_of(os.pread, file.fd, 1, 2 * PAGE) == "ENODATA"
    assert errno_of(os.pread, file.fd, PAGE, 4 * PAGE - 1) == "ENODATA"


@pytest.mark.parametrize("warm", [True, False], ids=["page-cached", "not-cached"])
def test_pread_is_short_when_earlier_pages_are_fine(file: VFile, warm: bool) -> None:
    if warm:
        assert file.reads() == "abXXefgh"
    else:
        file.cool()
    assert os.pread(file.fd, 8 * PAGE, 0) == content(2)
    assert os.pread(file.fd, 8 * PAGE, 2 * PAGE - 10) == b"b" * 10
    assert os.pread(file.fd, 8 * PAGE, 4 * PAGE) == content(4, first=4)


def test_a_whole_page_written_is_intact_again_and_still_volatile(file: VFile) -> None:
    assert os.pwrite(file.fd, b"z" * PAGE, 2 * PAGE) == PAGE
    assert file.reads() == "abzXefgh"
    assert file.purged_pages() == [3]
    assert sum(run.length for run in file.ranges()) == 8 * PAGE
    assert file.unmark(*pages(2)) == 0
    assert file.unmark() == PAGE
    assert file.reads() == "abz0efgh"


def test_a_page_written_anew_can_be_purged_anew(file: VFile) -> None:
    os.pwrite(file.fd, b"z" * PAGE, 2 * PAGE)
    file.purge(*pages(2))
    assert file.reads() == "abXXefgh"
    assert file.unmark() == 2 * PAGE


def test_one_write_over_many_purged_pages_stores_them_all(file: VFile) -> None:
    assert os.pwrite(file.fd, b"z" * (4 * PAGE), PAGE) == 4 * PAGE
    assert file.reads() == "azzzzfgh"
    assert file.unmark() == 0


def test_a_mapping_sees_the_page_that_was_written_anew(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file).map("shared")
    assert actor.loads() == "abXXefgh"
    os.pwrite(file.fd, b"z" * PAGE, 2 * PAGE)
    assert actor.loads() == "abzXefgh"


@pytest.mark.parametrize(
    ("start", "length"),
    [
        pytest.param(2 * PAGE, 1, id="first-byte"),
        pytest.param(3 * PAGE + 100, 5, id="inside"),
        pytest.param(4 * PAGE - 1, 1, id="last-byte"),
        pytest.param(2 * PAGE, PAGE - 1, id="all-but-one-byte"),
        pytest.param(4 * PAGE - 5, 10, id="from-purged-into-intact"),
    ],
)
def test_a_write_of_a_part_fails_with_enodata(file: VFile, start: int, length: int) -> None:
    assert errno_of(os.pwrite, file.fd, b"z" * length, start) == "ENODATA"
    assert file.reads() == "abXXefgh"
    assert file.unmark() == 2 * PAGE


def test_a_write_is_short_when_earlier_pages_are_fine(file: VFile) -> None:
    assert os.pwrite(file.fd, b"z" * (PAGE + 10), PAGE) == PAGE
    assert file.reads() == "azXXefgh"
    assert os.pwrite(file.fd, b"y" * (2 * PAGE + 10), 0) == 2 * PAGE
    assert file.reads() == "yyXXefgh"
    assert file.unmark() == 2 * PAGE


def test_unpurged_volatile_pages_are_written_in_part(file: VFile) -> None:
    assert os.pwrite(file.fd, b"z" * 10, 5 * PAGE) == 10
    assert os.pread(file.fd, 12, 5 * PAGE) == b"z" * 10 + b"ff"
    assert file.unmark(*pages(4, 4)) == 0


def test_a_new_last_page_stays_out_of_the_range(file: VFile) -> None:
    os.pwrite(file.fd, b"i" * PAGE, 8 * PAGE)
    file.purge()
    assert file.reads() == "XXXXXXXXi"


def zero_file(mounted: Mount, behavior: int) -> VFile:
    """Eight volatile pages; 2 and 3 are purged and read as zeros."""
    file = mounted.file("zero", 8)
    file.mark(behavior=behavior)
    file.purge(*pages(2, 2))
    return file


def test_purged_pages_read_as_zeros_where_the_mark_says_so(zero_fs: Mount) -> None:
    file = zero_file(zero_fs, ZERO)
    assert file.reads() == "ab00efgh"
    assert os.pread(file.fd, 8 * PAGE, 0) == content(2) + bytes(2 * PAGE) + content(4, first=4)
    for how in BOTH:
        assert zero_fs.actor(file).map(how).loads() == "ab00efgh"
    assert file.purged_pages() == [2, 3], "zeros are not a report: the pages are still purged"
    assert file.unmark() == 2 * PAGE


def test_the_option_access_zero_is_the_default_of_marks(mount: MountFactory) -> None:
    mounted = mount(access="zero", o="passthrough=off")
    file = zero_file(mounted, 0)
    assert file.reads() == "ab00efgh"
    assert mounted.actor(file).map("shared").loads() == "ab00efgh"
    assert file.unmark() == 2 * PAGE
    file.mark(behavior=SIGBUS)
    file.purge(*pages(5))
    assert file.reads() == "ab00eXgh", "and the flag overrides it"


def test_both_kinds_of_access_live_in_one_file(fs: Mount) -> None:
    file = fs.file("both", 4)
    file.mark(*pages(0, 2), behavior=ZERO)
    file.mark(*pages(2, 2), behavior=SIGBUS)
    file.purge()
    assert file.reads() == "00XX"
    assert fs.actor(file).map("shared").loads() == "00XX"


def test_a_zero_page_written_in_part_is_still_purged(zero_fs: Mount) -> None:
    file = zero_file(zero_fs, ZERO)
    assert os.pwrite(file.fd, b"z" * 10, 2 * PAGE) == 10
    assert os.pread(file.fd, 12, 2 * PAGE) == b"z" * 10 + b"\0\0"
    os.fsync(file.fd)
    assert file.purged_pages() == [2, 3]
    assert file.unmark() == 2 * PAGE


def test_a_zero_page_written_whole_is_intact(zero_fs: Mount) -> None:
    file = zero_file(zero_fs, ZERO)
    os.pwrite(file.fd, b"z" * PAGE, 2 * PAGE)
    if zero_fs.passthrough:
        assert file.purged_pages() == [2, 3], "the daemon does not see it: a false alarm"
        assert file.unmark() == 2 * PAGE
        assert file.reads() == "ab00efgh"
    else:
        assert file.unmark() == PAGE
        assert file.reads() == "abz0efgh"


@pytest.mark.parametrize("flushed", [True, False], ids=["flushed", "dirty-in-the-kernel"])
def test_a_zero_page_stored_through_a_mapping_is_still_purged(
    zero_fs: Mount, flushed: bool
) -> None:
    """The kernel writes the whole page back, but the program stored one byte of it."""
    file = zero_file(zero_fs, ZERO)
    actor = zero_fs.actor(file).map("shared")
    assert actor.store(2 * PAGE, "z") == "ok"
    assert actor.load(2 * PAGE) == "z"
    if flushed:
        actor.must("msync")
    assert file.unmark() == 2 * PAGE
    assert actor.loads() == file.reads() == "ab00efgh"


def test_unmarking_zero_pages_gives_clean_zeros(zero_fs: Mount) -> None:
    """NONVOLATILE makes a purged page zero-filled, whatever was stored in part meanwhile."""
    file = zero_file(zero_fs, ZERO)
    os.pwrite(file.fd, b"z" * 10, 2 * PAGE)
    assert file.unmark() == 2 * PAGE
    assert file.reads() == "ab00efgh"
