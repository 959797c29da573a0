"""What workers say, a line of JSON each, and what it adds up to.

A line is an object of numbers to add to the counts, or ``{"failure": text}``, or
``{"sample": {...}}``, the mount's own account of its memory in bytes.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from typing import Any


def say(**report: object) -> None:
    """In a worker: report something."""
    os.write(sys.stdout.fileno(), json.dumps(report).encode() + b"\n")


def fail(what: str) -> None:
    """In a worker: report what may not be."""
    say(failure=what)


class Tally:
    """All that has been said."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.sample: dict[str, Any] = {}
        """The newest."""
        self.highest_sampled = 0
        """Bytes resident."""

    def add(self, line: bytes) -> None:
        """Take in one line of a worker."""
        report = json.loads(line)
        if "failure" in report:
            self.failures.append(report["failure"])
        elif "sample" in report:
            self.sample = report["sample"]
            self.highest_sampled = max(self.highest_sampled, self.sample["resident"])
        else:
            self.counts.update(report)
