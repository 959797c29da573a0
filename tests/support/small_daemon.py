"""The program on a machine that has room for few ranges.

    python -m tests.support.small_daemon mount DIR ...

There may be MOST ranges.
"""

from __future__ import annotations

import sys

from vfs_volatile.native import shim  # isort: skip  # noqa: F401  # must come before pyfuse3

from vfs_volatile.cli import main
from vfs_volatile.daemon import server
from vfs_volatile.units import total_memory

MOST = 64

if __name__ == "__main__":
    server._BYTES_PER_RANGE = total_memory() // MOST
    sys.exit(main(sys.argv[1:]))
