"""The compiled part of the shim, loaded so that pyfuse3 goes through it: import before pyfuse3."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any


def _load() -> ModuleType:
    if "pyfuse3" in sys.modules:
        raise ImportError("the shim must be imported before pyfuse3")
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
    try:
        return importlib.import_module("vfs_volatile.native._shim")
    finally:
        sys.setdlopenflags(flags)


_shim = _load()
ffi: Any = _shim.ffi
lib: Any = _shim.lib
