"""Which pages of a file hold memory, found by counting: nobody has a list of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vfs_volatile.core.pages import DirectStore, PageSpan, reach

_NEAR = 4
"""Pages: so near they are asked for one by one."""


def present(store: DirectStore, span: PageSpan) -> Iterator[PageSpan]:
    """The runs of pages of ``span`` that hold memory at this moment, in order."""
    if not span:
        return
    left = store.held_in(span)
    if left == span.end - span.first:
        yield span
        return
    page = span.first
    search = Search(store)
    while left > 0 and (page := search.first_held(PageSpan(page, span.end))) < span.end:
        end = held_end(store, PageSpan(page, span.end))
        yield PageSpan(page, end)
        left -= end - page
        page = end


class Search:
    """Finds what a store holds, place after place."""

    def __init__(self, store: DirectStore) -> None:
        self._store = store
        self._hints = True
        """Is there nothing but what was touched? To pass over all that was allocated alone takes as
        long as that is much, and so does not happen twice."""

    def first_held(self, span: PageSpan) -> int:
        """The first page of ``span`` that holds memory; its end if none does."""
        near = PageSpan(span.first, min(span.first + _NEAR, span.end))
        page = reach(self._none_held, *near)
        if page < near.end or page >= span.end:
            return page
        if self._hints:
            touched = self._store.next_data(page)
            end = span.end if touched is None else min(touched, span.end)
            if end == page or self._none_held(page, end):
                return end
            self._hints = False
        return reach(self._none_held, page, span.end)

    def _none_held(self, first: int, end: int) -> bool:
        return not self._store.held_in(PageSpan(first, end))


def few_pages(held_in: Callable[[PageSpan], int], span: PageSpan, most: int) -> PageSpan:
    """The first part of ``span`` in which no more than ``most`` pages, at least one, are held."""
    left = most

    def few(first: int, end: int) -> bool:
        nonlocal left
        found = held_in(PageSpan(first, end))
        if found > left:
            return False
        left -= found
        return True

    return PageSpan(span.first, reach(few, *span))


def last_few_pages(held_in: Callable[[PageSpan], int], end: int, most: int) -> int:
    """The page from which on no more than ``most`` pages, at least one, are held below ``end``."""

    def mirrored(span: PageSpan) -> int:
        return held_in(PageSpan(end - span.end, end - span.first))

    return end - few_pages(mirrored, PageSpan(0, end), most).end


def held_end(store: DirectStore, span: PageSpan) -> int:
    """The first page of ``span`` that holds none; its end if all do."""
    return reach(lambda a, b: store.held_in(PageSpan(a, b)) == b - a, *span)
