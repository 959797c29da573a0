"""Reading /proc/PID/maps (proc_pid_maps(5)): what a process has mapped."""

from __future__ import annotations

import errno
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from vfs_volatile.core.pages import PageSpan
from vfs_volatile.errors import SyscallError
from vfs_volatile.mountinfo import find_mount
from vfs_volatile.units import PAGE_SIZE

_LINE = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) .(.).([sp]) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+)", re.MULTILINE
)
_LINE_OF = rb"^([0-9a-f]+)-([0-9a-f]+) ...([sp]) ([0-9a-f]+) %b (\d+)"
"""Of files of one device."""

AT_ONCE = 1000
"""Mappings that a :data:`Query` finds at a time."""

Device = bytes
"""A device as ``maps`` writes it: ``00:2e``."""


class Mapping(NamedTuple):
    """One vma. Addresses and the offset into the file are bytes."""

    start: int
    end: int
    writable: bool
    shared: bool
    offset: int
    device: Device
    ino: int


Columns = tuple[list[int], list[int], list[int], list[int], list[int]]
"""Mappings: the start and end addresses of all, the offsets into the files in bytes, the inodes, 1
for those that are shared, else 0. There may be very many, and so none has an object of its own.
"""

Query = Callable[[int, int, int], Iterable[Columns]]
"""``query(tid, major, minor)``: the mappings of files of that device in the memory of a thread, one
to AT_ONCE at a time.

Raises ProcessLookupError or FileNotFoundError (no such thread, or it has no memory),
PermissionError (it may not be looked at).
"""


class Piece(NamedTuple):
    """Bytes of a file, found through a mapping of it."""

    mapping: Mapping
    start: int
    length: int


def mapped_pages(start: int, end: int, offset: int) -> PageSpan:
    """The pages of the file that a mapping of these addresses and this offset shows."""
    first = offset // PAGE_SIZE
    return PageSpan(first, first + (end - start) // PAGE_SIZE)


def device_name(major: int, minor: int) -> Device:
    """A device as ``maps`` writes it."""
    return b"%02x:%02x" % (major, minor)


class OwnMount:
    """The daemon's mount, as it is seen from outside: asking /proc about it touches no mount."""

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = mountpoint

    @functools.cached_property
    def numbers(self) -> tuple[int, int]:
        """Its device, major and minor. Not to be asked before the mount was made."""
        mount = find_mount(self._mountpoint)
        assert mount is not None, "not mounted"
        return mount.device

    @functools.cached_property
    def device(self) -> Device:
        """Its device. Not to be asked before the mount was made."""
        return device_name(*self.numbers)

    def is_there(self) -> bool:
        """Or has it been taken out?"""
        mount = find_mount(self._mountpoint)
        return mount is not None and mount.device == self.numbers


def read_maps(pid: int) -> bytes:
    """The text of ``/proc/PID/maps``; ``pid`` may be a thread.

    Raises ProcessLookupError or FileNotFoundError if there is no such process or it has no
    memory, PermissionError if it may not be looked at.
    """
    with open(f"/proc/{pid}/maps", "rb") as file:
        text = file.read()
    if not text:
        raise ProcessLookupError
    return text


def parse_maps(text: bytes) -> Iterator[Mapping]:
    """The mappings in ``text``, in the order of their addresses."""
    for match in _LINE.finditer(text):
        start, end, writable, shared, offset, device, ino = match.groups()
        yield Mapping(
            int(start, 16),
            int(end, 16),
            writable == b"w",
            shared == b"s",
            int(offset, 16),
            device,
            int(ino),
        )


def query_text(tid: int, major: int, minor: int) -> Iterator[Columns]:
    """A :data:`Query` that any kernel answers: from the text of ``maps``."""
    text = read_maps(tid)
    device = device_name(major, minor)
    if device not in text:
        return
    matches = re.finditer(_LINE_OF % re.escape(device), text, re.MULTILINE)
    while rows := [match.groups() for match in islice(matches, AT_ONCE)]:
        starts, ends, shared, offsets, inodes = zip(*rows, strict=True)
        yield (
            [int(start, 16) for start in starts],
            [int(end, 16) for end in ends],
            [int(offset, 16) for offset in offsets],
            [int(ino) for ino in inodes],
            [int(each == b"s") for each in shared],
        )


def pieces_at(mappings: Iterable[Mapping], address: int, length: int) -> list[Piece]:
    """What ``length`` bytes from ``address`` mean, mapping by mapping.

    Raises SyscallError(ENOMEM) if a part of them is not mapped, as madvise(2).
    """
    pieces = []
    at, end = address, address + length
    for mapping in mappings:
        if mapping.end <= at:
            continue
        if at >= end:
            break
        if mapping.start > at:
            raise SyscallError(errno.ENOMEM)
        stop = min(end, mapping.end)
        pieces.append(Piece(mapping, mapping.offset + at - mapping.start, stop - at))
        at = stop
    if at < end:
        raise SyscallError(errno.ENOMEM)
    return pieces
