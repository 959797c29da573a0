"""Maps single pages of a file, privately, very often, and sleeps.

    python -m tests.support.many_mappings FILE COUNT STRIDE

Mapping number N shows page N * STRIDE. Says "mapped" when all are made.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
FAILED = ctypes.c_void_p(-1).value

if __name__ == "__main__":
    fd = os.open(sys.argv[1], os.O_RDONLY)
    count, stride = map(int, sys.argv[2:])
    for number in range(count):
        offset = number * stride * mmap.PAGESIZE
        at = LIBC.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, offset)
        if at == FAILED:
            sys.exit(f"mmap: {os.strerror(ctypes.get_errno())}")
    print("mapped", flush=True)
    time.sleep(600)
