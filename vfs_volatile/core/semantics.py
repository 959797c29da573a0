"""The rules that the thread of 2013 argued over, each a field, and the presets that combine them.

====================  ============  ============  =============================================
rule                  unified       stultz        kim
====================  ============  ============  =============================================
mvrange               shared        shared        process: a vote, ends with the process
private mapper        block         keep          block
lifetime of a mark    persistent    last-close    persistent
mvrange NONVOLATILE   clears it     clears it     veto: that process holds the page, or
over an fvrange mark                              einval: no mvrange on file pages
who must agree        one mark      one mark      fvrange mark, or all who map the page
====================  ============  ============  =============================================

Who may forbid a purge, by these rules, is computed in ``consent``. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Preset = Literal["unified", "stultz", "kim"]
Mvrange = Literal["shared", "process"]
"""Where a mark by address is kept: in the file, or as a vote of the process."""
Private = Literal["block", "keep"]
"""A page with a private mapper: not purged, or purged while its COWed copies are kept."""
Lifetime = Literal["persistent", "last-close"]
"""When an fvrange mark ends: with NONVOLATILE, or when the last user has closed the file."""
Conflict = Literal["veto", "einval"]
"""With votes: what mvrange on file pages may do about an fvrange mark."""


@dataclass(frozen=True, slots=True)
class Semantics:
    """One choice for each rule."""

    mvrange: Mvrange = "shared"
    private: Private = "block"
    lifetime: Lifetime = "persistent"
    conflict: Conflict = "veto"

    @property
    def looks_at_mappers(self) -> bool:
        """Can who maps a page forbid its purge?"""
        return self.private == "block" or self.votes

    @property
    def votes(self) -> bool:
        """Is a mark by address a vote of the process?"""
        return self.mvrange == "process"

    def mvrange_refused(self, *, private: bool) -> bool:
        """Is mvrange on such a mapping of file pages EINVAL?"""
        return self.conflict == "einval" if self.votes else private


PRESETS: dict[Preset, Semantics] = {
    "unified": Semantics(),
    "stultz": Semantics(private="keep", lifetime="last-close"),
    "kim": Semantics(mvrange="process"),
}


def semantics_of(
    preset: Preset,
    *,
    mvrange: Mvrange | None = None,
    private: Private | None = None,
    lifetime: Lifetime | None = None,
    conflict: Conflict | None = None,
) -> Semantics:
    """The preset, with single rules chosen otherwise."""
    base = PRESETS[preset]
    return Semantics(
        mvrange or base.mvrange,
        private or base.private,
        lifetime or base.lifetime,
        conflict or base.conflict,
    )
