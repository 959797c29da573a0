"""The program on a system that refuses it what it asks for, as often as a file says.

    python -m tests.support.refusing_daemon mount DIR ...

DIR.refuse holds ``CALL ERROR SKIP TIMES``: after SKIP calls the next TIMES fail with that errno
(or MemoryError); ``any`` stands for every call that is made for a request alone. With ``python
MemoryError SKIP 1`` of the allocations of each IOCTL and WRITE the one after SKIP fails.
DIR.refused is there once one has failed.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from vfs_volatile.native import shim  # isort: skip  # must come before pyfuse3

from tests.support.no_memory import NoMemory, compile_as
from vfs_volatile.cli import main
from vfs_volatile.fs import files
from vfs_volatile.store import arena, detached

IN_THE_BACKGROUND = ("open", "system")


class Refusals:
    """What the file says, and how often it has been done."""

    def __init__(self, switch: Path) -> None:
        self._switch = switch
        self._orders = ""
        self._calls = 0
        self._in_python = False
        """Is nothing else to be refused, as it takes allocations to know?"""
        self._open = os.open
        self.no_memory = NoMemory(compile_as(Path(f"{switch}.so")))

    def due(self, name: str) -> BaseException | None:
        """The exception for this call of ``name``, if it is to fail."""
        if self._in_python:
            return None
        orders = self._read()
        if orders != self._orders:
            self._orders, self._calls = orders, 0
        what = orders.partition(" ")[0]
        if what != name and (what != "any" or name in IN_THE_BACKGROUND):
            return None
        _, error, skip, times = orders.split()
        self._calls += 1
        if not int(skip) < self._calls <= int(skip) + int(times):
            return None
        self._say()
        if error == "MemoryError":
            return MemoryError()
        if name == "thread":
            return RuntimeError("can't start new thread")
        # Told of a purge the kernel may lack memory; else it has unmounted.
        number = errno.ENOMEM if name == "invalidate" else getattr(errno, error)
        return OSError(number, os.strerror(number))

    def of_python(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, in which an allocation may be refused."""
        result: list[Any] = [None]

        def run(arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            result[0] = call(*arguments, **options)

        def refusable(*arguments: Any, **options: Any) -> Any:
            what, _, rest = self._read().partition(" ")
            if what != "python":
                return call(*arguments, **options)
            number, limited = int(rest.split()[1]), partial(run, arguments, options)
            self._in_python = True
            refused, failure = self.no_memory.refusing(number, limited)
            self._in_python = False
            if refused:
                self._say()
            if failure is not None:
                raise failure
            return result[0]

        return refusable

    def _say(self) -> None:
        os.close(self._open(f"{self._switch}d", os.O_WRONLY | os.O_CREAT, 0o600))

    def _read(self) -> str:
        """Not by pathlib: it would call what may be refused."""
        try:
            fd = self._open(self._switch, os.O_RDONLY)
        except FileNotFoundError:
            return ""
        try:
            return os.read(fd, 100).decode()
        finally:
            os.close(fd)

    def of(self, name: str | Callable[..., str], call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, which may be refused."""

        def refusable(*arguments: Any, **options: Any) -> Any:
            error = self.due(name if isinstance(name, str) else name(*arguments))
            if error is not None:
                raise error
            return call(*arguments, **options)

        return refusable


def kind_of_fallocate(fd: int, mode: int, offset: int, length: int) -> str:
    return "punch" if mode & 2 else "allocate"


if __name__ == "__main__":
    refusals = Refusals(Path(sys.argv[2] + ".refuse"))
    files.Files.fvrange = refusals.of_python(files.Files.fvrange)  # type: ignore[method-assign]
    files.Files.ioctl = refusals.of_python(files.Files.ioctl)  # type: ignore[method-assign]
    files.Files.write = refusals.of_python(files.Files.write)  # type: ignore[method-assign]
    os.pwrite = refusals.of("pwrite", os.pwrite)
    os.ftruncate = refusals.of("ftruncate", os.ftruncate)
    os.open = refusals.of("open", os.open)
    arena._fallocate = refusals.of(kind_of_fallocate, arena._fallocate)
    detached._system_call = refusals.of("system", detached._system_call)
    shim.backing_open = refusals.of("backing", shim.backing_open)
    shim.invalidate = refusals.of("invalidate", shim.invalidate)
    run_sync = refusals.of("thread", trio.to_thread.run_sync)
    trio.to_thread.run_sync = run_sync  # type: ignore[assignment]
    sys.exit(main(sys.argv[1:]))
