"""Where an exception of ours becomes an errno for pyfuse3, and a bug becomes EIO."""

from __future__ import annotations

import errno
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pyfuse3

from vfs_volatile.errors import SyscallError, refusal, refusal_text

log = logging.getLogger(__name__)

C = TypeVar("C", bound=type)


def answers_errors(operations: C) -> C:
    """Wrap each handler of pyfuse3 that ``operations`` or a base of it in ours defines.

    pyfuse3 knows FUSEError alone: any other exception would end the daemon, and with it every
    file. A bug is logged and fails its own request with EIO instead.
    """
    for name, given in vars(pyfuse3.Operations).items():
        handler = getattr(operations, name)
        if handler is not given and inspect.iscoroutinefunction(handler):
            setattr(operations, name, _guarded(handler))
    return operations


def _guarded(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(handler)
    async def guarded(*arguments: Any) -> Any:
        try:
            return await handler(*arguments)
        except SyscallError as error:
            raise pyfuse3.FUSEError(error.errno) from None
        except Exception as error:
            code = refusal(error)
            if code is not None:
                log.warning("%s failed: %s", handler.__name__, refusal_text(error))
                raise pyfuse3.FUSEError(code) from None
            log.exception("%s failed unexpectedly", handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return guarded
