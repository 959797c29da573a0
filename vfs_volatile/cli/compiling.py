"""cflags: what a C program needs to include the headers."""

from __future__ import annotations

from pathlib import Path

import typer

import vfs_volatile


def cflags() -> None:
    """Print the flags for a C or C++ compiler that find fvrange.h and fvrange_guard.h."""
    print(f"-I{Path(vfs_volatile.__file__).parent}")


def register(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command(epilog="\b\nExample:\n  cc $(vfs-volatile cflags) program.c -pthread")(cflags)
