"""Which libfuse the daemon was built against."""

from __future__ import annotations

import subprocess


def libfuse() -> tuple[int, ...]:
    """Its version, as ``(3, 14, 0)``."""
    asked = ["pkg-config", "--modversion", "fuse3"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    return tuple(map(int, said.strip().split(".")))
