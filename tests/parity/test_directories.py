"""Reading directories, also while they change, and the notices of inotify."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.parity.calls import Entry, getdents, handle_of, open_by_handle
from tests.parity.sides import attempt, look, made, on_both, opened, try_open

COUNT = 500


def names(entries: list[Entry]) -> list[bytes]:
    return [entry.name for entry in entries]


def everything(fd: int, size: int = 1 << 15) -> list[Entry]:
    found: list[Entry] = []
    while more := getdents(fd, size):
        found += more
    return found


@on_both
def test_entries(here: Path) -> Iterator[object]:
    """All of them, with . and .., each with its type and the number that stat(2) gives."""
    made(here / "file")
    (here / "dir").mkdir()
    os.symlink("x", here / "link")
    os.mkfifo(here / "fifo")
    os.mknod(here / "device", stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(here / "socket", stat.S_IFSOCK)
    made(here / ("n" * 255))
    for directory in (here, here / "dir"):
        with opened(directory, os.O_RDONLY) as fd:
            yield sorted(
                (
                    entry.name,
                    entry.type,
                    entry.ino == os.lstat(os.fsencode(directory) + b"/" + entry.name).st_ino,
                )
                for entry in everything(fd)
            )
            yield getdents(fd), attempt(getdents, fd, 10), os.lseek(fd, 0, os.SEEK_SET)
            yield attempt(getdents, fd, 20), attempt(getdents, fd, 1), len(everything(fd))


@on_both
def test_names_come_once_while_others_come_and_go(here: Path) -> Iterator[object]:
    """None twice, and none lost that was there all the time."""
    for number in range(COUNT):
        made(here / f"stays{number}")
        made(here / f"goes{number}")
    found: list[bytes] = []
    with opened(here, os.O_RDONLY) as fd:
        number = 0
        while more := names(getdents(fd, 2000)):
            found += more
            for _ in range(30):
                if number < COUNT:
                    os.unlink(here / f"goes{number}")
                    made(here / f"comes{number}")
                    os.rename(here / f"comes{number}", here / f"came{number}")
                number += 1
    stayed = [name for name in found if name.startswith(b"stays")]
    yield len(stayed), len(set(stayed)), len(found) == len(set(found))
    yield len(os.listdir(here)), look(here)


@on_both
def test_renaming_all_while_reading(here: Path) -> Iterator[object]:
    """It comes to an end, and no name that stays is left out; a new start shows all."""
    for number in range(COUNT):
        made(here / f"file{number}")
    with opened(here, os.O_RDONLY) as fd:
        made(here / "made after opening")
        rounds = 0
        while (more := names(getdents(fd, 500))) and rounds < COUNT:
            rounds += 1
            for name in more:
                if name.startswith((b"file", b"again")):
                    new = name.replace(b"file", b"again") + b"n"
                    os.rename(os.fsencode(here) + b"/" + name, os.fsencode(here) + b"/" + new)
        yield rounds < COUNT
        os.lseek(fd, 0, os.SEEK_SET)
        yield len(everything(fd)), sorted(os.listdir(here))


@on_both
def test_removing_all_while_reading(here: Path) -> Iterator[object]:
    """As rm -r does it."""
    for number in range(COUNT):
        made(here / f"file{number}")
    with opened(here, os.O_RDONLY) as fd:
        while more := names(getdents(fd, 3000)):
            for name in more:
                if not name.startswith(b"."):
                    os.unlink(name, dir_fd=fd)
        yield os.listdir(here), look(here)


@on_both
def test_places_in_a_directory(here: Path) -> Iterator[object]:
    """telldir and seekdir: d_off leads to the entries that follow, also when some have gone."""
    for number in range(50):
        made(here / f"file{number}")
    with opened(here, os.O_RDONLY) as fd:
        entries = everything(fd)
        yield len(entries)
        for number in (0, 1, 2, 10, 30, len(entries) - 1):
            os.lseek(fd, entries[number].offset, os.SEEK_SET)
            yield number, names(everything(fd)) == names(entries[number + 1 :])
        gone = entries[20]
        os.unlink(here / os.fsdecode(gone.name))
        os.lseek(fd, gone.offset, os.SEEK_SET)
        yield names(everything(fd)) == names(entries[21:])
        os.lseek(fd, entries[18].offset, os.SEEK_SET)
        yield names(everything(fd)) == names(entries[19:20] + entries[21:])
        os.lseek(fd, 0, os.SEEK_SET)
        made(here / "new")
        yield b"new" in names(everything(fd)), b"new" in map(os.fsencode, os.listdir(here))


@on_both
def test_two_readers_of_one_directory(here: Path) -> Iterator[object]:
    for number in range(200):
        made(here / f"file{number}")
    with opened(here, os.O_RDONLY) as one, opened(here, os.O_RDONLY) as two:
        found = [names(getdents(fd, 1000)) for fd in (one, two, one, two, one, two)]
        yield found[0] == found[1], found[2] == found[3], found[4] == found[5]
        yield set(found[0]).isdisjoint(found[2]), len(found[0]) > 0


@on_both
def test_inotify(here: Path) -> Iterator[object]:
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    try:
        libc.inotify_add_watch(watch, bytes(here), 0xFFF)
        with opened(here / "file") as fd:
            os.write(fd, b"x")
            os.pread(fd, 1, 0)
            os.fchmod(fd, 0o600)
            os.ftruncate(fd, 0)
        os.rename(here / "file", here / "new")
        (here / "dir").mkdir()
        (here / "dir").rmdir()
        os.link(here / "new", here / "other")
        os.unlink(here / "new")
        os.listdir(here)
        data = os.read(watch, 1 << 16)
        while data:
            _, mask, _, length = struct.unpack_from("=iIII", data)
            yield hex(mask), data[16 : 16 + length].rstrip(b"\0")
            data = data[16 + length :]
    finally:
        os.close(watch)


@on_both
def test_handles(here: Path) -> Iterator[object]:
    """name_to_handle_at and open_by_handle_at, as file servers do it."""
    path = made(here / "file", b"content")
    (here / "dir").mkdir()
    with opened(here, os.O_RDONLY) as mount:
        for name in ("file", "dir"):
            fd = open_by_handle(mount, handle_of(here / name))
            yield os.path.sameopenfile(fd, fd), look(fd) == look(here / name)
            os.close(fd)
        handle = handle_of(path)
        os.unlink(path)
        yield attempt(open_by_handle, mount, handle), try_open(path, os.O_RDONLY)
