"""Anonymous memory for whoever watches: which process holds how much, and why it is kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from pyroaring import BitMap

from vfs_volatile.core.anonymous import AnonymousSpace
from vfs_volatile.fs.attachment import Attachment
from vfs_volatile.fs.attachments import Attachments
from vfs_volatile.fs.journal import ANSWER_BYTES, within
from vfs_volatile.units import PAGE_SIZE

_MOST_BLOCKERS = 8


def processes_json(attachments: Attachments) -> bytes:
    """The processes with anonymous memory, most of it first; as many as fit."""
    held = sorted(attachments, key=_held, reverse=True)
    texts, _ = within((json.dumps(_process(attachments, one)) for one in held), ANSWER_BYTES)
    return f"[{', '.join(texts)}]".encode()


def _held(attachment: Attachment) -> int:
    return sum(space.held for space in attachment.spaces.values())


def _process(attachments: Attachments, attachment: Attachment) -> Mapping[str, object]:
    """Sizes are bytes; ``resident`` counts shared pages too, ``kept`` what is marked in vain."""
    spaces = attachment.spaces.values()
    kept = 0
    by: Counter[int] = Counter()
    for space in spaces:
        stays = _marked(space) & space.resident
        stays -= space.allowed(stays) if not attachment.silent else BitMap()
        kept += len(stays)
        for other, shared in space.sharers(stays):
            shared -= _marked(other)
            if shared:
                by[other.ino] += len(shared)
    return {
        **attachment.name,
        "resident": _held(attachment) * PAGE_SIZE,
        "volatile": sum(space.volatility.pages for space in spaces) * PAGE_SIZE,
        "purged": sum(len(space.volatility.purged) for space in spaces) * PAGE_SIZE,
        "kept": kept * PAGE_SIZE,
        "by": _blockers(attachments, attachment, by),
    }


def _marked(space: AnonymousSpace) -> BitMap:
    pages = BitMap()
    for entry in space.volatility.ranges:
        pages.add_range(entry.first, entry.end)
    return pages


def _blockers(
    attachments: Attachments, attachment: Attachment, by: Counter[int]
) -> list[dict[str, object]]:
    blockers: list[dict[str, object]] = []
    if attachment.silent:
        blockers.append({"rule": "silent", **attachment.name})
    for key, pages in by.most_common(_MOST_BLOCKERS):
        owner = attachments.owner(key)
        who = owner.name if owner is not None else {"pid": None, "command": None}
        blockers.append({"rule": "shared", **who, "bytes": pages * PAGE_SIZE})
    return blockers
