"""mount, umount: start and end the daemon of a mount."""

from __future__ import annotations

import os
from typing import Annotated, TypeVar

import typer

from vfs_volatile.cli.arguments import address, examples, size
from vfs_volatile.cli.mount_options import parse_mount_options
from vfs_volatile.core.semantics import (
    Conflict,
    Lifetime,
    Mvrange,
    Preset,
    Private,
    semantics_of,
)
from vfs_volatile.daemon.config import SUBTYPE, Access, Address, LogFormat, MountConfig
from vfs_volatile.errors import UsageError
from vfs_volatile.units import PAGE_SIZE, parse_size

DEFAULT_BUDGET = "25%"
DEFAULT_SIZE = "50%"
"""Of memory, as tmpfs(5)."""


def mount(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="An empty directory.")],
    budget: Annotated[
        int | None,
        typer.Option(
            parser=size,
            metavar="SIZE",
            help=f"Purge above so many resident bytes. [default: {DEFAULT_BUDGET} of memory]",
        ),
    ] = None,
    total: Annotated[
        int | None,
        typer.Option(
            "--size",
            parser=size,
            metavar="SIZE",
            help=f"Refuse data above so many. [default: {DEFAULT_SIZE} of memory]",
        ),
    ] = None,
    access: Annotated[
        Access | None,
        typer.Option(help="What touching a purged page does by default. [default: sigbus]"),
    ] = None,
    semantics: Annotated[
        Preset | None,
        typer.Option(help="Whose rules; the four below change one of them. [default: unified]"),
    ] = None,
    mvrange: Annotated[
        Mvrange | None,
        typer.Option(
            help="A mark by address: kept in the file (shared), or a vote of the process, and"
            " all who map a page must agree (process)."
        ),
    ] = None,
    private: Annotated[
        Private | None,
        typer.Option(
            help="A page that is mapped private: not purged (block), or purged while copies made"
            " by writing to it stay (keep)."
        ),
    ] = None,
    lifetime: Annotated[
        Lifetime | None,
        typer.Option(
            help="A mark ends when somebody unmarks (persistent), or also when nobody has the file"
            " open or mapped any more (last-close)."
        ),
    ] = None,
    conflict: Annotated[
        Conflict | None,
        typer.Option(
            help="With votes, unmarking by address what is marked by file: holds the page (veto),"
            " or no mvrange works on files (einval)."
        ),
    ] = None,
    pressure: Annotated[
        bool,
        typer.Option(
            "--pressure",
            help="Purge below the budget too, while the machine or the cgroup is short of memory.",
        ),
    ] = False,
    metrics: Annotated[
        Address | None,
        typer.Option(
            parser=address,
            metavar="ADDR",
            help="Serve metrics for Prometheus at HOST:PORT, or :PORT of this machine alone.",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(
            help="Of what the daemon says: on stderr with -f, else in the system's log."
            " [default: text]"
        ),
    ] = None,
    allow_other: Annotated[bool, typer.Option("--allow-other", help="Let other users in.")] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", "-f", help="Stay; say 'ready DIR' on stdout.")
    ] = False,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "-o",
            metavar="OPTS",
            help="As in fstab(5): budget=, mode=, uid=, ro, nosuid ...; noacl, passthrough=off.",
        ),
    ] = None,
    detached: Annotated[bool, typer.Option("--detached", hidden=True)] = False,
) -> None:
    """Mount an empty file system at DIR; returns once it answers.

    Its files live in memory. What is marked volatile is purged when more than --budget is resident.
    """
    also = parse_mount_options(options or [])
    config = MountConfig(
        mountpoint=os.path.realpath(directory),
        budget=_one("budget", budget, also.budget, parse_size(DEFAULT_BUDGET)),
        size=_one("size", total, also.size, parse_size(DEFAULT_SIZE)),
        access=_one("access", access, also.access, "sigbus"),
        semantics=semantics_of(
            _one("semantics", semantics, also.semantics, "unified"),
            mvrange=_one("mvrange", mvrange, also.mvrange, None),
            private=_one("private", private, also.private, None),
            lifetime=_one("lifetime", lifetime, also.lifetime, None),
            conflict=_one("conflict", conflict, also.conflict, None),
        ),
        allow_other=allow_other or also.allow_other,
        pressure=pressure or also.pressure,
        mount_options=tuple(also.passed_on),
        passthrough=also.passthrough or "auto",
        acls=not also.noacl,
        metrics=_one("metrics", metrics, also.metrics, None),
        log_format=_one("log-format", log_format, also.log_format, "text"),
        uid=also.uid,
        gid=also.gid,
        mode=also.mode,
        fsname=also.fsname or SUBTYPE,
    )
    if config.size < PAGE_SIZE:
        raise UsageError(f"--size {config.size} holds no page; give at least {PAGE_SIZE}")
    from vfs_volatile.cli import launch, mount_checks  # here: other commands need none of it

    mount_checks.check_mountpoint(directory, config.mountpoint)
    mount_checks.check_fuse(allow_other=config.allow_other)
    if not detached:  # it has been said
        mount_checks.warn_of_limit(config)
    if not foreground:
        launch.start_daemon(_arguments(config), config.mountpoint)
        return

    def on_ready() -> None:
        print(f"{launch.READY}{directory}", flush=True)
        if detached:
            launch.detach_output()

    from vfs_volatile.daemon import logs
    from vfs_volatile.daemon.server import serve  # here: trio and pyfuse3 are slow to load

    with logs.written(config.log_format, to_syslog=detached):
        has_gone = serve(config, on_ready)
    if not has_gone:
        from vfs_volatile.cli.unmounting import end_in_unmounting

        end_in_unmounting(config.mountpoint)


def umount(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A vfs-volatile mount.")],
) -> None:
    """Unmount DIR, and wait until its daemon has gone. All data in it is lost.

    Cleans up after a dead daemon as well.
    """
    from vfs_volatile.cli.unmounting import unmount

    unmount(directory)


T = TypeVar("T")
Default = TypeVar("Default")


def _one(name: str, long: T | None, short: T | None, default: Default) -> T | Default:
    """The value that was given, as ``--name`` or in ``-o name=``. Raises UsageError."""
    if long is not None and short is not None:
        raise UsageError(f"--{name} and -o {name}= are both given; give one of them")
    given = short if long is None else long
    return default if given is None else given


def _arguments(config: MountConfig) -> list[str]:
    """The command line that makes a daemon of ``config`` in the foreground."""
    arguments = [
        *("mount", config.mountpoint, "--foreground", "--detached"),
        *("--budget", str(config.budget), "--size", str(config.size)),
        *("--access", config.access),
        *("--mvrange", config.semantics.mvrange, "--private", config.semantics.private),
        *("--lifetime", config.semantics.lifetime, "--conflict", config.semantics.conflict),
    ]
    if config.allow_other:
        arguments.append("--allow-other")
    if config.pressure:
        arguments.append("--pressure")
    if config.metrics:
        arguments += ["--metrics", str(config.metrics)]
    arguments += ["--log-format", config.log_format]
    options = [f"passthrough={config.passthrough}", f"fsname={config.fsname}"]
    options += config.mount_options
    if not config.acls:
        options.append("noacl")
    options += [
        f"{name}={value}" for name in ("uid", "gid") if (value := getattr(config, name)) is not None
    ]
    if config.mode is not None:
        options.append(f"mode={config.mode:o}")
    arguments += ["-o", ",".join(options)]
    return arguments


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command(
        epilog=examples(
            "mount /mnt/cache                              # budget: a quarter of memory",
            "mount /mnt/cache --budget 256M --size 2G",
            "mount /mnt/cache --access zero -o noexec,nosuid",
            "mount /mnt/cache --semantics stultz",
            "mount /mnt/cache -f                           # stay; Ctrl-C unmounts",
        )
    )(mount)
    app.command(epilog=examples("umount /mnt/cache"))(umount)
