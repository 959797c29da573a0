"""Looking at processes: what they map, who they are, how they come and go. All of them are real."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.files import content
from tests.support.fvrange import PAGE
from tests.support.voter import Stage, Voter
from tests.support.waiting import PATIENCE, eventually
from vfs_volatile.core.consent import Mapper
from vfs_volatile.core.pages import PageSpan, page_set
from vfs_volatile.errors import SyscallError
from vfs_volatile.native import procmap
from vfs_volatile.processes import mappings as mappers
from vfs_volatile.processes.connector import (
    Event,
    Exec,
    Fork,
    ProcessEvents,
    ThreadEnd,
    subscribe,
)
from vfs_volatile.processes.identity import identify, look_at, process_of_thread
from vfs_volatile.processes.kernel import Kernel
from vfs_volatile.processes.mappings import MappingScanner
from vfs_volatile.processes.maps import (
    Columns,
    Mapping,
    OwnMount,
    Piece,
    Query,
    mapped_pages,
    parse_maps,
    pieces_at,
    query_text,
    read_maps,
)
from vfs_volatile.processes.openers import Openers, boot_ticks

TMPFS = "/dev/shm"
"""Any mount will do to look for mappings of its files."""
NO_INODE = 1 << 60
NO_PID = 1 << 23
"""More than any process has (PID_MAX_LIMIT)."""


def pages_of(mapping: Mapping) -> PageSpan:
    return mapped_pages(mapping.start, mapping.end, mapping.offset)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


@pytest.fixture
def file() -> Iterator[Path]:
    """Eight pages."""
    path = Path(TMPFS) / f"vfs-volatile-{uuid4()}"
    path.write_bytes(content(8))
    yield path
    path.unlink(missing_ok=True)


def mappings(pid: int, ino: int) -> list[Mapping]:
    return [found for found in parse_maps(read_maps(pid)) if found.ino == ino]


# ---- maps ----

TEXT = b"""\
55f0c8a00000-55f0c8a02000 r--p 00000000 fe:01 1234                       /usr/bin/a program
55f0c8c00000-55f0c8c21000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000003000 rw-s 00005000 00:2e 7                          /mnt/file (deleted)
7f0000004000-7f0000005000 r--p 00001000 00:2e 18446744073709551615       /mnt/odd\\012name 1-2 rw-s
7fffffffe000-7ffffffff000 ---p 00000000 00:00 0
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_lines_of_maps() -> None:
    found = list(parse_maps(TEXT))
    assert len(found) == 6
    assert found[2] == Mapping(
        0x7F0000000000,
        0x7F0000003000,
        writable=True,
        shared=True,
        offset=0x5000,
        device=b"00:2e",
        ino=7,
    )
    assert pages_of(found[2]) == PageSpan(5, 8)
    assert [(at.writable, at.shared) for at in found[3:5]] == [(False, False), (False, False)]
    assert found[3].ino == 2**64 - 1


def test_mappings_of_a_real_process(stage: Stage, file: Path) -> None:
    ino = file.stat().st_ino
    (shared,) = mappings(stage.voter().map(file, "shared", 2, 3).pid, ino)
    assert (shared.shared, shared.writable, pages_of(shared)) == (True, True, PageSpan(2, 5))
    private = stage.voter().map(file, "private", 7)
    file.unlink()
    (found,) = mappings(private.pid, ino)
    assert (found.shared, pages_of(found)) == (False, PageSpan(7, 8)), "deleted, and still mapped"
    assert found.device == OwnMount(TMPFS).device
    private.unmap()
    assert mappings(private.pid, ino) == []


def test_a_process_without_memory_or_without_being_has_no_maps(stage: Stage) -> None:
    voter = stage.voter()
    voter.exit()
    with pytest.raises((ProcessLookupError, FileNotFoundError)):
        read_maps(voter.pid)
    with subprocess.Popen(["true"]) as zombie:
        assert eventually(lambda: b") Z " in Path(f"/proc/{zombie.pid}/stat").read_bytes())
        with pytest.raises((ProcessLookupError, FileNotFoundError)):
            read_maps(zombie.pid)


def test_any_thread_of_a_process_tells_its_maps(stage: Stage, file: Path) -> None:
    voter = stage.voter().map(file)
    voter.drop_first_thread()
    (thread,) = [
        int(name) for name in os.listdir(f"/proc/{voter.pid}/task") if int(name) != voter.pid
    ]
    assert len(mappings(thread, file.stat().st_ino)) == 1
    assert process_of_thread(thread) == voter.pid


# ---- what addresses mean ----


def vma(start: int, end: int, offset: int = 0, ino: int = 1) -> Mapping:
    """A mapping, all in pages."""
    return Mapping(start * PAGE, end * PAGE, True, True, offset * PAGE, b"00:2e", ino)


def test_pieces_are_cut_at_mappings() -> None:
    one, two, far = vma(10, 14, offset=3), vma(14, 16, ino=2), vma(20, 30)
    assert pieces_at([one, two, far], 11 * PAGE, 4 * PAGE) == [
        Piece(one, 4 * PAGE, 3 * PAGE),
        Piece(two, 0, PAGE),
    ]


def test_pieces_are_exact_to_the_byte() -> None:
    one = vma(10, 14, offset=3)
    assert pieces_at([one], 10 * PAGE + 5, 7) == [Piece(one, 3 * PAGE + 5, 7)]
    two = vma(14, 15)
    assert pieces_at([one, two], 14 * PAGE - 1, 2) == [
        Piece(one, 7 * PAGE - 1, 1),
        Piece(two, 0, 1),
    ]


@pytest.mark.parametrize(
    ("start", "length"), [(8, 3), (9, 1), (13, 2), (15, 1), (12, 5), (40, 1), (10, 30)]
)
def test_a_hole_anywhere_is_enomem(start: int, length: int) -> None:
    with pytest.raises(SyscallError) as failure:
        pieces_at([vma(10, 14), vma(16, 20)], start * PAGE, length * PAGE)
    assert failure.value.errno == errno.ENOMEM


# ---- who is who ----


def test_fork_keeps_the_memory_and_exec_does_not(stage: Stage) -> None:
    parent = stage.voter()
    child = parent.fork()
    before = look_at(child.pid)
    mother = identify(parent.pid)
    assert before is not None
    assert mother is not None
    assert before.parent == parent.pid
    assert before.id.stack == mother.stack != 0
    assert before.id != mother
    child.exec()
    after = identify(child.pid)
    assert after is not None
    assert (after.pid, after.born) == (before.id.pid, before.id.born)
    assert after.stack not in (0, before.id.stack)


def test_a_process_keeps_its_identity_while_it_lives(stage: Stage) -> None:
    voter = stage.voter()
    before = identify(voter.pid)
    voter.drop_first_thread()
    assert identify(voter.pid) == before is not None
    voter.exit()
    assert identify(voter.pid) is None
    assert look_at(voter.pid) is None
    assert process_of_thread(voter.pid) is None


def test_a_process_whose_name_looks_like_a_stat_line() -> None:
    name = Path(f"/proc/{os.getpid()}/comm")
    before, own = name.read_text(), identify(os.getpid())
    try:
        name.write_text(") R 1 2 (x")
        assert identify(os.getpid()) == own
    finally:
        name.write_text(before)


# ---- the proc connector ----


@pytest.fixture
def events() -> Iterator[ProcessEvents]:
    found = subscribe()
    if found is None:
        pytest.skip("the proc connector is for root in the first namespaces")
    yield found
    found.close()


def seen(events: ProcessEvents, pids: set[int], until: Event) -> list[Event]:
    """The events of these processes up to ``until``."""
    found: list[Event] = []

    def arrived() -> bool:
        found.extend(event for event in events.pending() if not pids.isdisjoint(event))
        return any(type(event) is type(until) and event == until for event in found)

    assert eventually(arrived), f"{until} did not come: {found}"
    return found


def test_fork_exec_and_exit_come_in_order(stage: Stage, events: ProcessEvents) -> None:
    parent = stage.voter()
    events.pending()
    child = parent.fork()
    child.exec()
    child.exit()
    assert seen(events, {child.pid}, ThreadEnd(child.pid)) == [
        Fork(parent.pid, child.pid),
        Exec(child.pid),
        ThreadEnd(child.pid),
    ]


def test_a_fork_is_known_before_the_child_says_its_first_word(
    stage: Stage, events: ProcessEvents
) -> None:
    parent = stage.voter()
    for _ in range(20):
        events.pending()
        child = parent.fork()
        assert Fork(parent.pid, child.pid) in events.pending()


def test_a_new_thread_is_no_new_process(stage: Stage, file: Path, events: ProcessEvents) -> None:
    voter = stage.voter().map(file)
    events.pending()
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        voter.agree_in_a_thread(0, 1)
    child = voter.fork()
    found = seen(events, {voter.pid}, Fork(voter.pid, child.pid))
    assert [event for event in found if isinstance(event, Fork)] == [Fork(voter.pid, child.pid)]


def test_more_events_than_fit_are_noticed(events: ProcessEvents) -> None:
    """Two thousand processes come and go while nobody reads; what is lost is not passed over."""
    events.socket.setsockopt(1, 8, 1)  # SOL_SOCKET, SO_RCVBUF: the smallest there is
    program = "import os\nfor _ in range(200):\n os.fork() or os._exit(0)\n os.wait()"
    subprocess.run([sys.executable, "-S", "-c", program], check=True, timeout=PATIENCE)
    events.pending()
    assert events.overrun


# ---- who may have a file mapped ----


def test_a_process_older_than_the_first_open_has_it_only_if_it_opened(stage: Stage) -> None:
    older, opener = stage.voter(), stage.voter()
    last = identify(opener.pid)
    assert last is not None
    assert eventually(lambda: boot_ticks() > last.born)
    openers = Openers()
    openers.add(opener.pid)
    assert openers.may_include(opener.pid)
    assert not openers.may_include(older.pid)
    assert openers.may_include(older.fork().pid), "younger: it may be anybody's child"
    opener.exit()
    assert not openers.may_include(opener.pid)


def test_any_thread_may_have_been_the_opener(stage: Stage) -> None:
    voter = stage.voter()
    voter.drop_first_thread()
    (thread,) = [
        int(name) for name in os.listdir(f"/proc/{voter.pid}/task") if int(name) != voter.pid
    ]
    assert eventually(lambda: boot_ticks() > (identify(voter.pid) or (0, 0))[1])
    openers = Openers()
    assert not openers.may_include(voter.pid)
    openers.add(thread)
    assert openers.may_include(voter.pid)


def test_an_opener_that_cannot_be_seen() -> None:
    openers = Openers()
    assert not openers.unseen
    openers.add(0)
    assert openers.unseen


def test_a_process_whose_opening_thread_has_ended_may_have_the_file_mapped() -> None:
    openers = Openers()
    openers.since += 10**6
    assert not openers.may_include(os.getpid())
    thread = threading.Thread(target=lambda: openers.add(threading.get_native_id()))
    thread.start()
    thread.join()
    assert openers.may_include(os.getpid())


def test_openers_that_have_ended_take_no_memory() -> None:
    """Of a file that stays open, and that one short-lived process after the other opens."""
    openers = Openers()
    openers.since += 10**6
    openers.add(os.getpid())
    for number in range(1000):
        openers.add(NO_PID + number)
        assert len(openers.tids) < 100
    assert openers.may_include(os.getpid())


# ---- who maps a file ----

QUERIES = [query_text, *([procmap.query] if procmap.available() else [])]


@pytest.fixture(params=QUERIES, ids=["text", "ioctl"][: len(QUERIES)])
def query(request: pytest.FixtureRequest) -> Query:
    found: Query = request.param
    return found


def scan(
    file: Path | int, query: Query = query_text, openers: Openers | None = None
) -> list[Mapper]:
    """Who maps the file; an int is its inode."""
    ino = file if isinstance(file, int) else file.stat().st_ino
    scanner = MappingScanner(OwnMount(TMPFS), Kernel(query), only_uid=None)
    return scanner.scan({ino: openers or Openers()}).of(ino)


def mapper(voter: Voter, first: int, end: int, *, private: bool = False) -> Mapper:
    return Mapper(identify(voter.pid), page_set(PageSpan(first, end)), private)


def test_all_mappers_are_found(stage: Stage, file: Path, query: Query) -> None:
    shared = stage.voter().map(file, "shared", 1, 4)
    private = stage.voter().map(file, "private", 3)
    child = private.fork()
    stage.voter()
    found = scan(file, query)
    expected = [
        mapper(shared, 1, 5),
        mapper(private, 3, 8, private=True),
        mapper(child, 3, 8, private=True),
    ]
    assert len(found) == len(expected)
    assert all(one in found for one in expected)
    ino = file.stat().st_ino
    file.unlink()
    assert len(scan(ino, query)) == 3
    assert scan(NO_INODE, query) == []


def test_a_process_whose_first_thread_has_ended_is_a_mapper_still(
    stage: Stage, file: Path, query: Query
) -> None:
    voter = stage.voter().map(file, "private", 2, 2)
    expected = [mapper(voter, 2, 4, private=True)]
    voter.drop_first_thread()
    assert scan(file, query) == expected


def test_a_child_of_a_parent_that_ends_during_the_look_is_found(
    stage: Stage, file: Path, query: Query
) -> None:
    """The parent is in the list of processes and ends before its turn; the child is not in it."""
    parent = stage.voter().map(file, "private")
    children: list[Voter] = []

    def delayed(pid: int, major: int, minor: int) -> Iterable[Columns]:
        if not children:
            children.append(parent.fork())
            parent.exit()
        return query(pid, major, minor)

    found = scan(file, delayed)
    assert found == [mapper(children[0], 0, 8, private=True)]


def test_what_cannot_be_read_counts_as_a_private_mapper(stage: Stage, file: Path) -> None:
    hidden, other = stage.voter().map(file), stage.voter()

    def refused(pid: int, major: int, minor: int) -> Iterable[Columns]:
        if pid in (hidden.pid, other.pid):
            raise PermissionError
        return query_text(pid, major, minor)

    youngest = identify(other.pid)
    assert youngest is not None
    assert eventually(lambda: boot_ticks() > youngest.born)
    openers = Openers()
    openers.add(hidden.pid)
    scanner = MappingScanner(OwnMount(TMPFS), Kernel(refused), only_uid=None)
    found = scanner.scan({file.stat().st_ino: openers})
    assert found.of(file.stat().st_ino) == [Mapper(None, None, private=True)]
    assert found.unreadable == {hidden.pid}, "the other is older than the open, and no opener"
    elsewhere = MappingScanner(OwnMount(TMPFS), Kernel(refused), only_uid=os.getuid() + 12345)
    assert elsewhere.scan({file.stat().st_ino: openers}).unreadable == set(), "cannot get there"


def test_an_unseen_opener_counts_as_a_private_mapper(file: Path) -> None:
    openers = Openers()
    openers.add(0)
    assert scan(file, openers=openers) == [Mapper(None, None, private=True)]


def test_processes_that_come_faster_than_the_look_block(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at a process sees a new one born: it ends, and says that it does not know."""
    monkeypatch.setattr(mappers, "_CHASE_SECONDS", 0.2)
    born: list[subprocess.Popen[bytes]] = []

    def breeding(pid: int, major: int, minor: int) -> Iterable[Columns]:
        if not born or pid == born[-1].pid:
            born.append(subprocess.Popen(["sleep", "30"]))
        return []

    try:
        assert Mapper(None, None, private=True) in scan(file, breeding)
    finally:
        for process in born:
            process.kill()
            process.wait(timeout=PATIENCE)


class Busy(Kernel):
    """One new process each time somebody reads the list, for a while."""

    def __init__(self, births: int) -> None:
        super().__init__()
        self.births = births

    def pids(self) -> set[int]:
        self.births -= 1
        return super().pids() | ({NO_PID + self.births} if self.births > 0 else set())


def test_a_look_goes_on_while_a_busy_machine_starts_processes(file: Path) -> None:
    scanner = MappingScanner(OwnMount(TMPFS), Busy(100), only_uid=None)
    assert scanner.scan({file.stat().st_ino: Openers()}).of(file.stat().st_ino) == []


def test_a_process_that_stays_unreadable_is_waited_for_once_and_forgotten(
    stage: Stage, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mappers, "_PATIENCE_SECONDS", 0.1)
    hidden = stage.voter().map(file)

    def refused(pid: int, major: int, minor: int) -> Iterable[Columns]:
        if pid == hidden.pid:
            raise PermissionError
        return query_text(pid, major, minor)

    scanner = MappingScanner(OwnMount(TMPFS), Kernel(refused), only_uid=None)
    opened = {file.stat().st_ino: Openers()}
    opened[file.stat().st_ino].add(hidden.pid)
    assert scanner.scan(opened).waited > 0
    assert scanner.scan(opened).waited == 0
    assert scanner._stay_unreadable == {identify(hidden.pid)}
    hidden.exit()
    scanner.scan(opened)
    assert scanner._stay_unreadable == set()
