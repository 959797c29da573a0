"""One process of the demo: ``python -m vfs_volatile.demo.worker ROLE NUMBER PLAN``.

It speaks in lines of JSON on stdout, see ``tally``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from vfs_volatile.demo import holder, optimist, roles
from vfs_volatile.demo.plan import Plan
from vfs_volatile.trial.leash import end_with_parent

ROLES: dict[str, Callable[[Plan, int], None]] = {
    "build": roles.build,
    "read": roles.read,
    "sample": roles.sample,
    "sweep": roles.sweep,
    "hold": holder.hold,
    "touch": optimist.touch,
}


def main(role: str, number: str, plan: str) -> None:
    """Do the work of one role."""
    end_with_parent()
    ROLES[role](Plan.load(Path(plan)), int(number))


if __name__ == "__main__":
    main(*sys.argv[1:])
