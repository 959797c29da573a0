"""The record of events: bounded, numbered, and honest about what was missed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.names import DIR, Names
from vfs_volatile.core.consent import Mapper, Objection, Place, Rule
from vfs_volatile.core.history import Cause
from vfs_volatile.core.pages import PageSpan, page_set
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.journal import Journal
from vfs_volatile.fs.news import News
from vfs_volatile.fs.polls import Polls
from vfs_volatile.units import PAGE_SIZE

KEPT = 8192


class Stage:
    """A tree, a journal of it, and what purges are told to."""

    def __init__(self) -> None:
        self.tree = Names()
        self.journal = Journal(self.tree.inodes)
        self.news = News(self.tree.inodes, self.journal, Polls())

    def file(self, name: bytes = b"file", pages: int = 4) -> Inode:
        inode = self.tree.make(name)
        assert inode.space is not None
        if pages:
            inode.space.write(0, b"x" * pages * PAGE_SIZE)
        inode.space.mark(0, 0, 0)
        return inode

    def read(self, number: int = 0) -> dict[str, Any]:
        found = json.loads(self.journal.after(number))
        assert isinstance(found, dict)
        return found

    def events(self) -> list[dict[str, Any]]:
        """All events, without what differs from run to run."""
        events: list[dict[str, Any]] = []
        while answer := self.read(len(events))["events"]:
            events += answer
        assert [event.pop("number") for event in events] == list(range(len(events)))
        times = [event.pop("time") for event in events]
        assert times == sorted(times)
        return events

    def keep(self, inode: Inode, *found: Objection) -> None:
        """A purge of the first two pages has met these objections."""
        assert inode.space is not None
        self.news.kept(inode.space, PageSpan(0, 2), found, Cause.BUDGET)

    def blocked(self) -> list[str]:
        return [entry["path"] for entry in json.loads(self.news.blocked())]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def objection(pid: int, first: int = 0, end: int = 4) -> Objection:
    span = PageSpan(first, end)
    place = Place(span, (0x1000, 0x5000))
    mapper = Mapper("someone", page_set(span), True, pid=pid, places=[place])
    return Objection(Rule.PRIVATE, page_set(span), "someone", mapper)


def test_an_event_names_file_bytes_and_what_its_kind_has_more(stage: Stage) -> None:
    above = stage.tree.make(b"above", DIR)
    file = stage.tree.make(b"\xff'\"", parent=above.number)
    assert file.space is not None
    file.space.write(0, b"x" * 10_000)
    stage.journal.record("mark", file.space, [4096], [0], behavior=1, tid=7)
    stage.journal.record("budget", bytes=5)
    common = {"event": "mark", "inode": file.number, "path": "above/\udcff'\""}
    assert stage.events() == [
        {**common, "start": 4096, "length": 10_000 - 4096, "behavior": 1, "tid": 7},
        {"event": "budget", "inode": 0, "path": None, "start": 0, "length": 0, "bytes": 5},
    ]


@pytest.mark.parametrize(
    ("spans", "start", "length"),
    [
        ([(100, 50)], 100, 50),
        ([(0, 0)], 0, 16384),
        ([(16000, 4096)], 16000, 384),
        ([(99999, 5)], 99999, 0),
        ([(300, 100), (0, 20), (310, 5)], 0, 400),
        ([(300, 0), (100, 20)], 100, 16284),
    ],
)
def test_several_ranges_are_one_event_from_the_first_to_the_last(
    stage: Stage, spans: list[tuple[int, int]], start: int, length: int
) -> None:
    starts, lengths = zip(*spans, strict=True)
    stage.journal.record("unmark", stage.file().space, starts, lengths)
    (event,) = stage.events()
    assert (event["start"], event["length"]) == (start, length)
    assert event.get("ranges", 1) == len(spans)


def test_the_name_is_that_of_the_moment(stage: Stage) -> None:
    file = stage.file()
    file.lookups = 1
    stage.journal.record("mark", file.space)
    stage.tree.rename(1, b"file", 1, b"other", 0)
    stage.journal.record("mark", file.space)
    stage.tree.unlink(1, b"other")
    stage.journal.record("mark", file.space)
    assert [event["path"] for event in stage.events()] == ["file", "other", None]


def test_a_slow_reader_is_told_how_many_it_missed(stage: Stage) -> None:
    space = stage.file().space
    for _ in range(KEPT + 100):
        stage.journal.record("mark", space)
    answer = stage.read(50)
    assert answer["missed"] == 50
    assert answer["events"][0]["number"] == 100
    assert stage.read(100)["missed"] == 0
    assert len(stage.journal._ring) == KEPT


def test_an_answer_is_bounded_and_the_next_goes_on(stage: Stage) -> None:
    deep = 1
    for _ in range(40):
        deep = stage.tree.make(b"\xff" * 250, DIR, deep).number
    space = stage.tree.make(b"file", parent=deep).space
    for _ in range(50):
        stage.journal.record("mark", space)
    assert len(stage.journal.after(0)) <= 16 << 10
    assert stage.read()["next"] == len(stage.read()["events"]) < 50
    assert stage.read()["more"]
    assert len(stage.events()) == 50


def test_beyond_the_end_there_is_nothing_yet(stage: Stage) -> None:
    stage.journal.record("budget")
    mount = stage.read()["mount"]
    nothing = {"mount": mount, "next": 1, "more": False, "missed": 0, "events": []}
    assert stage.read(1) == stage.read(10**18) == nothing


def test_a_purge_is_told_with_the_pages_it_took(stage: Stage) -> None:
    file = stage.file()
    assert file.space is not None
    drain = file.space.begin_purge([PageSpan(0, 1), PageSpan(2, 3)], 99)
    file.space.end_purge(drain)
    stage.news.purged(drain, Cause.BUDGET)
    stage.news.purged(file.space.begin_purge([PageSpan(0, 1)], 99), Cause.BUDGET)
    (event,) = stage.events()
    assert (event["start"], event["length"], event["bytes"]) == (0, 3 * PAGE_SIZE, 2 * PAGE_SIZE)
    assert event["cause"] == "budget"
    assert file.purges == 1


def test_a_block_names_those_who_forbid_just_these_pages(stage: Stage) -> None:
    stage.keep(stage.file(), objection(1, 1, 4), objection(5, 2, 4))
    (event,) = stage.events()
    (by,) = event["by"]
    command = by.pop("command")
    assert isinstance(command, str)
    assert by == {
        "rule": "private-mapping",
        "pid": 1,
        "start": PAGE_SIZE,
        "length": PAGE_SIZE,
        "addresses": [0x1000, 0x5000],
    }


def test_the_same_block_is_told_once_until_it_ends_or_others_block(stage: Stage) -> None:
    file = stage.file()
    for _ in range(3):
        stage.keep(file, objection(1))
    assert len(stage.events()) == 1
    stage.keep(file, objection(1), objection(2))
    assert len(stage.events()) == 2
    stage.news.freed(file.number)
    assert stage.blocked() == []
    stage.keep(file, objection(1), objection(2))
    assert len(stage.events()) == 3


def test_who_blocks_is_bounded(stage: Stage) -> None:
    stage.keep(stage.file(), *(objection(pid) for pid in range(1, 100)))
    (event,) = stage.events()
    assert len(event["by"]) == 9
    assert event["by"][-1] == {"rule": "more", "count": 91}


def test_the_blocked_files_are_bounded(stage: Stage) -> None:
    for number in range(1100):
        stage.keep(stage.file(b"%d" % number, pages=0), objection(1))
    assert len(stage.events()) == 1000
    assert len(stage.news._blocked) == 1000


def test_what_is_not_volatile_any_more_is_not_blocked(stage: Stage) -> None:
    one, two = stage.file(b"one"), stage.file(b"two")
    stage.keep(one, objection(1))
    stage.keep(two, objection(1))
    stage.keep(one, objection(1))
    assert stage.blocked() == ["one", "two"]
    assert one.space is not None
    one.space.unmark(0, 0)
    assert stage.blocked() == ["two"]
    stage.tree.unlink(1, b"two")
    assert stage.blocked() == []


def test_without_memory_an_event_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked for what it tells is answered all the same."""

    def no_memory(*_: object) -> None:
        raise MemoryError

    stage = Stage()
    space = stage.file().space
    with monkeypatch.context() as patch:
        patch.setattr("vfs_volatile.fs.journal.Event", no_memory)
        stage.journal.record("unmark", space, purged=PAGE_SIZE)
    assert stage.events() == []
    stage.journal.record("mark", space)
    assert [event["event"] for event in stage.events()] == ["mark"]
