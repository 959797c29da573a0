"""The shim built with AddressSanitizer and UndefinedBehaviorSanitizer, and the program on it.

    python -m tests.support.sanitized mount DIR ...

The program runs itself again with the sanitizer's runtime loaded first, and with Python's own
allocator off: then also a buffer that Python hands to the shim has its ends watched.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

SHIM = "VFS_VOLATILE_SANITIZED_SHIM"
"""Variable that names the built library."""


def build(directory: Path) -> Path:
    """Compile the shim into ``directory``; the library."""
    from vfs_volatile.native import build_shim

    source, library = directory / "_shim.c", directory / "_shim.so"
    build_shim.ffi.emit_c_code(str(source))
    fuse = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=True
    )
    subprocess.run(
        [
            *("gcc", "-shared", "-fPIC", "-g", "-O1", "-fno-omit-frame-pointer"),
            *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
            *("-D_FILE_OFFSET_BITS=64", "-I", str(Path(build_shim.__file__).parent)),
            *("-I", sysconfig.get_path("include"), str(source), "-o", str(library)),
            *(*fuse.stdout.split(), "-ldl"),
        ],
        check=True,
        timeout=120,
    )
    return library


def environment(library: Path) -> dict[str, str]:
    """For a Python that is to load ``library``."""
    runtime = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    return {
        **os.environ,
        SHIM: str(library),
        "LD_PRELOAD": runtime.stdout.strip(),
        # The interpreter itself leaves much to the end of the process.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }


def load() -> ModuleType:
    """The library as the module that the package looks for."""
    name = "vfs_volatile.native._shim"
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
    try:
        spec = spec_from_file_location(name, os.environ[SHIM])
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    finally:
        sys.setdlopenflags(flags)
    return sys.modules[name]


if __name__ == "__main__":
    if "LD_PRELOAD" not in os.environ:
        again = [sys.executable, "-m", "tests.support.sanitized", *sys.argv[1:]]
        os.execve(sys.executable, again, environment(Path(os.environ[SHIM])))
    load()
    from vfs_volatile.cli import main

    sys.exit(main(sys.argv[1:]))
