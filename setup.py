"""What pyproject.toml cannot say: the shim is a cffi module, and libfvrange no module at all.

``libfvrange.so`` is for C programs, and for ``vfs_volatile.AnonymousMemory``. It lies beside its
headers, as -I and -L of ``vfs-volatile cflags`` name the same directory.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("vfs_volatile/native/libfvrange")
LIBRARY = "vfs_volatile.libfvrange"


class BuildNative(build_ext):
    """Builds the library under the name that the linker looks for."""

    def get_ext_filename(self, fullname: str) -> str:
        """Without the tag of one Python version: it does not use Python."""
        *package, name = fullname.split(".")  # setuptools asks with and without the package
        if name == "libfvrange":
            return str(Path(*package, "libfvrange.so"))
        return super().get_ext_filename(fullname)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """It has no PyInit function."""
        return [] if ext.name == LIBRARY else super().get_export_symbols(ext)


setup(
    cffi_modules=["vfs_volatile/native/build_shim.py:ffi"],
    cmdclass={"build_ext": BuildNative},
    ext_modules=[
        Extension(
            LIBRARY,
            sources=sorted(map(str, SOURCES.glob("*.c"))),
            depends=sorted(map(str, [*SOURCES.glob("*.h"), *Path("vfs_volatile").glob("*.h")])),
            include_dirs=["vfs_volatile"],
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=default"],
            # Its thread may run when somebody calls dlclose().
            extra_link_args=["-Wl,-z,nodelete,-soname,libfvrange.so", "-pthread"],
        )
    ],
)
