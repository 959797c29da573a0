"""The rules of votes, page by page and process by process: plain, slow, and written without a look
at the code. What it says is what a file must do under ``--mvrange=process``.

A purge is one step here; a process is a name. Marks are sigbus, so a purged page holds nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field


@dataclass
class Process:
    """What one process maps and has said, by page."""

    shared: set[int] = field(default_factory=set)
    private: set[int] = field(default_factory=set)
    agreed: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)
    owed: set[int] = field(default_factory=set)
    """Pages it lost by agreeing, that another took back before it asked."""

    @property
    def mapped(self) -> set[int]:
        return self.shared | self.private

    def copy(self) -> Process:
        return Process(*(set(pages) for pages in vars(self).values()))


@dataclass
class VoteModel:
    """One file of ``size`` pages."""

    size: int
    private_blocks: bool = True
    unlinked: bool = False
    content: dict[int, str] = field(default_factory=dict)
    """A letter for each page that holds data; the others read as zeros."""
    marked: set[int] = field(default_factory=set)
    """By fvrange."""
    purged: set[int] = field(default_factory=set)
    processes: dict[str, Process] = field(default_factory=dict)

    # ---- what is ----

    @property
    def volatile(self) -> set[int]:
        return self.marked.union(*(process.agreed for process in self.processes.values()))

    @property
    def owed(self) -> set[int]:
        """Pages that somebody has yet to be told of."""
        return set().union(*(process.owed for process in self.processes.values()))

    def reads(self) -> str:
        """One letter a page: its data, 0 for zeros, X where it was purged."""
        return "".join(
            "X" if page in self.purged else self.content.get(page, "0") for page in range(self.size)
        )

    def may_go(self, page: int) -> bool:
        """May a purge take it, for all who map it or hold it?"""
        users = [process for process in self.processes.values() if page in process.mapped]
        all_agreed = all(page in process.agreed for process in users)
        if any(page in process.held for process in self.processes.values()):
            return False
        if self.private_blocks and any(page in process.private for process in users):
            anonymous = self.unlinked and not any(page in process.shared for process in users)
            return anonymous and all_agreed
        return page in self.marked or all_agreed

    def would_go(self, pages: Iterable[int]) -> set[int]:
        """What a forced purge of ``pages`` takes: volatile, with data, and forbidden by none."""
        return {
            page
            for page in pages
            if page in self.volatile and page in self.content and self.may_go(page)
        }

    # ---- what processes do ----

    def agree(self, name: str, pages: Collection[int]) -> set[int]:
        """mvrange VOLATILE; which pages are purged."""
        process = self.processes[name]
        process.agreed |= set(pages)
        process.held -= set(pages)
        return self.purged & set(pages)

    def hold(self, name: str, pages: Collection[int]) -> set[int]:
        """mvrange NONVOLATILE; which pages it lost."""
        process = self.processes[name]
        lost = (self.purged | process.owed) & set(pages)
        self._take_back(self.purged & set(pages) - self.marked)
        process.agreed -= set(pages)
        process.owed -= set(pages)
        process.held |= set(pages)
        self._forget_unwanted()
        return lost

    def mark(self, pages: Collection[int]) -> set[int]:
        """fvrange VOLATILE; which pages are purged."""
        self.marked |= set(pages)
        return self.purged & set(pages)

    def unmark(self, pages: Collection[int]) -> set[int]:
        """fvrange NONVOLATILE, which ends votes for these pages too; which pages were purged."""
        lost = self.purged & set(pages)
        self._take_back(lost)
        self.marked -= set(pages)
        for process in self.processes.values():
            process.agreed -= set(pages)
        return lost

    def write(self, page: int, letter: str) -> None:
        """write(2) of a whole page."""
        self.content[page] = letter
        self.purged.discard(page)
        for process in self.processes.values():
            process.owed.discard(page)

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` pages and let it grow back."""
        gone = set(range(size, self.size))
        self.marked -= gone
        self.purged -= gone
        for page in gone:
            self.content.pop(page, None)
        for process in self.processes.values():
            for pages in (process.agreed, process.held, process.owed):
                pages -= gone

    def fork(self, parent: str, child: str) -> None:
        self.processes[child] = self.processes[parent].copy()

    def exec(self, name: str) -> None:
        self.processes[name] = Process()
        self._forget_unwanted()

    def exit(self, name: str) -> None:
        del self.processes[name]
        self._forget_unwanted()

    def purge(self, pages: Iterable[int]) -> None:
        """These pages were purged; whether they might be is for the caller to judge."""
        for page in pages:
            del self.content[page]
            self.purged.add(page)

    # ---- helpers ----

    def _take_back(self, lost: set[int]) -> None:
        """Zeros from now on; all who agreed have yet to be told."""
        self.purged -= lost
        for process in self.processes.values():
            process.owed |= lost & process.agreed

    def _forget_unwanted(self) -> None:
        """Purged pages that are volatile for nobody any more are zeros."""
        self.purged &= self.volatile
