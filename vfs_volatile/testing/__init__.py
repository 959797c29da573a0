"""For tests of programs that use a mount: one to test on, whose pages go when the test says so.

pytest's fixtures ``volatile_mount`` and ``volatile_file`` (``vfs_volatile.pytest_plugin``) stand on
this; other test runners use it as it is::

    with VolatileMount(directory, budget="64M") as mount:
        ...
        mount.purge()
"""

from vfs_volatile.testing.mount import VolatileMount

__all__ = ["VolatileMount"]
