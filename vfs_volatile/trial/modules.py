"""Modules of this package as processes of their own: how they start, how they ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import vfs_volatile


def run_module(
    module: str,
    *arguments: str,
    stderr: IO[bytes] | None,
    stdin: int = subprocess.DEVNULL,
    preexec_fn: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``python -m MODULE``: stdout is a pipe, no other descriptor of ours is inherited."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd="/",  # no module in our directory is taken for one of ours
        env=_environment(),
        start_new_session=True,  # Ctrl-C is for us: we end it
        preexec_fn=preexec_fn,
    )


def how_it_ended(code: int) -> str:
    """An exit code, or minus a signal, in words."""
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _environment() -> dict[str, str]:
    """Ours, with this package importable from any directory: it may be run from its source tree."""
    paths = [str(Path(vfs_volatile.__file__).parents[1])]
    if inherited := os.environ.get("PYTHONPATH"):
        paths.append(inherited)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
