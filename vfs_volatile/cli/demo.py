"""demo: the main job, end to end, on a temporary mount."""

from __future__ import annotations

from typing import Annotated

import typer

from vfs_volatile.cli.arguments import examples, size
from vfs_volatile.errors import UsageError
from vfs_volatile.units import PAGE_SIZE


def demo(
    modules: Annotated[
        int | None,
        typer.Option(
            min=10,
            metavar="N",
            help="Compile N modules. [default: all, or as many as 20 seconds allow]",
        ),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            parser=size,
            metavar="SIZE",
            help="Budget of the mount. [default: an eighth of the size of the modules' sources]",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(metavar="N", help="Decides the order of modules and look-ups."),
    ] = 1,
) -> None:
    """Run the main job, end to end, on a temporary mount: a cache far larger than its budget.

    Several processes compile the modules of Python's standard library into files, stored through
    shared mappings and marked volatile, so that the oldest are purged all the time. Then readers
    look modules up: they unmark the file, verify it by SHA-256 or, if it was purged, rebuild it,
    and mark it again. One more process reads without unmarking, and meets SIGBUS at purged pages;
    another keeps some files mapped private, and these must not be purged.

    A table shows what was seen. Exit code 0 only if all of it held: the cache was more than twice
    the budget; entries were purged, rebuilt, found intact, and gave SIGBUS; all private pages were
    kept; no content was wrong; and never more was resident than the budget and, for each builder
    or reader, four large entries (one that it has unmarked, others stored while the purger was at
    work), and not even that once everything was volatile. Nothing stays behind.
    """
    if budget is not None and budget < PAGE_SIZE:
        raise UsageError(f"--budget {budget} holds no page; give at least {PAGE_SIZE}")
    from vfs_volatile.demo.run import run  # here: rich is slow to load

    run(modules, budget, seed)


def register(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command(
        epilog=examples(
            "demo                              # under a minute",
            "demo --modules 200 --budget 512K",
            "demo --seed 7                     # another order",
        )
    )(demo)
