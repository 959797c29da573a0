"""The purger: what goes, in which order, how much of it, and what never goes."""

from __future__ import annotations

import hashlib
import os
import threading
from itertools import count as numbers

import pytest

from tests.support.errnos import errno_of
from tests.support.files import VFile, fallocate
from tests.support.fvrange import FULL, PAGE, PARTIAL, pages, priority
from tests.support.mount import Mount, MountFactory
from tests.support.waiting import eventually

MIB = 1 << 20


def files(mounted: Mount, *behaviors: int, count: int = 16) -> list[VFile]:
    """One file for each behavior, ``count`` pages each, marked whole in this order."""
    made = []
    for index, behavior in enumerate(behaviors):
        made.append(mounted.file(f"file{index}", count))
        made[-1].mark(behavior=behavior)
    return made


def lower_by(mounted: Mount, count: int) -> None:
    """Set the budget ``count`` pages below what is resident, and wait for the purger."""
    mounted.set_root("budget", str(mounted.resident - count * PAGE))
    assert mounted.within_budget()


def lost(of: list[VFile]) -> list[int]:
    """How many pages of each file are purged."""
    return [len(file.purged_pages()) for file in of]


def test_the_oldest_mark_goes_first(mount: MountFactory) -> None:
    mounted = mount(budget="64M")
    made = files(mounted, FULL, FULL, FULL)
    lower_by(mounted, 1)
    assert lost(made) == [16, 0, 0]
    lower_by(mounted, 1)
    assert lost(made) == [16, 16, 0]


def test_age_is_the_mark_s_and_not_the_file_s(mount: MountFactory) -> None:
    mounted = mount(budget="64M")
    old, new = mounted.file("old", 16), mounted.file("new", 16)
    new.mark()
    old.mark()
    lower_by(mounted, 1)
    assert lost([old, new]) == [0, 16]


def test_marking_again_makes_nothing_younger(mount: MountFactory) -> None:
    mounted = mount(budget="64M")
    made = files(mounted, FULL, FULL)
    made[0].mark()
    lower_by(mounted, 1)
    assert lost(made) == [16, 0]


def test_unmarking_and_marking_makes_it_the_youngest(mount: MountFactory) -> None:
    mounted = mount(budget="64M")
    made = files(mounted, FULL, FULL)
    made[0].unmark()
    made[0].mark()
    lower_by(mounted, 1)
    assert lost(made) == [0, 16]


def test_priority_comes_before_age(mount: MountFactory) -> None:
    mounted = mount(budget="64M")
    made = files(mounted, priority(7), priority(2), priority(0), priority(2))
    history = []
    for _ in made:
        lower_by(mounted, 1)
        history.append(lost(made))
    assert history == [[0, 0, 16, 0], [0, 16, 16, 0], [0, 16, 16, 16], [16, 16, 16, 16]]


def test_ages_of_ranges_within_one_file(mount: MountFactory) -> None:
    mounted = mount(budget="64M")
    file = mounted.file("file", 12)
    for first in (8, 0, 4):
        file.mark(*pages(first, 4))
    lower_by(mounted, 1)
    assert file.purged_pages() == [8, 9, 10, 11]
    lower_by(mounted, 1)
    assert file.purged_pages() == [0, 1, 2, 3, 8, 9, 10, 11]


def test_partial_gives_only_as_much_as_is_needed(mount: MountFactory) -> None:
    mounted = mount(budget="64M")
    made = files(mounted, PARTIAL, PARTIAL)
    lower_by(mounted, 5)
    assert lost(made) == [5, 0]
    lower_by(mounted, 13)
    assert lost(made) == [16, 2]


def test_full_goes_whole_even_if_less_is_needed(mount: MountFactory) -> None:
    mounted = mount(budget="64M")
    made = files(mounted, FULL, PARTIAL)
    lower_by(mounted, 5)
    assert lost(made) == [16, 0]
    assert mounted.resident == 16 * PAGE


def test_at_the_budget_nothing_is_purged(mount: MountFactory) -> None:
    mounted = mount(budget="64M")
    made = files(mounted, PARTIAL)
    mounted.set_root("budget", str(mounted.resident))
    assert not eventually(lambda: lost(made) != [0], 0.2)


def test_writing_over_the_budget_starts_the_purger(mount: MountFactory) -> None:
    mounted = mount(budget="1M")
    made = files(mounted, PARTIAL, count=256)
    assert lost(made) == [0]
    mounted.file("more", 32)
    assert mounted.within_budget()
    assert lost(made) == [32]


def test_storing_through_a_mapping_over_the_budget_starts_the_purger(mount: MountFactory) -> None:
    mounted = mount(budget="1M")
    made = files(mounted, PARTIAL, count=256)
    more = mounted.open("more")
    os.ftruncate(more.fd, 32 * PAGE)
    actor = mounted.actor(more).map("shared")
    assert actor.stores("z") == "w" * 32
    actor.must("msync")
    assert eventually(lambda: lost(made) == [32])
    assert actor.loads() == "z" * 32


def test_marking_when_over_the_budget_starts_the_purger(mount: MountFactory) -> None:
    mounted = mount(budget="64K")
    file = mounted.file("file", 32)
    assert mounted.resident == 32 * PAGE
    file.mark(behavior=PARTIAL)
    assert mounted.within_budget()
    assert lost([file]) == [16]


def test_data_without_a_mark_is_never_dropped(mount: MountFactory) -> None:
    mounted = mount(budget="256K")
    kept, data = mounted.open("kept"), os.urandom(2 * MIB)
    os.pwrite(kept.fd, data, 0)
    made = files(mounted, FULL, count=64)
    assert eventually(lambda: lost(made) == [64]), "all that is volatile goes"
    assert mounted.resident == 2 * MIB
    kept.cool()
    assert hashlib.sha256(kept.path.read_bytes()).digest() == hashlib.sha256(data).digest()


def test_size_is_the_limit_and_gives_enospc(mount: MountFactory) -> None:
    mounted = mount(budget="256K", size="1M")
    kept, data = mounted.open("kept"), os.urandom(MIB)
    assert os.pwrite(kept.fd, data, 0) == MIB
    assert errno_of(os.pwrite, kept.fd, b"x" * PAGE, MIB) == "ENOSPC"
    assert errno_of(os.pwrite, mounted.open("other").fd, b"x", 0) == "ENOSPC"
    assert errno_of(fallocate, mounted.open("other").fd, 0, 0, PAGE) == "ENOSPC"
    assert os.pwrite(kept.fd, data[:PAGE], 0) == PAGE, "rewriting needs no more"
    kept.cool()
    assert kept.path.read_bytes()[:MIB] == data
    os.ftruncate(kept.fd, MIB // 2)
    assert os.pwrite(mounted.open("other").fd, b"x" * PAGE, 0) == PAGE


@pytest.mark.parametrize("budget", ["1M", "768K"])
def test_volatile_data_gives_way_before_enospc(mount: MountFactory, budget: str) -> None:
    mounted = mount(budget=budget, size="1M")
    made = files(mounted, PARTIAL, count=192)
    kept, data = mounted.open("kept"), os.urandom(MIB // 2)
    for at in range(0, len(data), 65536):
        assert os.pwrite(kept.fd, data[at : at + 65536], at) == 65536
    assert kept.path.read_bytes() == data
    assert mounted.within_budget()
    assert lost(made)[0] >= 192 + 128 - 256


def test_statfs_tells_the_size_and_what_is_used(mount: MountFactory) -> None:
    mounted = mount(size="4M")
    before = os.statvfs(mounted.path)
    assert before.f_blocks * before.f_frsize == 4 * MIB
    file = mounted.file("file", 256)
    after = os.statvfs(mounted.path)
    assert (before.f_bfree - after.f_bfree) * after.f_frsize == MIB
    file.mark()
    file.purge()
    assert os.statvfs(mounted.path).f_bfree == before.f_bfree


@pytest.mark.parametrize("steps", [1, 8])
def test_a_smaller_budget_purges_at_once(mount: MountFactory, steps: int) -> None:
    mounted = mount(budget="64M")
    made = files(mounted, *[FULL] * 8, count=64)
    for step in range(1, steps + 1):
        mounted.set_root("budget", str(8 * 64 * PAGE * (steps - step) // steps))
        assert mounted.within_budget()
    assert lost(made) == [64] * 8
    assert mounted.resident == 0


def test_a_larger_budget_brings_nothing_back(mount: MountFactory) -> None:
    mounted = mount(budget="64M")
    made = files(mounted, FULL)
    mounted.set_root("budget", "0")
    assert mounted.within_budget()
    mounted.set_root("budget", "64M")
    assert eventually(lambda: made[0].reads() == "X" * 16)
    assert made[0].unmark() == 16 * PAGE


def test_the_budget_purges_what_mappings_hold_warm(mount: MountFactory) -> None:
    """The purger, like a forced purge, takes the pages out of every shared mapping."""
    mounted = mount(budget="64M")
    made = files(mounted, PARTIAL)
    actor = mounted.actor(made[0]).map("shared")
    assert "X" not in actor.loads()
    lower_by(mounted, 6)
    assert eventually(lambda: actor.loads().count("X") == 6)
    assert actor.loads() == made[0].reads()


def test_the_mount_tells_why_it_purged(mount: MountFactory) -> None:
    mounted = mount(budget="64M")
    made = files(mounted, FULL, FULL)
    lower_by(mounted, 1)
    made[1].purge()
    stats = mounted.stats()
    last = stats["last_purges"]
    assert isinstance(last, list)
    assert [(purge["cause"], purge["bytes"]) for purge in last] == [
        ("budget", 16 * PAGE),
        ("request", 16 * PAGE),
    ]
    assert stats["purged_for"] == {
        "budget": 16 * PAGE,
        "writer": 0,
        "pressure-system": 0,
        "pressure-cgroup": 0,
        "request": 16 * PAGE,
    }


def test_room_for_a_writer_is_a_cause_of_its_own(mount: MountFactory) -> None:
    mounted = mount(budget="8M", size="8M")  # never above the budget: there is no room for it
    mounted.file("old", 1024).mark()
    mounted.file("new", 2000)
    freed = mounted.stats()["purged_for"]
    assert isinstance(freed, dict)
    assert {cause: size for cause, size in freed.items() if size} == {"writer": 4 * MIB}


@pytest.mark.parametrize("wanted", ["64K", "all"])
def test_a_purge_that_is_asked_for_ends_though_others_go_on(
    mount: MountFactory, wanted: str
) -> None:
    """It takes what is volatile now; meanwhile the mount fills, and new marks come."""
    mounted = mount(budget="1G", size="1G")
    old, new, grown = mounted.file("old", 64), mounted.file("new", 16), mounted.open("grown")
    old.mark(behavior=PARTIAL)
    over = threading.Event()

    def go_on() -> None:
        for turn in numbers():
            if over.is_set():
                return
            os.pwrite(grown.fd, bytes(MIB // 2), turn % 1024 * (MIB // 2))
            page = pages(turn % 16, 1)
            new.unmark(*page)
            os.pwrite(new.fd, b"x" * PAGE, page[0])
            new.mark(*page)

    others = threading.Thread(target=go_on)
    others.start()
    try:
        assert eventually(lambda: mounted.resident > 2 * MIB)
        mounted.set_root("purge", wanted)
    finally:
        over.set()
        others.join()
    purged = len(old.purged_pages())
    assert purged == (16 if wanted == "64K" else 64)
