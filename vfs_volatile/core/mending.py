"""What is done after Python itself has run out of memory in the middle of a change.

A change takes many steps, and each may be the last (MemoryError, of which a caller is told as
ENOMEM). The steps come in such an order that what counts is right after each: no purged page passes
for intact, and none is lost. But a change may be half done, and what only follows from that (sums,
sets that are there to be fast, the order of purging) may not follow any more. ``mend`` makes it.

That takes memory, too, so it is due until it has been done: each change does it before anything
else, and fails without it, when nothing has changed. No more than one thing is ever in doubt.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from vfs_volatile.core.memory import Memory

P = ParamSpec("P")
R = TypeVar("R")


class Mendable(Protocol):
    """What changes, and may be in doubt then."""

    @property
    def memory(self) -> Memory: ...

    def mend(self, newest: int) -> None:
        """Let all that follows from something else follow again. Raises MemoryError.

        ``newest``: the youngest mark there was before. Those made since are of a call that failed,
        so they are ended: whoever was told so does not expect to lose anything.
        """


M = TypeVar("M", bound=Mendable)


def change(method: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """``method`` changes what it is a method of; it may call others that do.

    Takes half a microsecond: what is called most says the same in its own words.
    """

    @wraps(method)
    def changing(changed: M, /, *arguments: P.args, **options: P.kwargs) -> R:
        memory = changed.memory
        if memory.in_doubt is not None:
            memory.mend()
        newest = memory.newest_age
        try:
            return method(changed, *arguments, **options)
        except MemoryError:
            memory.in_doubt, memory.newest_before = changed, newest  # this needs none
            raise

    return changing
