"""What an actor can do: one method for each verb of ``grammar.VERBS``.

A method gives the result of its step in words. An OSError is a result too: its errno.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator

from vfs_volatile import (
    VRANGE_NONVOLATILE,
    VRANGE_VOLATILE,
    AnonymousMemory,
    fvrange,
    fvrange_next,
    mvrange,
)
from vfs_volatile.abi import ioctls
from vfs_volatile.abi.ioctls import STATE_PURGED
from vfs_volatile.scenarios.grammar import Arguments
from vfs_volatile.scenarios.memory import Mapping, letter_of, punch_hole, touch
from vfs_volatile.units import PAGE_SIZE, pages_for

OK = "ok"
_FLAGS = {
    "partial": ioctls.VRANGE_PARTIAL,
    "zero": ioctls.VRANGE_ZERO,
    "sigbus": ioctls.VRANGE_SIGBUS,
}


class UnknownNameError(Exception):
    """The scenario names an open file or a mapping that the actor does not have."""


class Acts:
    """The open files and mappings of one process, by their names in the scenario."""

    def __init__(self, directory: str, letter: str, files: dict[str, int]) -> None:
        """``letter``: what this actor fills pages with."""
        self.files = files
        self._directory = directory
        self._byte = ord(letter)
        self._maps: dict[str, tuple[str, Mapping]] = {}
        """Name -> the name of the open file that it was made with or "", and the mapping."""
        self._anonymous: list[AnonymousMemory] = []

    def become(self, letter: str) -> None:
        """In a forked child: it fills pages with a letter of its own."""
        self._byte = ord(letter)

    def do(self, verb: str, arguments: Arguments) -> str:
        """The result of one step in words. Raises OSError, UnknownNameError."""
        return str(getattr(self, f"do_{verb}")(arguments))

    # ---- files ----

    def do_open(self, arguments: Arguments) -> str:
        flags = os.O_RDONLY if "ro" in arguments else os.O_RDWR
        name = str(arguments.get("as", arguments["FILE"]))
        self.files[name] = os.open(self._path(arguments["FILE"]), flags)
        return OK

    def do_close(self, arguments: Arguments) -> str:
        os.close(self._fd(arguments))
        del self.files[str(arguments["FD"])]
        return OK

    def do_read(self, arguments: Arguments) -> str:
        fd = self._fd(arguments)
        start, length = _range(arguments, 0, os.fstat(fd).st_size)
        return "".join(_read(fd, offset) for offset in _pages(start, length))

    def do_write(self, arguments: Arguments) -> str:
        start, length = _range(arguments, 0, 0)
        os.pwrite(self._fd(arguments), bytes([self._byte]) * length, start)
        return OK

    def do_truncate(self, arguments: Arguments) -> str:
        unit = 1 if "bytes" in arguments else PAGE_SIZE
        os.ftruncate(self._fd(arguments), int(str(arguments["N"])) * unit)
        return OK

    def do_punch(self, arguments: Arguments) -> str:
        punch_hole(self._fd(arguments), *_range(arguments, 0, 0))
        return OK

    def do_copy(self, arguments: Arguments) -> str:
        source, target = self._fd(arguments), self._fd({"FD": arguments["TO"]})
        size = os.fstat(source).st_size
        os.copy_file_range(source, target, size, 0, 0)
        return OK

    def do_rename(self, arguments: Arguments) -> str:
        os.rename(self._path(arguments["FILE"]), self._path(arguments["NEW"]))
        return OK

    def do_unlink(self, arguments: Arguments) -> str:
        os.unlink(self._path(arguments["FILE"]))
        return OK

    # ---- marks ----

    def do_fvrange(self, arguments: Arguments) -> str:
        fd = self._fd(arguments)
        start, length = _range(arguments, 0, 0)
        return _purged(fvrange(fd, start, length, _mode(arguments), _behavior(arguments)))

    def do_mvrange(self, arguments: Arguments) -> str:
        opened, mapping = self._map(arguments)
        start, length = _range(arguments, mapping.start, mapping.length)
        return _purged(
            mvrange(
                mapping.at(start),
                length,
                _mode(arguments),
                _behavior(arguments),
                fd=self.files.get(opened),
            )
        )

    def do_query(self, arguments: Arguments) -> str:
        fd = self._fd(arguments)
        letters = ["-"] * pages_for(os.fstat(fd).st_size)
        for run in fvrange_next(fd):
            for offset in _pages(run.start, run.length):
                letters[offset // PAGE_SIZE] = "p" if run.state == STATE_PURGED else "v"
        return "".join(letters)

    # ---- mappings ----

    def do_map(self, arguments: Arguments) -> str:
        fd = self._fd(arguments)
        size = pages_for(os.fstat(fd).st_size) * PAGE_SIZE
        mapping = Mapping.of_file(
            fd,
            *_range(arguments, 0, size),
            shared=arguments["shared|private"] == "shared",
            writable="ro" not in arguments,
        )
        opened = str(arguments["FD"])
        self._maps[str(arguments.get("as", opened))] = opened, mapping
        return OK

    def do_anon(self, arguments: Arguments) -> str:
        length = int(str(arguments["N"])) * PAGE_SIZE
        memory = AnonymousMemory(length, mount=self._directory)
        memory[:] = bytes([self._byte]) * length
        self._anonymous.append(memory)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._maps[str(arguments["NAME"])] = "", Mapping(address, 0, length)
        return OK

    def do_unmap(self, arguments: Arguments) -> str:
        _, mapping = self._map(arguments)
        mapping.unmap(*_range(arguments, mapping.start, mapping.length))
        if "RANGE" not in arguments:
            del self._maps[str(arguments["MAPPING"])]
        return OK

    def do_mlock(self, arguments: Arguments) -> str:
        self._map(arguments)[1].lock()
        return OK

    def do_load(self, arguments: Arguments) -> str:
        mapping, offsets = self._touched(arguments)
        return touch(offsets, lambda offset: letter_of(mapping.load(offset)))

    def do_store(self, arguments: Arguments) -> str:
        """A child tries; where it survives, the actor itself stores, for a page of its own."""
        mapping, offsets = self._touched(arguments)

        def store(offset: int) -> str:
            mapping.fill(offset, self._byte)
            return "w"

        letters = touch(offsets, store)
        for offset, letter in zip(offsets, letters, strict=True):
            if letter == "w":
                store(offset)
        return letters

    def do_send(self, arguments: Arguments) -> str:
        _, mapping = self._map(arguments)
        with _pipe() as writer:
            mapping.send(writer, *_range(arguments, mapping.start, mapping.length))
        return OK

    # ---- helpers ----

    def _path(self, name: object) -> str:
        return os.path.join(self._directory, str(name))

    def _fd(self, arguments: Arguments) -> int:
        name = str(arguments["FD"])
        if name not in self.files:
            raise UnknownNameError(f"has no open file '{name}'")
        return self.files[name]

    def _map(self, arguments: Arguments) -> tuple[str, Mapping]:
        name = str(arguments["MAPPING"])
        if name not in self._maps:
            raise UnknownNameError(f"has no mapping '{name}'")
        return self._maps[name]

    def _touched(self, arguments: Arguments) -> tuple[Mapping, list[int]]:
        _, mapping = self._map(arguments)
        return mapping, _pages(*_range(arguments, mapping.start, mapping.length))


def _range(arguments: Arguments, start: int, length: int) -> tuple[int, int]:
    """(start, length) in bytes: as the step says, or these."""
    given = arguments.get("RANGE")
    if given is None:
        return start, length
    assert not isinstance(given, str | int)
    return given[0], given[1]


def _pages(start: int, length: int) -> list[int]:
    """Offset of each page."""
    return list(range(start, start + length, PAGE_SIZE))


def _mode(arguments: Arguments) -> int:
    volatile = arguments["volatile|nonvolatile"] == "volatile"
    return VRANGE_VOLATILE if volatile else VRANGE_NONVOLATILE


def _behavior(arguments: Arguments) -> int:
    chosen = [arguments.get("full|partial"), arguments.get("zero|sigbus")]
    flags = sum(_FLAGS.get(str(flag), 0) for flag in chosen)
    return flags | ioctls.vrange_priority(int(str(arguments.get("priority", 0))))


def _purged(count: int) -> str:
    """``count`` bytes in words: so many pages, if they are whole."""
    pages, rest = divmod(count, PAGE_SIZE)
    return f"{count} bytes purged" if rest else f"{pages} purged"


def _read(fd: int, offset: int) -> str:
    try:
        return letter_of(os.pread(fd, PAGE_SIZE, offset))
    except OSError as error:
        if error.errno == errno.ENODATA:
            return "E"
        raise


@contextlib.contextmanager
def _pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)
