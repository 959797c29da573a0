"""How long fvrange marks last: until NONVOLATILE, or until the last user of the file has left.

A user is an open descriptor or a mapping. The RFC of April 2013 ended marks in f_op->release,
and so with the first of several opens of a file to be closed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.files import VFile
from tests.support.fvrange import PAGE, ZERO, pages
from tests.support.mount import Mount, MountFactory
from tests.support.voter import How, Stage
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def stultz(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Mount]:
    """One mount for the module."""
    work = tmp_path_factory.mktemp("stultz")
    probe, watchdog = request.getfixturevalue("probe"), request.getfixturevalue("watchdog")
    made = Mount(work, watchdog, probe, semantics="stultz")
    yield made
    made.end()


@pytest.fixture
def last(stultz: Mount) -> Iterator[Mount]:
    """A mount with ``--lifetime last-close``."""
    stultz.rearm()
    yield stultz
    stultz.clear()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def volatile(path: Path) -> str:
    """What getfattr says, which opens nothing."""
    return os.getxattr(path, "user.fvrange.volatile").decode()


def _is_plain(path: Path) -> bool:
    return volatile(path) == ""


def still(mounted: Mount, path: Path, expected: str) -> None:
    """Closing is told to the file system a moment later: wait for one that came later."""
    marker = mounted.file("marker", 1)
    marker.mark()
    marker.close()
    assert eventually(lambda: volatile(marker.path) == "")
    marker.path.unlink()
    assert volatile(path) == expected


ALL = f"0+{4 * PAGE}"


def test_marks_end_when_the_last_user_closes(last: Mount) -> None:
    file = last.file("file", 4)
    file.mark()
    assert volatile(file.path) == ALL
    file.close()
    assert eventually(lambda: volatile(file.path) == "")
    assert file.path.read_bytes() == b"".join(letter * PAGE for letter in (b"a", b"b", b"c", b"d"))


def test_two_opens_and_one_close(last: Mount) -> None:
    file = last.file("file", 4)
    other = last.open("file")
    file.mark()
    file.close()
    still(last, file.path, ALL)
    other.purge(*pages(0))
    assert other.reads() == "Xbcd"
    other.close()
    assert eventually(lambda: volatile(file.path) == "")


def test_a_reader_is_a_user(last: Mount) -> None:
    file = last.file("file", 4)
    reader = last.open("file", os.O_RDONLY)
    file.mark()
    file.close()
    still(last, file.path, ALL)
    reader.close()
    assert eventually(lambda: volatile(file.path) == "")


def test_a_duplicate_and_a_child_are_no_further_opens_but_hold_the_one(last: Mount) -> None:
    file = last.file("file", 4)
    duplicate = os.dup(file.fd)
    file.mark()
    file.close()
    still(last, file.path, ALL)
    os.close(duplicate)
    assert eventually(lambda: volatile(file.path) == "")


def test_another_process_that_has_it_open_is_a_user(last: Mount) -> None:
    file = last.file("file", 4)
    actor = last.actor(file, "r")
    file.mark()
    file.close()
    still(last, file.path, ALL)
    actor.close()
    assert eventually(lambda: volatile(file.path) == "")


@pytest.mark.parametrize("how", ["shared", "private"])
def test_a_mapping_without_an_open_descriptor_is_a_user(
    last: Mount, stage: Stage, how: How
) -> None:
    file = last.file("file", 4)
    program = stage.voter().map(file, how)
    program.close_file()
    file.mark()
    file.close()
    still(last, file.path, ALL)
    os.setxattr(file.path, "user.fvrange.purge", f"0+{2 * PAGE}".encode())
    assert program.loads() == "XXcd"
    program.unmap()
    assert eventually(lambda: volatile(file.path) == "")


def test_a_mapping_that_a_child_inherited_is_a_user(last: Mount) -> None:
    file = last.file("file", 4)
    actor = last.actor(file).map("shared")
    actor.fork()
    actor.unmap()
    file.mark()
    file.close()
    actor.leave_child()
    still(last, file.path, ALL)
    assert actor.loads() == "abcd"
    actor.close()
    assert eventually(lambda: volatile(file.path) == "")


def test_purged_pages_are_zeros_then_and_no_error(last: Mount) -> None:
    purged_pages_are_zeros_then(last)


def test_purged_pages_that_read_as_zeros_are_zeros_then(zero_mount: MountFactory) -> None:
    purged_pages_are_zeros_then(zero_mount(lifetime="last-close"))


def purged_pages_are_zeros_then(last: Mount) -> None:
    file = last.file("file", 4)
    file.mark()
    file.purge(*pages(1, 2))
    file.close()
    assert eventually(lambda: volatile(file.path) == "")
    assert os.getxattr(file.path, "user.fvrange.purged") == b""
    again = last.open("file")
    assert again.reads() == "a00d"
    assert last.actor(again).map().loads() == "a00d"
    assert again.unmark() == 0


def test_what_was_written_to_a_purged_page_is_zeros_everywhere_then(
    zero_mount: MountFactory,
) -> None:
    """Also where the kernel had cached it: the file says one thing to all who open it."""
    last = zero_mount(lifetime="last-close")
    file = last.file("file", 4)
    file.mark(behavior=ZERO)
    file.purge()
    actor = last.actor(file).map("shared")
    assert actor.stores("n", [2]) == "w"
    os.pwrite(file.fd, b"m" * 10, 0)
    actor.close()
    file.close()
    assert eventually(lambda: volatile(file.path) == "")
    again = last.open("file")
    warm = again.reads()
    again.cool()
    assert again.reads() == warm == "0000"


def test_marks_made_anew_last_until_the_next_last_close(last: Mount) -> None:
    file = last.file("file", 4)
    file.mark()
    file.close()
    assert eventually(lambda: volatile(file.path) == "")
    again = last.open("file")
    assert again.purge() == 0
    again.mark(*pages(1))
    assert volatile(file.path) == f"{PAGE}+{PAGE}"
    again.close()
    assert eventually(lambda: volatile(file.path) == "")


def test_marks_by_setfattr_without_an_open_last_until_the_next_last_close(last: Mount) -> None:
    """setfattr opens nothing, so nobody closes."""
    file = last.file("file", 4)
    file.close()
    still(last, file.path, "")
    os.setxattr(file.path, "user.fvrange.volatile", b"all")
    still(last, file.path, ALL)
    os.setxattr(file.path, "user.fvrange.purge", f"0+{PAGE}".encode())
    assert os.getxattr(file.path, "user.fvrange.purged") == f"0+{PAGE}".encode()
    reader = last.open("file", os.O_RDONLY)
    assert reader.reads() == "Xbcd"
    reader.close()
    assert eventually(lambda: volatile(file.path) == "")


def test_renaming_and_another_name_change_nothing(last: Mount) -> None:
    file = last.file("file", 4)
    file.mark()
    os.link(file.path, last.path / "link")
    file.path.rename(last.path / "renamed")
    other = last.open("link")
    file.close()
    still(last, last.path / "renamed", ALL)
    other.close()
    assert eventually(lambda: volatile(last.path / "renamed") == "")


def test_an_unlinked_file_and_its_marks_go_with_the_last_user(last: Mount) -> None:
    file = last.file("file", 4)
    file.mark()
    file.path.unlink()
    assert last.number("volatile") == 4 * PAGE
    file.close()
    assert eventually(lambda: last.number("volatile") == last.resident == 0)


def test_closing_during_purges_ends_well(last: Mount) -> None:
    """The last close waits for a purge under way, and a new open may come before it."""
    for turn in range(30):
        file = last.file("file", 64)
        actor = last.actor(file)
        actor.map("shared")
        assert actor.stores("s").strip("w") == ""
        file.mark()
        os.setxattr(file.path, "user.fvrange.purge", b"all")
        actor.close()
        file.close()
        if turn % 2:
            last.open("file").close()
        assert eventually(partial(_is_plain, file.path))
        assert file.path.read_bytes() == bytes(64 * PAGE)


def test_persistent_marks_outlive_everybody(mount: MountFactory) -> None:
    mounted = mount(semantics="stultz", lifetime="persistent")
    file = mounted.file("file", 4)
    actor = mounted.actor(file).map("shared")
    file.mark()
    file.purge(*pages(0))
    actor.close()
    file.close()
    other = mounted.file("other", 1)
    other.close()
    assert not eventually(lambda: volatile(file.path) != ALL, 0.3)
    assert mounted.open("file").reads() == "Xbcd"


def test_last_close_goes_with_any_other_rules(mount: MountFactory, stage: Stage) -> None:
    mounted = mount(semantics="unified", lifetime="last-close")
    file = mounted.file("file", 4)
    file.mark()
    voter = stage.voter().map(file, "private")
    voter.close_file()
    file.close()
    os.setxattr(file.path, "user.fvrange.purge", b"all")
    assert voter.loads() == "abcd", "it blocks"
    assert volatile(file.path) == ALL, "and it is a user"
    voter.exit()
    assert eventually(lambda: volatile(file.path) == "")


def test_a_plain_file_is_not_touched(last: Mount) -> None:
    file: VFile = last.file("file", 4)
    blocks = os.stat(file.path).st_blocks
    file.close()
    still(last, file.path, "")
    assert os.stat(file.path).st_blocks == blocks == 4 * PAGE // 512
