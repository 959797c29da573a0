"""A process beside pytest that frees a mount whose time is up, and keeps the evidence.

It must be a process: a page fault in a hung mount stops every thread of pytest that needs the
interpreter. It also frees everything when pytest dies. Orders come as JSON lines on stdin, and end
of file means that pytest is gone:

    {"order": "arm", "mountpoint": DIR, "daemon": PID or null,
     "connection": N or null, "seconds": N, "evidence": FILE}
    {"order": "disarm", "mountpoint": DIR}    answered by a line, after any evidence is written
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from tests.support.mountinfo import abort, detach, mounts_below
from tests.support.waiting import PATIENCE

DUMP_SECONDS = 0.3
"""Grace for a dump of stacks: nothing tells when it is written."""

STACKS_SIGNAL = signal.SIGUSR1


class Watchdog:
    """pytest's end: arm a mount with a deadline, disarm it when it is gone."""

    def __init__(self, stacks: Path) -> None:
        self._stacks: TextIO = stacks.open("w")
        faulthandler.register(STACKS_SIGNAL, self._stacks, all_threads=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.watchdog", str(os.getpid()), str(stacks)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            start_new_session=True,  # Ctrl-C at pytest must not stop it
        )

    def arm(
        self,
        mountpoint: Path,
        daemon: int | None,
        seconds: float,
        evidence: Path,
        connection: int | None = None,
    ) -> None:
        """(Re)start the clock of a mount: ``seconds`` from now it is freed.

        ``mountpoint``: or a directory, for all that is mounted below it by then.
        ``daemon``: its process, to be ended too. ``connection``: its number, as soon as it is
        known; the daemon may be stuck in it after the mount is gone.
        """
        self._send(
            order="arm",
            mountpoint=str(mountpoint),
            daemon=daemon,
            seconds=seconds,
            evidence=str(evidence),
            connection=connection,
        )

    def disarm(self, mountpoint: Path) -> None:
        """Stop the clock of a mount; when it had run out, all evidence is there afterwards."""
        self._send(order="disarm", mountpoint=str(mountpoint))
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        assert ready, "the watchdog is stuck"
        self._process.stdout.readline()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=PATIENCE)
        self._process.stdout.close()
        faulthandler.unregister(STACKS_SIGNAL)
        self._stacks.close()

    def _send(self, **order: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()


class _Armed:
    """One mount under guard."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.mountpoint = Path(order["mountpoint"])
        self.daemon: int | None = order["daemon"]
        self.evidence = Path(order["evidence"])
        self.connection: int | None = order["connection"]
        self.expires = time.monotonic() + float(order["seconds"])


def _descendants(pid: int) -> list[int]:
    """``pid`` and all processes below it, by the parents in /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for process in found:
        found.extend(children.get(process, []))
    return found


def _is_alive(pid: int) -> bool:
    """False for a zombie too: it holds nothing any more."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _kernel_view(pid: int) -> str:
    """Command line, and state and kernel stack of each thread of ``pid``."""
    lines = [f"== process {pid}"]
    with contextlib.suppress(OSError):
        lines.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        for task in Path(f"/proc/{pid}/task").iterdir():
            state = (task / "status").read_text().split("State:")[1].splitlines()[0].strip()
            lines.append(f"-- thread {task.name}: {state}, in {(task / 'wchan').read_text()}")
            lines.append((task / "stack").read_text())
    return "\n".join(lines)


def _free(armed: _Armed, pytest_pid: int, stacks: Path) -> None:
    """Write the evidence down, then abort the connection, unmount and end the daemon."""
    daemons = [] if armed.daemon is None else [armed.daemon]
    processes = dict.fromkeys(pid for top in (pytest_pid, *daemons) for pid in _descendants(top))
    text = [_kernel_view(pid) for pid in processes if pid != os.getpid()]
    with contextlib.suppress(OSError):
        os.kill(pytest_pid, STACKS_SIGNAL)
    for pid in daemons:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGABRT)  # started with -X faulthandler: dumps its stacks
    time.sleep(DUMP_SECONDS)
    mounts = mounts_below(armed.mountpoint)
    connections = list(mounts.values())
    if not mounts and armed.connection is not None and any(map(_is_alive, daemons)):
        connections = [armed.connection]
    for connection in connections:
        abort(connection)
    for mountpoint in reversed(mounts):
        detach(mountpoint)
    for pid in daemons:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    time.sleep(DUMP_SECONDS)  # pytest leaves its system call only now, and gets the signal
    with contextlib.suppress(OSError):
        text.append("== pytest's stacks\n" + stacks.read_text())
    armed.evidence.write_text("\n".join(text))


def _read_orders(chunk: bytes, guarded: dict[str, _Armed]) -> None:
    for line in chunk.splitlines():
        order = json.loads(line)
        if order["order"] == "arm":
            guarded[order["mountpoint"]] = _Armed(order)
        else:
            guarded.pop(order["mountpoint"], None)
            print("disarmed", flush=True)


def _guard(pytest_pid: int, stacks: Path) -> None:
    guarded: dict[str, _Armed] = {}
    pending = b""
    alive = True
    while alive or guarded:
        if alive:
            ready, _, _ = select.select([sys.stdin], [], [], 0.2)
            chunk = os.read(sys.stdin.fileno(), 1 << 16) if ready else b""
            alive = not ready or chunk != b""
            whole, _, pending = (pending + chunk).rpartition(b"\n")
            _read_orders(whole, guarded)
        for name, armed in list(guarded.items()):
            if not alive or time.monotonic() > armed.expires:
                _free(armed, pytest_pid, stacks)
                del guarded[name]


if __name__ == "__main__":
    _guard(int(sys.argv[1]), Path(sys.argv[2]))
