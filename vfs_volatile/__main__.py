"""``python -m vfs_volatile``: the command line."""

import sys

from vfs_volatile.cli import main

sys.exit(main())
