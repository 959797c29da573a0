"""The processes with anonymous memory, and which memory is whose.

A process is an *attachment*: an open file that its library has made one, until it is closed.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterator
from itertools import count as numbers

from vfs_volatile.abi import anonymous as wire
from vfs_volatile.core.anonymous import AnonymousSpace
from vfs_volatile.core.lineage import Lineage
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.attachment import Attachment
from vfs_volatile.fs.journal import Journal, Kind
from vfs_volatile.units import PAGE_SIZE

_MOST_PAGES = 1 << 26
"""Of one allocation: 256 GiB. What is kept here of a claim grows with its size."""
_MOST_REGIONS = 1 << 12
_MOST_RANGES = 1 << 16
"""Of one process: to fork takes some 40 us for each region and 3 us for each range, at one moment.
"""
_REGION_RANGES = 16
"""A region takes as much of the daemon's memory as so many ranges."""


class Attachments:
    """All processes whose anonymous memory counts into one mount."""

    def __init__(self, memory: Memory, journal: Journal) -> None:
        # -- dependencies --
        self._memory = memory
        self._journal = journal
        # -- mutable --
        self._all: list[Attachment] = []
        self._keys = numbers(-1, -1)
        self._regions = numbers(1)
        self._owners: dict[int, tuple[Attachment, int]] = {}
        """By key of the space: whose it is, and the number of the region."""

    def __iter__(self) -> Iterator[Attachment]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def resident(self) -> int:
        """Pages of memory that all hold together."""
        lineages = {space.lineage for owner in self for space in owner.spaces.values()}
        return sum(lineage.charged for lineage in lineages)

    @property
    def silent(self) -> int:
        """How many do not answer."""
        return sum(attachment.silent for attachment in self)

    def owner(self, key: int) -> Attachment | None:
        """Whose memory it is; None for a child that is not born yet, or a process that ended."""
        found = self._owners.get(key)
        return found[0] if found is not None else None

    def region(self, key: int) -> int:
        """Its number in the process that owns it."""
        return self._owners[key][1]

    def attach(self, already: Attachment | None, asked: wire.Attach) -> Attachment:
        """A new process, or the child that one has announced. Raises SyscallError(EINVAL)."""
        for ended in [other for other in self if other.ended]:
            self.remove(ended)
        if already is not None or asked.version != wire.VERSION:
            raise SyscallError(errno.EINVAL)
        new = Attachment()
        if asked.token:
            parent = next((a for a in self if a.unborn and a.unborn[0] == asked.token), None)
            if parent is None or parent.unborn is None:
                raise SyscallError(errno.EINVAL)
            new.spaces, new.addresses = parent.unborn[1], dict(parent.addresses)
            parent.unborn = None
            for region, space in new.spaces.items():
                space.answers = True
                self._owners[space.ino] = (new, region)
        self._all.append(new)
        return new

    def fork(self, parent: Attachment) -> bytes:
        """The child is known, and shares all pages, before it is born.

        Raises SyscallError: ENOMEM (too many ranges), ENOSPC (too many regions).
        """
        self.forget_unborn(parent)
        self._require_regions(len(parent.spaces))
        self._memory.require_ranges(parent.ranges)
        token = secrets.randbits(63) | 1
        children: dict[int, AnonymousSpace] = {}
        parent.unborn = (token, children)
        for region, space in parent.spaces.items():
            children[region] = child = space.lineage.fork(space)
            child.answers = False  # not yet
        return wire.pack_fork(token)

    def forget_unborn(self, parent: Attachment) -> None:
        """A child that was announced was never attached."""
        if parent.unborn is not None:
            for space in parent.unborn[1].values():
                space.lineage.leave(space)
        parent.unborn = None

    def allocate(self, attachment: Attachment, asked: wire.Region) -> bytes:
        """Raises SyscallError: EINVAL (size), ENOSPC (too many regions)."""
        if not 0 < asked.pages <= _MOST_PAGES:
            raise SyscallError(errno.EINVAL)
        if len(attachment.spaces) >= _MOST_REGIONS:
            raise SyscallError(errno.ENOSPC)
        self._require_regions(1)
        region = next(self._regions)
        answer = asked._replace(region=region).pack()
        space = Lineage(self._memory, asked.pages, self._keys).first()
        space.answers = not attachment.silent
        self._owners[space.ino] = (attachment, region)
        attachment.addresses[region] = asked.address
        attachment.spaces[region] = space
        return answer

    def require_ranges(self, attachment: Attachment, more: int) -> None:
        """Raise SyscallError(ENOMEM) if a process may not have so many more."""
        if self._memory.ranges + more > _MOST_RANGES and attachment.ranges + more > _MOST_RANGES:
            raise SyscallError(errno.ENOMEM)

    def free(self, attachment: Attachment, region: int) -> bytes:
        attachment.space(region)
        self._leave(attachment, region)
        return b""

    def remove(self, attachment: Attachment) -> None:
        """The process has ended, or runs another program. What there is no memory for is done when
        the next one comes.
        """
        attachment.ended = True
        for region in list(attachment.spaces):
            self._leave(attachment, region)
        self.forget_unborn(attachment)
        self._all.remove(attachment)

    def record(
        self,
        kind: Kind,
        space: AnonymousSpace,
        span: PageSpan,
        purged: int | None = None,
        **details: object,
    ) -> None:
        """Tell whoever watches what happened to pages of a process."""
        owner, region = self._owners[space.ino]
        start = owner.addresses[region] + span.first * PAGE_SIZE
        length = (span.end - span.first) * PAGE_SIZE
        self._journal.record(kind, None, [start], [length], purged, process=owner.pid, **details)

    def _require_regions(self, more: int) -> None:
        """Raise SyscallError(ENOSPC) if all processes together may not have so many more."""
        if _REGION_RANGES * (len(self._owners) + more) > self._memory.most_ranges:
            raise SyscallError(errno.ENOSPC)

    def _leave(self, attachment: Attachment, region: int) -> None:
        space = attachment.spaces[region]
        space.lineage.leave(space)
        del attachment.spaces[region], attachment.addresses[region], self._owners[space.ino]
