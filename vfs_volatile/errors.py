"""The exceptions of this package.

::

    VolatileError               never raised itself
    +-- SyscallError            a request the kernel must answer with an errno
    +-- UserError               a command that cannot be done; its text is one line: cause; mend
        +-- UsageError          a command that makes no sense as given
"""

from __future__ import annotations

import os


class VolatileError(Exception):
    """Base class of everything raised here on purpose."""


class SyscallError(VolatileError):
    """A file system request fails with ``errno``; nothing was changed."""

    def __init__(self, errno: int) -> None:
        super().__init__(os.strerror(errno))
        self.errno = errno


class UserError(VolatileError):
    """A command fails for a reason its user can mend; the text says how."""

    exit_code = 1


class UsageError(UserError):
    """The command line itself is wrong."""

    exit_code = 2
