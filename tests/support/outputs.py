"""Commands whose stdout takes nothing."""

from __future__ import annotations

import os
import subprocess

from tests.support.mount import ROOT, command
from tests.support.waiting import PATIENCE

REFUSING = [">&-", ">/dev/full"]
"""Redirections of a shell: stdout is closed, or full."""


def redirected(how: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``vfs-volatile ARGUMENTS`` to its end, its streams as ``how`` says to a shell."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {how}', "sh", *command(*arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


def unread(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``vfs-volatile ARGUMENTS`` to its end, into a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            command(*arguments),
            cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=PATIENCE,
            check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
