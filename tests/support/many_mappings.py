"""Maps single pages of files, privately, very often, and sleeps until its stdin ends.

    python -m tests.support.many_mappings COUNT STRIDE FILE...

Mapping number N of a file shows page N * STRIDE. Says "mapped" when all are made.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
FAILED = ctypes.c_void_p(-1).value


def map_pages(path: str, count: int, stride: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    for number in range(count):
        offset = number * stride * mmap.PAGESIZE
        at = LIBC.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, offset)
        if at == FAILED:
            sys.exit(f"mmap: {os.strerror(ctypes.get_errno())}")
    os.close(fd)


if __name__ == "__main__":
    for name in sys.argv[3:]:
        map_pages(name, int(sys.argv[1]), int(sys.argv[2]))
    print("mapped", flush=True)
    sys.stdin.read()
