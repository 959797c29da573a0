"""Lets Python's own allocations fail on this thread, one by one (no_memory.c)."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_SOURCE = Path(__file__).with_suffix(".c")


def compile_as(library: Path) -> Path:
    """Make the library; where it is."""
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, _SOURCE], check=True)
    return library


class NoMemory:
    """What may fail."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.PyDLL(str(library))
        self._library.begin_refusing.argtypes = [ctypes.c_long]

    def refusing(self, number: int, call: Callable[[], object]) -> tuple[bool, MemoryError | None]:
        """Call it with allocation ``number`` refused: was one, and did it fail for that?"""
        failure = None
        try:
            self._library.begin_refusing(number)  # ctypes too needs memory, before and after
            call()
        except MemoryError as error:
            failure = error
        try:
            return bool(self._library.end_refusing()), failure
        except MemoryError:
            return bool(self._library.end_refusing()), failure

    def failures(
        self, make: Callable[[], T], call: Callable[[T], object]
    ) -> Iterator[tuple[int, T]]:
        """For each allocation of ``call``, on a new one each: what it leaves, if it failed."""
        number = 0
        refused = True
        while refused:
            given = make()
            refused, failure = self.refusing(number, partial(call, given))
            if failure is not None:
                yield number, given
            number += 1
