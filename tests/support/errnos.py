"""Errnos by name, so that a failed assertion says which one came instead."""

from __future__ import annotations

import errno
from collections.abc import Callable


def errno_of(call: Callable[..., object], *arguments: object) -> str:
    """The name of the errno with which ``call`` fails; what it returned when it does not."""
    try:
        return f"no error, but {call(*arguments)!r}"
    except OSError as error:
        name = errno.errorcode[error.errno or 0]
        return "EOPNOTSUPP" if name == "ENOTSUP" else name  # one number, two names
