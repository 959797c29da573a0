"""O_DIRECT past the page cache: who reads through the cache sees what has been written."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from tests.support.mount import Mount

SIZE = 640 << 10
ROUNDS = 300
IO_SETUP, IO_DESTROY, IO_GETEVENTS, IO_SUBMIT = (
    (206, 207, 208, 209) if os.uname().machine == "x86_64" else (0, 1, 4, 2)
)
IOCB_CMD_PWRITE = 1
IOCB = struct.Struct("=QIIHhIQQqQII")
"""struct iocb of <linux/aio_abi.h>."""
IO_EVENT = struct.Struct("=QQqq")

_libc = ctypes.CDLL(None, use_errno=True)


def system_call(number: int, *arguments: object) -> None:
    if _libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def submission(fd: int, data: mmap.mmap) -> Iterator[ctypes.c_ulong]:
    """A write of ``data`` at 0 that io_submit(2) has taken; it has ended at the end."""
    context = ctypes.c_ulong()
    system_call(IO_SETUP, 1, ctypes.byref(context))
    try:
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        asked = IOCB.pack(0, 0, 0, IOCB_CMD_PWRITE, 0, fd, address, len(data), 0, 0, 0, 0)
        block = ctypes.create_string_buffer(asked)
        system_call(IO_SUBMIT, context, 1, (ctypes.c_void_p * 1)(ctypes.addressof(block)))
        yield context
        event = ctypes.create_string_buffer(IO_EVENT.size)
        system_call(IO_GETEVENTS, context, 1, 1, event, None)
        assert IO_EVENT.unpack(event.raw)[2] == len(data), "all is written"
    finally:
        system_call(IO_DESTROY, context)


def test_a_write_that_is_not_waited_for_leaves_no_old_page_in_the_cache(fs: Mount) -> None:
    path = fs.path / "file"
    direct = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    reading = os.open(path, os.O_RDONLY)
    over = Event()

    def read() -> None:
        while not over.is_set():
            os.pread(reading, SIZE, 0)

    readers = [Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for number in range(ROUNDS):
            expected = bytes([number % 251 + 1]) * SIZE
            with mmap.mmap(-1, SIZE) as data:
                data[:] = expected
                with submission(direct, data):
                    pass
            assert os.pread(reading, SIZE, 0) == expected, number
    finally:
        over.set()
        for reader in readers:
            reader.join()
        os.close(direct)
        os.close(reading)
