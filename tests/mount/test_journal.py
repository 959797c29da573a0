"""What the root tells of marks, unmarks, purges and blocks, and to whom."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from tests.parity.sides import USER, as_user, attempt
from tests.support.errnos import errno_of
from tests.support.files import VFile
from tests.support.fvrange import PAGE, PARTIAL
from tests.support.mount import Mount, MountFactory
from tests.support.waiting import eventually
from vfs_volatile import VRANGE_NONVOLATILE, VRANGE_VOLATILE, fvrange_many, mvrange


class Reader:
    """Reads the events of a mount from now on."""

    def __init__(self, mounted: Mount) -> None:
        self._mounted = mounted
        self.next = self._ask(10**18)["next"]

    def _ask(self, number: int) -> dict[str, Any]:
        found = json.loads(os.getxattr(self._mounted.path, f"user.vfs_volatile.events.{number}"))
        assert isinstance(found, dict)
        return found

    def events(self) -> list[dict[str, Any]]:
        """What came since it was asked last."""
        answer = self._ask(self.next)
        self.next = answer["next"]
        return list(answer["events"])

    def brief(self, *more: str) -> list[tuple[object, ...]]:
        """The same as (event, path, start, length) in pages, and what else is asked for."""
        return [
            (
                event["event"],
                event["path"],
                event["start"] / PAGE,
                event["length"] / PAGE,
                *(event.get(name) for name in more),
            )
            for event in self.events()
        ]


@pytest.fixture
def file(fs: Mount) -> VFile:
    return fs.file("file", 4)


@pytest.fixture
def reader(fs: Mount, file: VFile) -> Reader:
    return Reader(fs)


def test_marks_and_unmarks_by_ioctl(file: VFile, reader: Reader) -> None:
    file.mark(PAGE, 2 * PAGE, PARTIAL)
    file.unmark()
    me = os.getpid()
    assert reader.brief("behavior", "purged", "tid") == [
        ("mark", "file", 1, 2, PARTIAL, None, me),
        ("unmark", "file", 0, 4, None, 0, me),
    ]
    assert reader.events() == []


def test_marks_and_unmarks_by_attribute(file: VFile, reader: Reader) -> None:
    file.set_attribute("volatile", "0+4096,8192+4096;partial")
    file.set_attribute("nonvolatile", "0+4096")
    os.removexattr(file.path, "user.fvrange.volatile")
    assert reader.brief("ranges", "tid") == [
        ("mark", "file", 0, 3, 2, os.getpid()),
        ("unmark", "file", 0, 1, None, os.getpid()),
        ("unmark", "file", 0, 4, None, os.getpid()),
    ]


def test_many_ranges_in_one_call_are_one_event(file: VFile, reader: Reader) -> None:
    both = [(0, PAGE), (2 * PAGE, PAGE)]
    fvrange_many(file.fd, both, VRANGE_VOLATILE)
    file.purge(0, PAGE)
    reader.events()
    fvrange_many(file.fd, both, VRANGE_NONVOLATILE)
    assert reader.brief("ranges", "purged") == [("unmark", "file", 0, 3, 2, PAGE)]


def test_marks_by_address(file: VFile, reader: Reader) -> None:
    with mmap.mmap(file.fd, 4 * PAGE) as mapped:
        mvrange(mapped, 2 * PAGE, VRANGE_VOLATILE, fd=file.fd)
        mvrange(mapped, PAGE, VRANGE_NONVOLATILE, fd=file.fd)
    assert reader.brief("vote") == [("mark", "file", 0, 2, None), ("unmark", "file", 0, 1, None)]


def test_votes_say_that_they_are_votes(mount: MountFactory) -> None:
    mounted = mount(semantics="kim")
    file = mounted.file("file", 2)
    reader = Reader(mounted)
    with mmap.mmap(file.fd, 2 * PAGE) as mapped:
        mvrange(mapped, 2 * PAGE, VRANGE_VOLATILE, fd=file.fd)
        assert reader.brief("vote") == [("mark", "file", 0, 2, True)]


def test_a_call_that_fails_is_no_event(file: VFile, reader: Reader) -> None:
    assert errno_of(file.mark, 0, 0, 1 << 30) == "EINVAL"
    assert errno_of(file.set_attribute, "volatile", "x") == "EINVAL"
    assert reader.events() == []


def test_a_purge_and_what_unmarking_finds(file: VFile, reader: Reader) -> None:
    file.mark()
    reader.events()
    file.purge(PAGE, 2 * PAGE)
    file.unmark()
    assert reader.brief("bytes", "cause", "purged") == [
        ("purge", "file", 1, 2, 2 * PAGE, "request", None),
        ("unmark", "file", 0, 4, None, None, 2 * PAGE),
    ]


def test_the_budget_and_what_it_purges(mount: MountFactory) -> None:
    mounted = mount(budget="64M")
    os.mkdir(mounted.path / "below")
    file = mounted.file("below/file", 4)
    file.mark()
    reader = Reader(mounted)
    mounted.set_root("budget", "4096")
    assert mounted.within_budget()
    assert reader.brief("bytes", "cause") == [
        ("budget", None, 0, 0, 4096, None),
        ("purge", "below/file", 0, 4, 4 * PAGE, "budget"),
    ]


def test_a_file_without_a_name(file: VFile, reader: Reader) -> None:
    file.path.unlink()
    file.mark()
    assert reader.brief() == [("mark", None, 0, 4)]


def test_marks_that_end_with_the_last_close(mount: MountFactory) -> None:
    mounted = mount(semantics="stultz")
    file = mounted.file("file", 2)
    file.mark()
    reader = Reader(mounted)
    file.close()
    assert eventually(lambda: reader.brief("cause") == [("unmark", "file", 0, 2, "last-close")])


def test_a_block_says_who_and_why(fs: Mount, file: VFile, reader: Reader) -> None:
    file.mark()
    actor = fs.actor(file, "r").map("private", "r", 1, 2)
    reader.events()
    file.purge(0, 2 * PAGE)
    block, purge = reader.events()
    assert (block["event"], block["path"]) == ("block", "file")
    assert (block["start"], block["length"]) == (PAGE, PAGE)
    (by,) = block["by"]
    start, end = by.pop("addresses")
    assert end - start == 2 * PAGE
    assert by == {
        "rule": "private-mapping",
        "pid": actor.pid,
        "command": "probe",
        "start": PAGE,
        "length": PAGE,
    }
    assert purge["bytes"] == PAGE
    (blocked,) = json.loads(os.getxattr(fs.path, "user.vfs_volatile.blocked"))
    assert blocked["path"] == "file"
    assert blocked["by"][0]["pid"] == actor.pid
    actor.unmap()
    file.purge()
    assert json.loads(os.getxattr(fs.path, "user.vfs_volatile.blocked")) == []


def test_a_block_by_votes(mount: MountFactory) -> None:
    mounted = mount(semantics="kim")
    file = mounted.file("file", 2)
    silent = mounted.actor(file).map("shared")
    reader = Reader(mounted)
    with mmap.mmap(file.fd, 2 * PAGE) as mapped:
        mvrange(mapped, 2 * PAGE, VRANGE_VOLATILE, fd=file.fd)
        file.purge()
        silent.unmap()
        file.mark()
        mvrange(mapped, PAGE, VRANGE_NONVOLATILE, fd=file.fd)
        file.purge()
        blocks = [event for event in reader.events() if event["event"] == "block"]
    assert [
        (by["rule"], by["pid"], by["start"], by["length"]) for event in blocks for by in event["by"]
    ] == [("not-agreed", silent.pid, 0, 2 * PAGE), ("held", os.getpid(), 0, PAGE)]


def test_what_is_not_volatile_or_is_gone_already_is_not_blocked(
    fs: Mount, file: VFile, reader: Reader
) -> None:
    file.mark(0, 2 * PAGE)
    file.purge(0, PAGE)
    reader.events()
    before = fs.stats()["blocked_purges"]
    fs.actor(file, "r").map("private", "r", 0, 1)
    fs.actor(file, "r").map("private", "r", 2, 2)
    file.purge()
    assert reader.brief() == [("purge", "file", 1, 1)]
    assert fs.stats()["blocked_purges"] == before


def test_a_purger_that_tries_again_does_not_repeat_itself(mount: MountFactory) -> None:
    mounted = mount(budget="64M")
    file = mounted.file("file", 8)
    file.mark()
    mounted.actor(file, "r").map("private", "r")
    reader = Reader(mounted)
    mounted.set_root("budget", "4096")
    assert eventually(lambda: int(str(mounted.stats()["blocked_purges"])) >= 3)
    assert [event["event"] for event in reader.events()] == ["budget", "block"]


def test_who_blocks_a_file_now(fs: Mount, file: VFile) -> None:
    assert json.loads(file.attribute("blockers")) == []
    actor = fs.actor(file, "r").map("private", "r", 2, 1)
    (by,) = json.loads(file.attribute("blockers"))
    assert (by["pid"], by["rule"]) == (actor.pid, "private-mapping")
    assert (by["start"], by["length"]) == (2 * PAGE, PAGE)
    actor.unmap()
    assert json.loads(file.attribute("blockers")) == []


def test_the_files_with_most_volatile_data(fs: Mount) -> None:
    for pages in (3, 5, 1):
        fs.file(f"file{pages}", pages).mark()
    fs.file("plain", 9)
    purged = fs.file("purged", 20)
    purged.mark()
    purged.purge(0, 18 * PAGE)
    found = json.loads(os.getxattr(fs.path, "user.vfs_volatile.files.volatile"))
    assert [entry["path"] for entry in found] == ["file5", "file3", "purged", "file1"]
    assert found[2] == {
        "inode": os.stat(purged.path).st_ino,
        "path": "purged",
        "size": 20 * PAGE,
        "resident": 2 * PAGE,
        "volatile": 20 * PAGE,
        "purged": 18 * PAGE,
        "opens": 1,
    }
    for order in ("purged", "resident"):
        found = json.loads(os.getxattr(fs.path, f"user.vfs_volatile.files.{order}"))
        assert found[0]["path"] == {"purged": "purged", "resident": "plain"}[order]
        assert len(found) == {"purged": 1, "resident": 5}[order]


def test_calls_are_counted(fs: Mount, file: VFile) -> None:
    before = fs.stats()
    file.mark()
    file.set_attribute("volatile", "all")
    file.purge(0, PAGE)
    file.unmark()
    names = ("marks", "unmarks", "unmarked_purged")
    grown = [int(str(fs.stats()[name])) - int(str(before[name])) for name in names]
    assert grown == [2, 1, PAGE]


@pytest.mark.parametrize("name", ["events.", "events.x", "events.-1", "events." + "9" * 30])
def test_a_bad_number_is_einval(fs: Mount, name: str) -> None:
    assert errno_of(os.getxattr, fs.path, f"user.vfs_volatile.{name}") == "EINVAL"


@pytest.mark.parametrize("name", ["events.0", "blocked", "files.volatile"])
def test_they_cannot_be_set(fs: Mount, name: str) -> None:
    assert errno_of(fs.set_root, name, "1") == "EPERM"


def test_strangers_learn_nothing(mount: MountFactory) -> None:
    mounted = mount(**{"allow-other": "-onosuid"})
    mounted.file("file", 2).mark()
    assert as_user(_ask_around, mounted.path) == ["EPERM"] * 5


def _ask_around(here: Path) -> list[object]:
    of_root = [f"user.vfs_volatile.{name}" for name in ("events.0", "blocked", "files.volatile")]
    return [
        *(attempt(os.getxattr, here, name) for name in of_root),
        attempt(os.getxattr, here / "file", "user.fvrange.blockers"),
        attempt(os.getxattr, here, "user.vfs_volatile.volatile"),
    ]


def test_the_owner_of_a_file_learns_who_blocks_it(mount: MountFactory) -> None:
    mounted = mount(**{"allow-other": "-onosuid"})
    file = mounted.file("file", 2)
    os.chown(file.path, USER, USER)
    name = "user.fvrange.blockers"
    assert as_user(lambda here: [os.getxattr(here / "file", name)], mounted.path) == [b"[]"]
