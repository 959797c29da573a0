"""Private mappings: they hold their pages by default; with ``--private=keep`` only their copies."""

from __future__ import annotations

import pytest

from tests.support.files import VFile
from tests.support.fvrange import PAGE, PARTIAL, pages
from tests.support.mount import Mount, MountFactory
from tests.support.waiting import eventually
from vfs_volatile.native import kcmp
from vfs_volatile.processes.kernel import Kernel


@pytest.fixture
def file(fs: Mount) -> VFile:
    """Eight volatile pages."""
    file = fs.file("file", 8)
    file.mark()
    return file


def test_pages_with_a_private_mapper_are_not_purged(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file, "r").map("private", "r", 2, 3)
    file.purge()
    assert file.reads() == "XXcdeXXX"
    assert file.purged_pages() == [0, 1, 5, 6, 7]
    assert actor.loads() == "cde"


def test_they_go_once_the_mapping_is_gone(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file, "r").map("private", "r")
    file.purge()
    assert file.purged_pages() == []
    actor.unmap()
    file.purge()
    assert file.reads() == "XXXXXXXX"


def test_a_process_that_has_slept_since_the_last_purge_is_remembered(
    fs: Mount, file: VFile
) -> None:
    if not Kernel(compare=kcmp.compare_memory).tells_who_slept():
        pytest.skip("this kernel does not tell who slept")
    actor = fs.actor(file, "r").map("private", "r", 2, 1)

    def remembered() -> bool:
        file.purge()
        return fs.stats()["processes_remembered"] != 0

    assert eventually(remembered)
    assert file.reads() == "XXcXXXXX"
    file.unmark()
    file.fill(8)
    file.mark()
    again = fs.actor(file, "r").map("private", "r", 4, 1)
    file.purge()
    assert file.reads() == "XXcXeXXX"
    actor.unmap()
    file.purge()
    assert file.reads() == "XXXXeXXX"
    again.unmap()
    file.purge()
    assert file.reads() == "XXXXXXXX"


def test_they_go_once_the_process_is_gone(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file, "r").map("private", "r")
    actor.close()
    file.purge()
    assert file.reads() == "XXXXXXXX"


def test_a_forked_child_goes_on_holding_them(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file).map("private")
    actor.fork()
    file.purge()
    assert file.purged_pages() == []
    actor.unmap()
    file.purge()
    assert file.purged_pages() == [], "the parent has the mapping still"
    actor.leave_child()
    actor.unmap()
    file.purge()
    assert file.reads() == "XXXXXXXX"


def test_the_mapping_holds_them_without_an_open_file(fs: Mount) -> None:
    file = fs.file("unlinked", 4)
    file.mark()
    actor = fs.actor(file).map("private")
    file.path.unlink()
    file.purge()
    assert file.reads() == actor.loads() == "abcd"


def test_a_shared_mapping_holds_nothing(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file).map("shared")
    private = fs.actor(file).map("private", "rw", 6, 2)
    file.purge()
    assert actor.loads() == "XXXXXXgh"
    assert private.loads() == "gh"


def test_a_cowed_page_is_held_and_keeps_its_content(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file).map("private", "rw", 2, 2)
    assert actor.stores("z", [2]) == "w"
    file.purge()
    assert actor.loads() == "zd"
    assert file.reads() == "XXcdXXXX", "the file has its own content, not the copy"


def test_a_private_mapper_after_the_purge_meets_sigbus(fs: Mount, file: VFile) -> None:
    file.purge(*pages(2, 2))
    actor = fs.actor(file).map("private")
    assert actor.loads() == "abXXefgh"
    file.purge()
    assert actor.loads() == "abXXefgh", "but it holds what it came in time for"
    assert file.unmark() == 2 * PAGE
    assert actor.loads() == "ab00efgh"


def test_the_budget_skips_a_full_range_as_a_whole(mount: MountFactory) -> None:
    """One held page of the oldest range: it stays whole, and a younger one goes instead."""
    mounted = mount(budget="16M")
    held, free = mounted.file("held", 32), mounted.file("free", 32)
    held.mark()
    free.mark()
    mounted.actor(held, "r").map("private", "r", 5, 1)
    mounted.set_root("budget", str(mounted.resident - PAGE))
    assert mounted.within_budget()
    assert held.purged_pages() == []
    assert free.purged_pages() == list(range(32))


def test_the_budget_takes_the_free_pages_of_a_partial_range(mount: MountFactory) -> None:
    mounted = mount(budget="16M")
    held = mounted.file("held", 32)
    held.mark(behavior=PARTIAL)
    mounted.actor(held, "r").map("private", "r", 0, 8)
    mounted.set_root("budget", "0")
    assert eventually(lambda: mounted.resident == 8 * PAGE)
    assert held.purged_pages() == list(range(8, 32))


def test_a_forced_purge_is_page_exact_in_a_full_range(fs: Mount, file: VFile) -> None:
    fs.actor(file, "r").map("private", "r", 5, 1)
    file.purge()
    assert file.reads() == "XXXXXfXX"


def test_the_budget_comes_back_when_the_mapping_is_gone(mount: MountFactory) -> None:
    """Over budget with everything held; it has to go soon after it may."""
    mounted = mount(budget="16M")
    held = mounted.file("held", 32)
    held.mark()
    actor = mounted.actor(held, "r").map("private", "r")
    mounted.set_root("budget", "64K")
    assert not eventually(held.purged_pages, 0.3)
    actor.close()
    assert mounted.within_budget()
    assert held.purged_pages() == list(range(32))


def test_private_keep_purges_and_keeps_the_copies(mount: MountFactory) -> None:
    mounted = mount(private="keep")
    file = mounted.file("file", 8)
    file.mark()
    actor = mounted.actor(file).map("private")
    assert actor.loads() == "abcdefgh"
    assert actor.stores("z", [2, 5]) == "ww"
    file.purge()
    assert file.reads() == "XXXXXXXX"
    assert actor.loads() == "XXzXXzXX"
    assert actor.stores("y") == "XXwXXwXX"
    assert file.unmark() == 8 * PAGE
    assert actor.loads() == "00y00y00"
