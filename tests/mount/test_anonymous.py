"""Anonymous memory of real processes: INTERFACE "Anonymous memory", sentence by sentence."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import SharedMount
from tests.support.anonymous import Family, Process, compile_client
from tests.support.fvrange import PAGE
from tests.support.mount import Mount, MountFactory
from tests.support.waiting import eventually
from vfs_volatile.abi.ioctls import (
    VRANGE_FULL,
    VRANGE_NONVOLATILE,
    VRANGE_PARTIAL,
    VRANGE_VOLATILE,
    VRANGE_ZERO,
    vrange_priority,
)

Purge = Callable[[], None]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_client(tmp_path_factory.mktemp("client"))


@pytest.fixture
def family(client: Path, tmp_path: Path) -> Iterator[Family]:
    made = Family(client, tmp_path)
    yield made
    made.end()


@pytest.fixture
def process(family: Family, fs: Mount) -> Process:
    """Attached, with eight pages a, b, ... of its own."""
    process = family.first().start(fs.path, 8)
    for page in range(8):
        process.fill(page, 1, chr(ord("a") + page))
    return process


def purge(mount: Mount) -> None:
    """All that may be purged."""
    mount.set_root("purge", "all")


def test_a_marked_page_is_dropped_and_touching_it_is_sigbus(process: Process, fs: Mount) -> None:
    assert process.mark(2, 3) == 0
    purge(fs)
    assert process.show() == "abXXXfgh"
    assert process.fill(0, 8, "z") == "wwXXXwww"


def test_taking_back_reports_and_gives_zeros(process: Process, fs: Mount) -> None:
    process.mark(2, 3)
    purge(fs)
    assert process.unmark(0, 8) == 3
    assert process.show() == "ab000fgh"
    assert process.unmark(0, 8) == 0
    assert process.fill(2, 3, "n") == "www"
    purge(fs)
    assert process.show() == "abnnnfgh"


def test_what_was_taken_back_in_time_is_intact(process: Process, fs: Mount) -> None:
    process.mark(0, 8)
    assert process.unmark(0, 8) == 0
    purge(fs)
    assert process.show() == "abcdefgh"


def test_with_zero_touching_reads_zeros_and_is_still_reported(process: Process, fs: Mount) -> None:
    process.mark(0, 4, VRANGE_PARTIAL | VRANGE_ZERO)
    purge(fs)
    assert process.show() == "0000efgh"
    assert process.fill(1, 1, "n") == "w"
    assert process.show() == "0n00efgh"
    assert process.unmark(0, 8) == 4
    assert process.show() == "0000efgh"


def test_the_mounts_default_decides_where_the_mark_does_not(
    family: Family, mount: MountFactory
) -> None:
    mounted = mount(access="zero")
    process = family.first().start(mounted.path, 2)
    process.fill(0, 2, "a")
    process.mark(0, 2)
    purge(mounted)
    assert process.show() == "00"
    assert process.unmark(0, 2) == 2


def test_a_partial_unmark_leaves_the_rest(process: Process, fs: Mount) -> None:
    process.mark(0, 6)
    purge(fs)
    assert process.unmark(2, 2) == 2
    assert process.show() == "XX00XXgh"
    assert process.unmark(0, 8) == 4


def test_bytes_are_rounded_inward_for_a_mark_and_outward_to_take_back(
    process: Process, fs: Mount
) -> None:
    assert process.number(f"markbytes {PAGE - 1} {2 * PAGE + 1} {VRANGE_PARTIAL}") == 0
    purge(fs)
    assert process.show() == "aXXdefgh"
    assert process.number(f"unmarkbytes {2 * PAGE - 10} 20") == 20
    assert process.show() == "a00defgh"


def test_marking_again_changes_nothing(process: Process, fs: Mount) -> None:
    process.mark(0, 2, VRANGE_PARTIAL)
    purge(fs)
    assert process.mark(0, 4, VRANGE_PARTIAL) == 2
    assert process.show() == "XXcdefgh"


def test_what_was_never_touched_has_nothing_to_lose(family: Family, fs: Mount) -> None:
    process = family.first().start(fs.path, 4)
    process.fill(0, 1, "a")
    process.mark(0, 4)
    process.show()  # the zero page of the kernel is no memory
    purge(fs)
    assert process.show() == "X000"
    assert process.unmark(0, 4) == 1


def test_what_the_program_gives_up_itself_is_not_reported(process: Process, fs: Mount) -> None:
    process.mark(0, 4)
    process.number("zap 1 2")
    purge(fs)
    assert process.show() == "X00Xefgh"
    assert process.unmark(0, 4) == 2


def test_a_system_call_meets_efault(process: Process, fs: Mount) -> None:
    process.mark(0, 1)
    purge(fs)
    assert process.ask("pipe 0") == "EFAULT"
    assert process.ask("pipe 1") == "1"


def test_a_sigbus_handler_may_take_back_and_refill(process: Process, fs: Mount) -> None:
    process.mark(0, 8)
    purge(fs)
    process.ask("heal n")
    assert process.show() == "nnnnnnnn"
    assert process.number("healed") == 8
    assert process.unmark(0, 8) == 0


@pytest.mark.parametrize(
    ("command", "errno"),
    [
        ("mark 0 1 8", "EINVAL"),
        (f"mark 0 1 {VRANGE_ZERO | 4}", "EINVAL"),
        ("mark 0 1 2048", "EINVAL"),
        ("mark 6 4096 1", "ENOMEM"),
        ("many 2 0 0 1", "EINVAL"),
        ("many 0 1 0 1", "EINVAL"),
        ("markbytes 0 18446744073709551615 1", "EINVAL"),
    ],
)
def test_a_failed_call_changes_nothing(
    process: Process, fs: Mount, command: str, errno: str
) -> None:
    assert process.ask(command) == errno
    purge(fs)
    assert process.show() == "abcdefgh"


def test_many_spans_in_one_call(process: Process, fs: Mount) -> None:
    assert process.ask(f"many {VRANGE_VOLATILE} {VRANGE_PARTIAL} 0 1 2 1 4 2").split() == ["0"] * 3
    purge(fs)
    assert process.show() == "XbXdXXgh"
    answer = process.ask(f"many {VRANGE_NONVOLATILE} 0 0 4 4 4").split()
    assert answer == [str(2 * PAGE), str(2 * PAGE)]


def test_as_many_spans_as_one_call_takes(family: Family, fs: Mount) -> None:
    process = family.first().start(fs.path, 1100)
    process.fill(0, 1100, "a")
    spans = " ".join(f"{2 * n} 1" for n in range(512))
    assert process.ask(f"many {VRANGE_VOLATILE} {VRANGE_PARTIAL} {spans} 1098 1") == "E2BIG"
    assert fs.number("volatile") == 0
    process.ask(f"many {VRANGE_VOLATILE} {VRANGE_PARTIAL} {spans}")
    assert fs.number("volatile") == 512 * PAGE
    purge(fs)
    assert process.show() == "Xa" * 512 + "a" * 76
    assert process.unmark(0, 1100) == 512


def test_without_a_mount_there_is_no_memory(family: Family, tmp_path: Path) -> None:
    process = family.first()
    assert process.ask("alloc 1") == "ENOTCONN"
    assert process.ask(f"attach {tmp_path}") == "ENOTTY"
    assert process.ask(f"attach {tmp_path}/none") == "ENOENT"


def test_free_gives_it_back(process: Process, fs: Mount) -> None:
    process.mark(0, 4)
    purge(fs)
    process.number("free")
    assert process.ask("free") == "EINVAL"
    assert (fs.number("resident"), fs.number("volatile"), fs.number("purged")) == (0, 0, 0)


# ---- budget and order ----


def test_it_counts_into_the_budget_and_is_purged_for_it(
    family: Family, mount: MountFactory
) -> None:
    mounted = mount(budget="1M")
    process = family.first().start(mounted.path, 512)
    process.fill(0, 512, "a")
    assert eventually(lambda: mounted.number("resident") == 512 * PAGE)
    process.mark(0, 512)
    assert mounted.within_budget()
    assert process.show().count("X") == 256


def test_it_stands_in_one_order_with_files(family: Family, mount: MountFactory) -> None:
    mounted = mount(budget="10M")
    process = family.first().start(mounted.path, 8)
    process.fill(0, 8, "m")
    process.mark(0, 2)
    file = mounted.file("file", 8)
    file.mark(0, 2 * PAGE, VRANGE_PARTIAL)
    process.mark(2, 2, VRANGE_PARTIAL | vrange_priority(1))
    file.mark(2 * PAGE, 2 * PAGE, VRANGE_PARTIAL)
    for gone in (("XXmmmmmm", 0), ("XXmmmmmm", 2), ("XXmmmmmm", 4), ("XXXXmmmm", 4)):
        mounted.set_root("purge", str(2 * PAGE))
        assert (process.show(), len(file.purged_pages())) == gone


def test_full_goes_whole_and_partial_as_needed(family: Family, fs: Mount) -> None:
    process = family.first().start(fs.path, 8)
    process.fill(0, 8, "a")
    process.mark(0, 4, VRANGE_FULL)
    process.mark(4, 4, VRANGE_PARTIAL)
    fs.set_root("purge", str(PAGE))
    assert process.show() == "XXXXaaaa"
    fs.set_root("purge", str(PAGE))
    assert process.show() == "XXXXXaaa"


# ---- fork ----


def test_fork_copies_marks_and_a_shared_page_goes_from_all(
    process: Process, family: Family, fs: Mount
) -> None:
    process.mark(0, 4)
    child = family.fork(process)
    purge(fs)
    assert (process.show(), child.show()) == ("XXXXefgh", "XXXXefgh")
    assert (process.unmark(0, 8), child.unmark(0, 8)) == (4, 4)
    assert fs.number("purged") == 0


@pytest.mark.parametrize("keeper", ["parent", "child"])
def test_one_that_takes_back_holds_it_for_all(
    process: Process, family: Family, fs: Mount, keeper: str
) -> None:
    process.mark(0, 4)
    child = family.fork(process)
    assert (process if keeper == "parent" else child).unmark(1, 2) == 0
    purge(fs)
    assert (process.show(), child.show()) == ("XbcXefgh", "XbcXefgh")


def test_a_mark_after_the_fork_is_the_makers_alone(
    process: Process, family: Family, fs: Mount
) -> None:
    child = family.fork(process)
    process.mark(0, 4)
    purge(fs)
    assert (process.show(), child.show()) == ("abcdefgh", "abcdefgh")
    child.mark(1, 1)
    purge(fs)
    assert (process.show(), child.show()) == ("aXcdefgh", "aXcdefgh")


def test_a_copied_page_goes_by_its_owner_alone(process: Process, family: Family, fs: Mount) -> None:
    child = family.fork(process)
    process.mark(0, 4)
    child.fill(1, 1, "n")  # now each has its own
    purge(fs)
    assert (process.show(), child.show()) == ("aXcdefgh", "ancdefgh")


def test_what_was_purged_before_the_fork_is_purged_in_the_child(
    process: Process, family: Family, fs: Mount
) -> None:
    process.mark(0, 2)
    purge(fs)
    child = family.fork(process)
    assert child.show() == "XXcdefgh"
    assert process.unmark(0, 2) == 2
    assert child.show() == "XXcdefgh"
    assert child.unmark(0, 2) == 2


def test_grandchildren_share_what_is_theirs(process: Process, family: Family, fs: Mount) -> None:
    child = family.fork(process)
    child.fill(0, 8, "n")
    grandchild = family.fork(child)
    child.mark(0, 4)
    grandchild.mark(0, 2)
    purge(fs)
    assert (process.show(), child.show(), grandchild.show()) == (
        "abcdefgh",
        "XXnnnnnn",
        "XXnnnnnn",
    )


def test_memory_is_counted_once_for_all_who_share_it(
    process: Process, family: Family, fs: Mount
) -> None:
    child = family.fork(process)
    child.fill(0, 3, "n")
    assert eventually(lambda: fs.number("resident") == 11 * PAGE)


@pytest.mark.parametrize("end", ["exit", "kill", "exec"])
def test_the_end_of_a_process_ends_its_hold(
    process: Process, family: Family, fs: Mount, end: str
) -> None:
    process.mark(0, 4)
    child = family.fork(process)
    child.unmark(0, 4)
    if end == "exec":
        child.send("exec /bin/cat")
    elif end == "kill":
        child.signal(signal.SIGKILL)
    else:
        family.end([child])

    def gone() -> bool:
        purge(fs)
        return process.show() == "XXXXefgh"

    assert eventually(gone)


def test_exec_ends_the_marks(process: Process, fs: Mount) -> None:
    process.mark(0, 4)
    assert fs.number("volatile") == 4 * PAGE
    process.send("exec /bin/cat")
    assert eventually(lambda: fs.number("volatile") == fs.number("resident") == 0)


def test_a_child_made_behind_the_librarys_back_holds_what_it_shares(
    process: Process, family: Family, fs: Mount
) -> None:
    process.mark(0, 4)
    child = family.fork(process, "clone")
    assert child.ask("mark 0 4 1") == "ENOTCONN"
    purge(fs)
    assert (process.show(), child.show()) == ("abcdefgh", "abcdefgh")
    process.fill(1, 1, "n")  # this page it has alone
    purge(fs)
    assert (process.show(), child.show()) == ("aXcdefgh", "abcdefgh")
    family.end([child])

    def gone() -> bool:
        purge(fs)
        return process.show() == "XXXXefgh"

    assert eventually(gone)


def test_a_late_mark_and_the_childs_own_memory(family: Family, fs: Mount) -> None:
    """A child may allocate too; its parent knows nothing of that."""
    parent = family.first().start(fs.path, 2)
    child = family.fork(parent)
    child.number("alloc 4")
    child.fill(0, 4, "c")
    child.mark(0, 4)
    purge(fs)
    assert child.show() == "XXXX"


def test_shared_mount_is_as_it_was(shared_mount: SharedMount) -> None:
    """All processes of the tests before have ended: nothing of them counts any more."""
    mounted = shared_mount.get()
    mounted.rearm()
    assert eventually(lambda: mounted.number("resident") == mounted.number("volatile") == 0)
