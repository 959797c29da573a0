"""Sockets with a name in a directory, however long its path is: the kernel takes 107 bytes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager


def bind(listener: socket.socket, path: str) -> None:
    """Give ``listener`` (AF_UNIX) the name ``path``. Raises OSError."""
    with _short(path) as name:
        listener.bind(name)


def connect(connection: socket.socket, path: str) -> None:
    """Connect with whoever has the name ``path``. Raises OSError."""
    with _short(path) as name:
        connection.connect(name)


@contextmanager
def _short(path: str) -> Iterator[str]:
    """Another name of ``path`` for as long as the body runs."""
    directory, name = os.path.split(path)
    opened = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{opened}/{name}"
    finally:
        os.close(opened)
