"""Processes that map a file beside those that the machine runs anyhow: ``crowd.c``."""

from __future__ import annotations

import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_SOURCE = Path(__file__).with_name("crowd.c")
_START_SECONDS = 90.0
_STOP_SECONDS = 30.0


class Crowd(NamedTuple):
    """Processes beside those that the machine runs anyhow."""

    name: str
    others: int
    mappers: int
    mappings: int = 0

    @property
    def processes(self) -> int:
        return self.others + self.mappers


def compile_crowd(work: Path) -> Path:
    """Compile the program into ``work``."""
    program = work / "crowd"
    subprocess.run(["gcc", "-O2", "-o", program, _SOURCE], check=True, timeout=60)
    return program


@contextmanager
def running(program: Path, crowd: Crowd, path: Path) -> Iterator[None]:
    """The processes of ``crowd`` around the file ``path``. All have ended afterwards."""
    arguments = [str(crowd.others), str(crowd.mappers), str(path), str(crowd.mappings)]
    running = subprocess.Popen(
        [program, *arguments],
        cwd=program.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert running.stdin is not None
    assert running.stdout is not None
    with running.stdin, running.stdout:
        try:
            poll = select.poll()
            poll.register(running.stdout, select.POLLIN)
            if not poll.poll(1000 * _START_SECONDS) or running.stdout.readline() != b"ready\n":
                raise RuntimeError("the processes did not start; see the lines above")
            yield
        finally:
            running.stdin.close()  # it ends its children, then itself
            try:
                running.wait(_STOP_SECONDS)
            finally:
                running.kill()  # its children get SIGKILL when it ends
                running.wait(_STOP_SECONDS)
