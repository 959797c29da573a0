"""The ``kim`` rules on real processes: a mark by address is a vote, and ends with its process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.files import VFile
from tests.support.fvrange import PAGE, ZERO, pages
from tests.support.mount import Mount, MountFactory
from tests.support.voter import Stage
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def kim(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Mount]:
    """One mount for the module."""
    work = tmp_path_factory.mktemp("kim")
    probe, watchdog = request.getfixturevalue("probe"), request.getfixturevalue("watchdog")
    made = Mount(work, watchdog, probe, semantics="kim")
    yield made
    made.end()


@pytest.fixture
def fs(kim: Mount) -> Iterator[Mount]:
    kim.rearm()
    yield kim
    kim.clear()


@pytest.fixture
def file(fs: Mount) -> VFile:
    """Four pages."""
    return fs.file("file", 4)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def volatile(file: VFile) -> str:
    """The volatile pages as digits."""
    return "".join(
        str(page)
        for run in file.ranges()
        for page in range(run.start // PAGE, (run.start + run.length) // PAGE)
    )


def purged(file: VFile) -> str:
    """Purge all that may go; the pages that have gone, as digits."""
    file.purge()
    return "".join(map(str, file.purged_pages()))


# ---- who must agree ----


def test_how_processes_are_followed(fs: Mount) -> None:
    stats = fs.stats()
    assert stats["mvrange"] == "process"
    assert stats["processes"] == "connector", "the tests run as root"


def test_a_page_goes_when_all_who_map_it_have_agreed(file: VFile, stage: Stage) -> None:
    one, two = stage.voter().map(file), stage.voter().map(file, first=2)
    assert one.agree() == 0
    assert volatile(file) == "0123"
    assert purged(file) == "01", "a silent mapper keeps the others"
    assert two.loads() == "cd"
    assert two.agree(2, 1) == 0
    assert purged(file) == "012"
    assert one.loads() == "XXXd"
    assert two.loads() == "Xd"


def test_who_has_no_mapping_any_more_need_not_agree(file: VFile, stage: Stage) -> None:
    one, two, three = (stage.voter().map(file) for _ in range(3))
    one.agree()
    two.unmap()
    assert purged(file) == ""
    three.exit()
    assert purged(file) == "0123"


def test_the_budget_asks_too(fs: Mount, file: VFile, stage: Stage) -> None:
    one, two = stage.voter().map(file), stage.voter().map(file)
    one.agree()
    budget = fs.number("budget")
    try:
        fs.set_root("budget", "0")
        assert not eventually(file.purged_pages, 0.3)
        two.agree()
        assert eventually(lambda: file.purged_pages() == [0, 1, 2, 3])
    finally:
        fs.set_root("budget", str(budget))


def test_an_fvrange_mark_needs_no_votes(file: VFile, stage: Stage) -> None:
    one = stage.voter().map(file)
    file.mark(*pages(1, 2))
    assert purged(file) == "12"
    assert one.loads() == "aXXd"


def test_a_private_mapper_of_a_named_file_blocks_whatever_it_votes(
    file: VFile, stage: Stage
) -> None:
    one, two = stage.voter().map(file), stage.voter().map(file, "private", 1, 2)
    one.agree()
    assert two.agree() == 0
    assert purged(file) == "03"


def test_any_thread_votes_for_its_process(file: VFile, stage: Stage) -> None:
    one = stage.voter().map(file)
    assert one.agree_in_a_thread(0, 2) == 0
    assert purged(file) == "01"
    assert one.hold(0, 2) == 2 * PAGE


def test_a_process_without_its_first_thread_votes_and_maps(file: VFile, stage: Stage) -> None:
    one, two = stage.voter().map(file), stage.voter().map(file)
    one.agree(0, 2)
    one.drop_first_thread()
    two.agree()
    assert purged(file) == "01", "it votes still, and is silent on the others"
    one.agree()
    assert purged(file) == "0123"


# ---- hearing of a purge ----


def test_all_who_agreed_hear_of_it_once(file: VFile, stage: Stage) -> None:
    one, two = stage.voter().map(file), stage.voter().map(file)
    one.agree()
    two.agree()
    assert purged(file) == "0123"
    assert one.hold(0, 2) == 2 * PAGE
    assert one.loads() == two.loads() == "00XX"
    two.store(0, "n")
    assert two.hold() == 4 * PAGE, "it had not known when it wrote"
    assert one.loads() == two.loads() == "n000"
    assert one.hold() == 2 * PAGE
    assert (one.hold(), two.hold()) == (0, 0)
    assert volatile(file) == ""


def test_a_page_rewritten_by_write_is_no_loss(file: VFile, stage: Stage) -> None:
    one, two = stage.voter().map(file), stage.voter().map(file)
    one.agree()
    two.agree()
    assert purged(file) == "0123"
    one.hold()
    os.pwrite(file.fd, b"n" * PAGE, PAGE)
    assert two.hold() == 3 * PAGE
    assert two.loads() == "0n00"


def test_fvrange_nonvolatile_ends_votes_and_the_voters_hear_of_it(
    file: VFile, stage: Stage
) -> None:
    one = stage.voter().map(file)
    one.agree(0, 2)
    assert purged(file) == "01"
    one.agree(2, 1)
    assert file.unmark() == 2 * PAGE
    assert volatile(file) == ""
    assert purged(file) == ""
    assert one.loads() == "00cd"
    assert one.hold() == 2 * PAGE


# ---- holding ----


def test_a_process_that_holds_vetoes_an_fvrange_mark(file: VFile, stage: Stage) -> None:
    one, two = stage.voter().map(file), stage.voter().map(file)
    file.mark()
    assert one.hold(1, 2) == 0
    assert volatile(file) == "0123"
    assert purged(file) == "03"
    assert two.loads() == "XbcX"
    one.exit()
    assert eventually(lambda: purged(file) == "0123")


def test_a_hold_over_a_purged_fvrange_mark_reports_and_leaves_the_answer_to_fvrange(
    file: VFile, stage: Stage
) -> None:
    one = stage.voter().map(file)
    file.mark(*pages(0, 2))
    assert purged(file) == "01"
    assert one.hold(1, 2) == PAGE
    assert one.loads() == "XXcd"
    assert file.unmark() == 2 * PAGE
    assert one.loads() == "00cd"


def test_a_hold_outlives_the_mapping(file: VFile, stage: Stage) -> None:
    one = stage.voter().map(file)
    file.mark()
    one.hold(1, 1)
    one.unmap()
    assert purged(file) == "023"
    one.map(file)
    assert one.loads() == "XbXX"


def test_agreeing_ends_a_hold(file: VFile, stage: Stage) -> None:
    one = stage.voter().map(file)
    file.mark()
    one.hold()
    one.agree(0, 2)
    assert purged(file) == "01"


def test_einval_takes_no_mvrange_on_files(mount: MountFactory, stage: Stage) -> None:
    file = mount(semantics="kim", conflict="einval").file("file", 4)
    one, two = stage.voter().map(file), stage.voter().map(file, "private", 2)
    for call in (one.agree, one.hold, two.agree, two.hold):
        with pytest.raises(OSError, match="Invalid argument"):
            call()
    file.mark()
    assert purged(file) == "01"


# ---- fork, exec, exit ----


def test_fork_copies_the_votes_of_the_parent(file: VFile, stage: Stage) -> None:
    parent = stage.voter().map(file)
    parent.agree()
    child = parent.fork()
    assert purged(file) == "0123"
    assert parent.hold() == child.hold() == 4 * PAGE


def test_a_fork_before_the_mark_copies_nothing(file: VFile, stage: Stage) -> None:
    parent = stage.voter().map(file)
    child = parent.fork()
    parent.agree()
    assert purged(file) == ""
    child.agree()
    assert purged(file) == "0123"


def test_fork_copies_a_hold(file: VFile, stage: Stage) -> None:
    parent = stage.voter().map(file)
    file.mark()
    parent.hold(0, 2)
    child = parent.fork()
    parent.agree(0, 1)
    parent.exit()
    assert purged(file) == "23"
    child.exec()
    assert purged(file) == "0123"


def test_a_child_inherits_though_its_parent_died_first(file: VFile, stage: Stage) -> None:
    parent = stage.voter().map(file)
    parent.agree()
    child = parent.fork()
    grandchild = child.fork()
    child.exit()
    parent.exit()
    assert volatile(file) == "0123", "the grandchild agrees"
    assert purged(file) == "0123"
    assert grandchild.hold(0, 2) == 2 * PAGE
    grandchild.exit()
    assert eventually(lambda: volatile(file) == "")
    assert file.reads() == "00" + "00", "nobody is left to be told"


def test_exec_drops_votes(file: VFile, stage: Stage) -> None:
    one = stage.voter().map(file)
    one.agree()
    one.exec()
    assert volatile(file) == ""
    one.map(file)
    assert purged(file) == ""
    assert one.loads() == "abcd"


def test_exec_of_a_child_leaves_the_parents_votes(file: VFile, stage: Stage) -> None:
    parent = stage.voter().map(file)
    parent.agree()
    child = parent.fork()
    child.exec()
    child.map(file)
    assert volatile(file) == "0123"
    assert purged(file) == "", "the new program maps it and is silent"
    child.unmap()
    assert purged(file) == "0123"


def test_exit_drops_votes(file: VFile, stage: Stage) -> None:
    one, two = stage.voter().map(file), stage.voter().map(file)
    one.agree(0, 3)
    two.agree(1, 3)
    one.exit()
    assert eventually(lambda: volatile(file) == "123")
    assert purged(file) == "123"
    two.exit()
    assert eventually(lambda: volatile(file) == "")
    assert file.reads() == "a000"


def test_votes_of_the_dead_purge_nothing_when_nobody_has_the_file_open(
    fs: Mount, stage: Stage
) -> None:
    """No mapper is left to look for; the votes have gone all the same."""
    file = fs.file("left", 4)
    file.close()
    for _ in range(10):
        one = stage.voter().map(file.path)
        one.agree()
        one.exit()
        assert eventually(lambda: os.getxattr(file.path, "user.fvrange.volatile") == b"")
        os.setxattr(file.path, "user.fvrange.purge", b"all")
    assert file.path.read_bytes().count(b"d") == PAGE


def test_what_was_written_to_a_purged_page_outlives_the_last_voter(
    zero_mount: MountFactory, stage: Stage
) -> None:
    """What the kernel has cached, and what the file system holds, stay the same."""
    file = zero_mount(semantics="kim").file("file", 4)
    one, two = stage.voter().map(file), stage.voter().map(file)
    one.agree(behavior=ZERO)
    two.agree(behavior=ZERO)
    assert purged(file) == "0123"
    two.store(0, "n")
    os.pwrite(file.fd, b"m" * 10, PAGE)
    one.exit()
    two.exit()
    assert eventually(lambda: volatile(file) == "")
    warm = os.pread(file.fd, 4 * PAGE, 0)
    file.cool()
    assert os.pread(file.fd, 4 * PAGE, 0) == warm
    assert warm[: PAGE + 11] == b"n" * PAGE + b"m" * 10 + b"\0"


# ---- the anonymous memory of the thread ----


def test_a_page_nobody_has_cowed_goes_if_all_have_agreed(file: VFile, stage: Stage) -> None:
    parent = stage.voter().map(file, "private")
    file.path.unlink()
    parent.agree()
    parent.store(1, "p")
    child = parent.fork()
    child.store(2, "c")
    assert purged(file) == "0123"
    assert parent.loads() == "XpXX"
    assert child.loads() == "XpcX", "COWed copies stay with their process"
    assert child.hold() == 4 * PAGE
    assert parent.loads() == "0p00"
    assert parent.hold() == 4 * PAGE


def test_one_that_has_not_agreed_keeps_it(file: VFile, stage: Stage) -> None:
    parent = stage.voter().map(file, "private")
    file.path.unlink()
    child = parent.fork()
    parent.agree()
    assert purged(file) == ""
    child.agree(0, 2)
    assert purged(file) == "01"
    assert child.loads() == parent.loads() == "XXcd"


def test_one_hold_keeps_it_for_all(file: VFile, stage: Stage) -> None:
    """Minchan Kim: "unless either one of both processes marks NO_VOLATILE explicitly"."""
    parent = stage.voter().map(file, "private")
    file.path.unlink()
    parent.agree()
    child = parent.fork()
    assert child.hold(1, 1) == 0
    assert purged(file) == "023"
    assert parent.loads() == child.loads() == "XbXX"


def test_an_fvrange_mark_does_not_do_for_private_mappers(file: VFile, stage: Stage) -> None:
    stage.voter().map(file, "private").agree(0, 2)
    file.path.unlink()
    file.mark()
    assert purged(file) == "01"


def test_with_a_shared_mapper_it_is_a_file_again(file: VFile, stage: Stage) -> None:
    one = stage.voter().map(file, "private")
    two = stage.voter().map(file, "shared", 2)
    file.path.unlink()
    one.agree()
    two.agree()
    assert purged(file) == "01"
    two.unmap()
    assert purged(file) == "0123"


def test_with_private_keep_private_mappers_vote_like_others(
    mount: MountFactory, stage: Stage
) -> None:
    file = mount(semantics="kim", private="keep").file("file", 4)
    one, two = stage.voter().map(file, "private"), stage.voter().map(file)
    one.store(0, "p")
    two.agree()
    assert purged(file) == ""
    one.agree(0, 2)
    assert purged(file) == "01"
    assert one.loads() == "pXcd"
    file.mark()
    assert purged(file) == "0123"
