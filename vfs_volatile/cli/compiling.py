"""cflags: what a C program needs to include the headers, and to link with the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import vfs_volatile


def cflags(
    libs: Annotated[
        bool, typer.Option("--libs", help="Those to link with libfvrange too (fvrange_anon.h).")
    ] = False,
) -> None:
    """Print the flags for a C or C++ compiler that find the headers of this package."""
    package = Path(vfs_volatile.__file__).parent
    print(f"-I{package}")
    if libs:
        print(f"-L{package} -Wl,-rpath,{package} -lfvrange -pthread")


def register(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command(
        epilog="\b\nExamples:\n  cc $(vfs-volatile cflags) program.c -pthread"
        "\n  cc program.c $(vfs-volatile cflags --libs)"
    )(cflags)
