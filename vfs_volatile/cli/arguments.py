"""Arguments that several commands share, and the words of their help."""

from __future__ import annotations

from typing import Annotated

import typer

from vfs_volatile.abi.ioctls import U64_MAX
from vfs_volatile.daemon.config import Address, parse_address
from vfs_volatile.errors import UsageError
from vfs_volatile.units import parse_size


def examples(*commands: str) -> str:
    """The epilog of a help text: ``commands``, one a line."""
    return "\b\n" + "\n".join(["Examples:", *(f"  vfs-volatile {command}" for command in commands)])


def size(text: str) -> int:
    """Bytes of a SIZE argument (``64K``, ``25%``)."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def offset(text: str) -> int:
    """Bytes of a START or LENGTH argument: a size, but not a share of memory."""
    if "%" in text:
        raise typer.BadParameter(f"'{text}' is a share of memory; write bytes, or a K, M, G or T")
    return size(text)


def address(text: str) -> Address:
    """(host, port) of an ADDR argument."""
    try:
        return parse_address(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def span(start: int | None, length: int | None) -> tuple[int, int]:
    """(start, length) as the ioctl takes them: the whole file if nothing is given."""
    if start is None:
        return 0, 0
    if length is None:
        raise UsageError("START needs a LENGTH; give both, or neither for the whole file")
    if start + length > U64_MAX:
        raise UsageError("START+LENGTH ends beyond 64 bits; give a range of the file")
    return start, length


File = Annotated[str, typer.Argument(metavar="FILE", help="A file of a vfs-volatile mount.")]
Start = Annotated[
    int | None,
    typer.Argument(
        metavar="START", parser=offset, help="First byte; takes K, M and G. [default: whole file]"
    ),
]
Length = Annotated[
    int | None,
    typer.Argument(
        metavar="LENGTH", parser=offset, help="Bytes; takes K, M and G. 0: to the end of the file."
    ),
]
