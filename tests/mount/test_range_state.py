"""State belongs to the inode: how long it lives, who sees it, and what marking again changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.errnos import errno_of
from tests.support.files import VFile
from tests.support.fvrange import PAGE, PARTIAL, SIGBUS, ZERO, Range, pages, priority
from tests.support.mount import ROOT, Mount
from tests.support.waiting import PATIENCE

BEHAVIOR = PARTIAL | SIGBUS | priority(3)
STATE = [Range(*pages(1), BEHAVIOR, False), Range(*pages(2), BEHAVIOR, True)]


@pytest.fixture
def file(fs: Mount) -> VFile:
    """Four pages; 1 is volatile, 2 is volatile and purged."""
    file = fs.file("file", 4)
    file.mark(*pages(1, 2), behavior=BEHAVIOR)
    file.purge(*pages(2))
    return file


def test_state_outlives_close(fs: Mount, file: VFile) -> None:
    file.close()
    reopened = fs.open("file")
    assert reopened.ranges() == STATE
    assert reopened.reads() == "abXd"


def test_state_outlives_one_close_of_two_opens(fs: Mount, file: VFile) -> None:
    other = fs.open("file")
    file.close()
    assert other.ranges() == STATE
    assert other.unmark() == PAGE


def test_state_outlives_the_process_that_made_it(fs: Mount) -> None:
    fs.file("file", 4).close()
    story = (
        "import sys; from tests.support import fvrange\n"
        f"file = open(sys.argv[1], 'r+b'); fvrange.mark(file.fileno(), {PAGE}, {2 * PAGE}, "
        f"{BEHAVIOR}); fvrange.purge(file.fileno(), {2 * PAGE}, {PAGE})"
    )
    command = [sys.executable, "-c", story, str(fs.path / "file")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=PATIENCE)
    assert fs.open("file").ranges() == STATE


def test_every_process_sees_it(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file, "r").map("shared", "r")
    assert actor.loads() == "abXd"
    output = subprocess.run(
        ["getfattr", "--only-values", "-n", "user.fvrange.purged", file.path],
        check=True, capture_output=True, timeout=PATIENCE,
    ).stdout  # fmt: skip
    assert output == b"8192+4096"


def test_state_outlives_rename(fs: Mount, file: VFile) -> None:
    (fs.path / "sub").mkdir()
    file.path.rename(fs.path / "sub" / "renamed")
    assert file.ranges() == STATE
    assert fs.open("sub/renamed").ranges() == STATE


def test_state_is_one_for_all_links(fs: Mount, file: VFile) -> None:
    os.link(file.path, fs.path / "link")
    linked = fs.open("link")
    assert linked.ranges() == STATE
    linked.mark(*pages(3))
    file.path.unlink()
    assert linked.ranges() == [*STATE, Range(*pages(3), 0, False)]


def test_state_outlives_unlink_while_the_file_is_open(file: VFile) -> None:
    file.path.unlink()
    assert file.ranges() == STATE
    assert file.unmark() == PAGE


def test_a_file_renamed_over_takes_its_state_along(fs: Mount, file: VFile) -> None:
    fs.file("new", 4).path.rename(file.path)
    assert fs.open("file").ranges() == []
    assert fs.open("file").reads() == "abcd"


def test_marking_again_changes_neither_behavior_nor_purged_state(file: VFile) -> None:
    file.mark(*pages(1, 2), behavior=ZERO | priority(7))
    assert file.ranges() == STATE
    assert file.reads() == "abXd"


def test_marking_more_gives_the_new_behavior_to_new_pages_only(file: VFile) -> None:
    file.mark(behavior=ZERO)
    assert file.ranges() == [
        Range(*pages(0), ZERO, False),
        *STATE,
        Range(*pages(3), ZERO, False),
    ]


def test_unmarking_the_middle_splits_a_range(file: VFile) -> None:
    file.mark(behavior=ZERO)
    assert file.unmark(*pages(1)) == 0
    assert file.ranges() == [Range(*pages(0), ZERO, False), STATE[1], Range(*pages(3), ZERO, False)]


def test_unmarking_twice_reports_once(file: VFile) -> None:
    assert file.unmark() == PAGE
    assert file.unmark() == 0
    assert file.ranges() == []
    assert file.reads() == "ab0d"


def test_unmarked_pages_are_not_purged(file: VFile) -> None:
    file.unmark()
    file.purge()
    assert file.reads() == "ab0d"


def test_purging_twice_changes_nothing(file: VFile) -> None:
    file.purge(*pages(2))
    assert file.ranges() == STATE


def test_a_copy_within_the_mount_copies_data_and_not_state(fs: Mount) -> None:
    source, target = fs.file("source", 4), fs.open("target")
    source.mark()
    assert os.copy_file_range(source.fd, target.fd, 4 * PAGE, 0, 0) == 4 * PAGE
    assert target.reads() == "abcd"
    assert target.ranges() == []
    assert len(source.ranges()) == 1


def test_a_copy_reads_like_anyone_and_stops_at_a_purged_page(fs: Mount, file: VFile) -> None:
    target = fs.open("target")
    copied = os.copy_file_range(file.fd, target.fd, 4 * PAGE, 0, 0)
    assert 0 < copied <= 2 * PAGE
    assert target.reads() == "ab"[: copied // PAGE]
    assert errno_of(os.copy_file_range, file.fd, target.fd, PAGE, 2 * PAGE, 0) == "ENODATA"


def test_a_copy_over_a_purged_page_makes_it_intact(fs: Mount, file: VFile) -> None:
    source = fs.file("source", 4)
    assert os.copy_file_range(source.fd, file.fd, PAGE, 0, 2 * PAGE) == PAGE
    assert file.reads() == "abad"
    assert file.unmark() == 0


def test_cp_a_copies_no_state(fs: Mount) -> None:
    file = fs.file("marked", 4)
    file.mark()
    subprocess.run(["cp", "-a", file.path, fs.path / "copy"], check=True, timeout=PATIENCE)
    copy = fs.open("copy")
    assert copy.reads() == "abcd"
    assert copy.ranges() == []
    shutil.copy2(file.path, fs.path / "copy2")
    assert fs.open("copy2").ranges() == []
