"""The plugin for pytest: ``volatile_mount`` and ``volatile_file``.

pytest loads it in every run, so it imports nothing until a test asks for a mount.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vfs_volatile import VolatileFile
    from vfs_volatile.testing import VolatileMount

_MARKER = "volatile_mount"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(budget='64M', access='zero', ..., deadline=60, purge_on_mark=False):"
        " options of the volatile_mount of a test: those of 'vfs-volatile mount', the seconds"
        " after which it is freed, and whether all is purged the moment it is marked",
    )


@pytest.fixture
def volatile_mount(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VolatileMount]:
    """A mount of this test's own, of vfs-volatile; see ``vfs_volatile.testing.VolatileMount``."""
    from vfs_volatile.testing import VolatileMount

    with VolatileMount(tmp_path_factory.mktemp(_MARKER), **_options(request.node)) as mount:
        yield mount


@pytest.fixture
def volatile_file(volatile_mount: VolatileMount) -> Iterator[VolatileFile]:
    """A VolatileFile, new and empty: the file ``volatile_file`` of ``volatile_mount``."""
    from vfs_volatile import VolatileFile

    file = VolatileFile(volatile_mount.path / "volatile_file", size=0)
    yield file
    with contextlib.suppress(OSError):  # the test has killed the mount
        file.close()


def _options(node: pytest.Item) -> dict[str, Any]:
    """What the markers of a test say; that of a function goes before that of its class."""
    options: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers(_MARKER))):
        if marker.args:
            raise pytest.UsageError(f"{_MARKER} takes options by name: {_MARKER}(budget='64M')")
        options.update(marker.kwargs)
    return options
