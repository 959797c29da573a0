"""Write the man pages into a directory: ``python -m tools.manpages DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

import vfs_volatile
from tools.manpages import commands, documentation, roff
from vfs_volatile.cli.app import app

_DOCS = Path(vfs_volatile.__file__).parent / "docs"
_SEE_ALSO = [".SH SEE ALSO", ".BR fvrange (3),", ".BR mount (8),", ".BR mount.fuse3 (8)"]


def pages() -> dict[str, str]:
    """Every page, by its file below ``share/man``."""
    running = documentation.sections((_DOCS / "running.md").read_text())
    calls = documentation.sections((_DOCS / "calls.md").read_text())
    command = [*commands.sections(app), *running, *_SEE_ALSO]
    return {
        "man1/vfs-volatile.1": roff.page("vfs-volatile", 1, "User Commands", command),
        "man3/fvrange.3": roff.page("fvrange", 3, "Library Functions", calls),
    }


def main(directory: Path) -> None:
    for name, text in pages().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
