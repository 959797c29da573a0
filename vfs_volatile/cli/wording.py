"""Events and those who block a purge, in words: one line each, for a terminal or a log."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from vfs_volatile.abi.ioctls import (
    PRIORITY_MASK,
    PRIORITY_SHIFT,
    VRANGE_PARTIAL,
    VRANGE_SIGBUS,
    VRANGE_ZERO,
)
from vfs_volatile.processes.identity import command_of
from vfs_volatile.units import format_size

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNITS = ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))

_RULES = {
    "private-mapping": "mapped private by {who}",
    "unreadable": "perhaps mapped by {who}, whose mappings cannot be read",
    "held": "held by {who}",
    "not-agreed": "mapped by {who}, who has not agreed",
    "shared": "shared with {who}, who has not marked it",
    "silent": "held by {who}, who does not answer",
    "more": "and {count} more",
}


def event_line(event: Mapping[str, Any]) -> str:
    """``event`` as one line."""
    return f"{clock(event['time'])}  {event['event']:<6}  {_what(event)}".rstrip()


def clock(seconds: float) -> str:
    """A time since the epoch as that of the day, to the millisecond."""
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{int(seconds % 1 * 1000):03}"


def path_of(entry: Mapping[str, Any]) -> str:
    """The path of a file below the mount, ``?`` if it has no name; or whose memory it is."""
    if owner := entry.get("process"):
        if isinstance(owner, int):
            owner = {"pid": owner, "command": command_of(owner)}
        return f"memory of {process_name(owner['pid'], owner['command'])}"
    path = entry["path"]
    return "?" if path is None else printable(path)


def printable(text: str) -> str:
    """``text`` without anything that a terminal would obey."""
    return _CONTROL.sub(lambda control: repr(control[0])[1:-1], text)


def span_of(entry: Mapping[str, Any]) -> str:
    """START+LENGTH as the commands take it, with K, M or G where exact; an address in hex."""
    start = hex(entry["start"]) if entry.get("process") else short(entry["start"])
    return f"{start}+{short(entry['length'])}"


def short(count: int) -> str:
    """``count`` bytes, exact, with a suffix if it is a multiple of one."""
    for unit, suffix in _UNITS:
        if count and count % unit == 0:
            return f"{count // unit}{suffix}"
    return str(count)


def blockers_line(by: list[Mapping[str, Any]]) -> str:
    """Who forbids a purge, and why."""
    return "; ".join(blocker_line(one) for one in by)


def blocker_line(one: Mapping[str, Any]) -> str:
    """One process that forbids a purge, and why."""
    where = ""
    if addresses := one.get("addresses"):
        where = f" at {addresses[0]:x}-{addresses[1]:x}"
    who = process_name(one.get("pid"), one.get("command"))
    return _RULES[one["rule"]].format(who=who, count=one.get("count")) + where


def process_name(pid: int | None, command: str | None) -> str:
    """``command[pid]``, as far as they are known."""
    if not pid:
        return "a process out of sight"
    return f"{printable(command or '')}[{pid}]"


def behavior_words(behavior: int) -> str:
    """The flags of a mark."""
    words = ["partial" if behavior & VRANGE_PARTIAL else "full"]
    if behavior & VRANGE_ZERO:
        words.append("zero")
    if behavior & VRANGE_SIGBUS:
        words.append("sigbus")
    if behavior & PRIORITY_MASK:
        words.append(f"priority {(behavior & PRIORITY_MASK) >> PRIORITY_SHIFT}")
    return " ".join(words)


def _what(event: Mapping[str, Any]) -> str:
    if event["event"] == "budget":
        return f"is {format_size(event['bytes'])} now{_by(event)}"
    ranges = f" in {event['ranges']} ranges" if "ranges" in event else ""
    return f"{span_of(event):<14}  {path_of(event)}{ranges}  {_details(event)}"


def _details(event: Mapping[str, Any]) -> str:
    match event["event"]:
        case "mark":
            return f"{behavior_words(event['behavior'])}{_vote(event)}{_by(event)}"
        case "unmark":
            lost = f"{format_size(event['purged'])} lost" if event["purged"] else "intact"
            return f"{lost}{_vote(event)}{_by(event)}"
        case "purge":
            return f"{format_size(event['bytes'])} for {event['cause']}"
        case "block":
            wanted = f" (wanted for {event['cause']})" if "cause" in event else ""
            return f"{blockers_line(event['by'])}{wanted}"
        case _:
            return ""


def _vote(event: Mapping[str, Any]) -> str:
    return ", a vote" if event.get("vote") else ""


def _by(event: Mapping[str, Any]) -> str:
    if event.get("cause"):
        return f" ({event['cause']})"
    tid = event.get("tid")
    return f" by {process_name(tid, command_of(tid))}" if tid else ""
