"""What a command prints on: it may be closed, full, or a pipe that nobody reads any more.

Whoever prints need not think of it: print raises, and the command ends as after any UserError.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vfs_volatile.errors import UserError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_NULL_MODES = (os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)
"""For stdin, stdout and stderr: to use one that was closed is EBADF, as if it still were."""


class OutputError(UserError):
    """stdout takes nothing."""

    def __init__(self, error: OSError) -> None:
        said = "it is closed" if error.errno == errno.EBADF else error.strerror
        super().__init__(
            f"cannot write to stdout: {said}; send it elsewhere, to /dev/null if nobody needs it"
        )


class ReaderGoneError(OutputError):
    """Whoever read our output has seen enough; nothing is to be said about that."""


@contextmanager
def guarded() -> Iterator[None]:
    """Have what is printed on stdout raise OutputError while the body runs.

    After the first error the rest is dropped, so that cleaning up is not disturbed by another.
    """
    _occupy_closed()
    before = sys.stdout
    if before is sys.__stdout__:  # else somebody has put something there who knows what to do
        sys.stdout = _stdout()
    try:
        yield
    finally:
        with contextlib.suppress(OutputError):
            sys.stdout.flush()
        sys.stdout = before


def complain(line: str) -> None:
    """Print ``line`` on stderr, if that takes it: there is nobody else to be told."""
    if sys.stderr is not None:  # print takes None for stdout
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr)


class Reader:
    """Who reads stdout: for commands that wait for something to print. Raises OutputError."""

    def __init__(self) -> None:
        if fcntl.fcntl(sys.stdout, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OutputError(OSError(errno.EBADF, ""))
        self._gone = select.poll()
        self._gone.register(sys.stdout, 0)  # POLLERR and POLLHUP come unasked

    def wait(self, seconds: float) -> None:
        """Return after ``seconds``, unless the reader goes before."""
        if self._gone.poll(seconds * 1000):
            raise ReaderGoneError(BrokenPipeError(errno.EPIPE, ""))


class _Stdout(io.FileIO):
    """Descriptor 1, with our errors."""

    _failed = False

    def write(self, data: ReadableBuffer) -> int:
        """All of ``data`` that goes at once, or everything to nowhere after an error."""
        if self._failed:
            return memoryview(data).nbytes
        try:
            while (count := super().write(data)) is None:  # O_NONBLOCK: somebody else wants it so
                select.select([], [self], [])
        except OSError as error:
            self._failed = True
            kind = ReaderGoneError if error.errno == errno.EPIPE else OutputError
            raise kind(error) from None
        return count


def _stdout() -> io.TextIOWrapper:
    raw = _Stdout(1, "w", closefd=False)
    encoding = None if sys.stdout is None else sys.stdout.encoding
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, line_buffering=raw.isatty())


def _occupy_closed() -> None:
    """Let no file that is opened from now on become stdin, stdout or stderr."""
    for descriptor, mode in enumerate(_NULL_MODES):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, mode)  # takes the lowest free number: this one
            os.set_inheritable(null, True)
