"""prctl(2): a process that ends when its parent does, even if that was killed."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1
"""<linux/prctl.h>"""

_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent(how: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send ``how`` to this process when its parent ends. Survives execve(2)."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(how), 0, 0, 0)
