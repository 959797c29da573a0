"""The counters of a mount, as ``user.vfs_volatile.stats`` has them: each is named here, once."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

Kind = Literal["gauge", "counter"]
"""A gauge goes up and down; a counter only grows while mounted."""
Unit = Literal["bytes", "milliseconds", "processes", "times"]


class Meaning(NamedTuple):
    """What a counter tells."""

    kind: Kind
    unit: Unit
    text: str


def _gauge(unit: Unit, text: str) -> Any:
    return field(metadata={"meaning": Meaning("gauge", unit, text)})


def _counter(unit: Unit, text: str) -> Any:
    return field(metadata={"meaning": Meaning("counter", unit, text)})


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """All counters of a mount at one moment."""

    size: int = _gauge("bytes", "resident above which writers get ENOSPC")
    budget: int = _gauge("bytes", "resident above which volatile pages are purged")
    resident: int = _gauge("bytes", "held in memory")
    passthrough: int = _gauge("bytes", "of it, in files that processes reach without the daemon")
    highest_resident: int = _gauge("bytes", "most that was ever held in memory")
    volatile: int = _gauge("bytes", "marked volatile, purged or not")
    purged: int = _gauge("bytes", "purged, and neither unmarked nor rewritten since")
    purged_ever: int = _counter("bytes", "purged since the mount was made")
    marks: int = _counter("times", "somebody marked ranges volatile, in one call")
    unmarks: int = _counter("times", "somebody took ranges back, in one call")
    unmarked_purged: int = _counter("bytes", "found purged by those who took them back")
    blocked_purges: int = _counter("times", "a range was kept from being purged by who maps it")
    pressure_events: int = _counter("times", "the kernel told of a shortage of memory (--pressure)")
    pressure_elsewhere: int = _counter(
        "times", "such a shortage was a limit of somebody else's, with memory free: nothing is done"
    )
    looks_at_processes: int = _counter("times", "the mappings of all processes were looked at")
    looks_milliseconds: int = _counter("milliseconds", "spent looking at them")
    processes_asked: int = _counter("times", "a look asked a process what it has mapped")
    processes_remembered: int = _counter(
        "times", "a look did not ask a process, as it had slept since it was asked"
    )
    anonymous_processes: int = _gauge("processes", "have anonymous memory that counts here")
    anonymous_resident: int = _gauge("bytes", "of what is resident, anonymous memory of processes")
    anonymous_silent: int = _gauge("processes", "of these do not answer, so keep what they hold")


MEANINGS: dict[str, Meaning] = {
    counter.name: counter.metadata["meaning"] for counter in fields(Statistics)
}
