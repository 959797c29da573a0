"""What the daemon of a mount holds, by the kernel's account and its own."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tests.support.mount import Mount


def rss(mounted: Mount) -> int:
    """Bytes that the daemon holds, without the data of files (those are in its memfd)."""
    status = Path(f"/proc/{mounted.process.pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def holdings(mounted: Mount) -> dict[str, int]:
    """What the daemon holds: descriptors, but for one a process that it watches, threads, and
    tasks of trio.
    """
    tasks = Path(f"/proc/{mounted.process.pid}/task")
    files = [name for name in descriptors(mounted).values() if not name.startswith("/proc/")]
    trio_tasks = int(str(mounted.stats()["tasks"]))
    return {"fd": len(files), "thread": len(list(tasks.iterdir())), "task": trio_tasks}


def descriptors(mounted: Mount) -> dict[Path, str]:
    """What the daemon has open; it opens and closes meanwhile."""
    found = {}
    for entry in Path(f"/proc/{mounted.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[entry] = os.readlink(entry)
    return found


def memfd_blocks(mounted: Mount) -> int:
    """Blocks of memory in the daemon's memfds: what it really holds, by the kernel's account."""
    held = descriptors(mounted).items()
    return sum(entry.stat().st_blocks for entry, name in held if "memfd:" in name)
