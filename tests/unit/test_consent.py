"""Who forbids a purge: case by case, and against a model that asks page by page."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from vfs_volatile.core.consent import Ballot, Mapper, Process, forbidden, objections
from vfs_volatile.core.pages import PageSpan, page_set
from vfs_volatile.core.semantics import PRESETS, Semantics, semantics_of

PAGES = 6
ALL = BitMap(range(PAGES))
NAMES = ("ann", "bob", "cid", None)

UNIFIED, STULTZ, KIM = PRESETS["unified"], PRESETS["stultz"], PRESETS["kim"]
EVERY_RULE = [UNIFIED, STULTZ, KIM, semantics_of("kim", private="keep")]


def span(first: int, end: int) -> BitMap:
    return page_set(PageSpan(first, end))


def shared(name: str | None, first: int, end: int) -> Mapper:
    return Mapper(name, span(first, end), private=False)


def private(name: str | None, first: int, end: int) -> Mapper:
    return Mapper(name, span(first, end), private=True)


def ballot(agreed: str = "", held: str = "") -> Ballot:
    """Votes on pages by their digits."""
    return Ballot(BitMap(map(int, agreed)), BitMap(map(int, held)))


def barred(
    rules: Semantics,
    mappers: list[Mapper],
    ballots: Mapping[str, Ballot] | None = None,
    *,
    marked: str = "012345",
    unlinked: bool = False,
) -> str:
    """The pages that may not be purged, as digits."""
    marks = BitMap(map(int, marked))
    found = forbidden(
        objections(rules, ALL, marks, mappers, _by_process(ballots or {}), unlinked=unlinked)
    )
    return "".join(map(str, found))


def _by_process(ballots: Mapping[str, Ballot]) -> Mapping[Process, Ballot]:
    return dict(ballots.items())


def test_a_private_mapper_blocks_or_not() -> None:
    mappers = [private("ann", 1, 3), shared("bob", 2, 5)]
    assert barred(UNIFIED, mappers) == "12"
    assert barred(STULTZ, mappers) == ""
    assert barred(KIM, mappers) == "12"


def test_without_votes_marks_and_ballots_do_not_matter() -> None:
    mappers = [shared("ann", 0, 6)]
    assert barred(UNIFIED, mappers, {"ann": ballot(held="3")}, marked="") == ""


def test_a_silent_mapper_forbids_what_no_fvrange_mark_covers() -> None:
    mappers = [shared("ann", 0, 4), shared("bob", 2, 6)]
    assert barred(KIM, mappers, {"ann": ballot("0123")}, marked="") == "2345"
    assert barred(KIM, mappers, {"ann": ballot("0123"), "bob": ballot("3")}, marked="") == "245"
    assert barred(KIM, mappers, {"ann": ballot("0123")}, marked="24") == "35"


def test_a_process_that_holds_vetoes_an_fvrange_mark() -> None:
    assert barred(KIM, [shared("ann", 0, 6)], {"ann": ballot(held="14")}) == "14"


def test_a_hold_lasts_as_long_as_its_process_mapped_or_not() -> None:
    """It may have held right after its mappings were looked at."""
    assert barred(KIM, [], {"ann": ballot(held="14")}) == "14"
    assert barred(KIM, [shared("bob", 0, 2)], {"ann": ballot(held="14")}) == "14"


def test_an_agreement_counts_only_for_its_process() -> None:
    mappers = [shared("ann", 0, 2), shared(None, 1, 3)]
    assert barred(KIM, mappers, {"ann": ballot("012345")}, marked="") == "12"


def test_memory_without_a_name_that_all_map_private_goes_if_all_agreed() -> None:
    mappers = [private("ann", 0, 4), private("bob", 2, 6)]
    votes = {"ann": ballot("012"), "bob": ballot("245")}
    assert barred(KIM, mappers, votes, marked="", unlinked=True) == "3"
    assert barred(KIM, mappers, votes, marked="", unlinked=False) == "012345"
    assert barred(UNIFIED, mappers, votes, unlinked=True) == "012345"


def test_an_fvrange_mark_does_not_stand_for_the_vote_of_a_private_mapper() -> None:
    mappers = [private("ann", 0, 6), private("bob", 0, 6)]
    assert barred(KIM, mappers, {"ann": ballot("0123")}, unlinked=True) == "012345"


def test_one_shared_mapper_and_it_is_no_anonymous_memory() -> None:
    votes = {"ann": ballot("012345"), "bob": ballot("012345")}
    mappers = [private("ann", 0, 6), shared("bob", 4, 6)]
    assert barred(KIM, mappers, votes, marked="", unlinked=True) == "45"


def test_private_keep_with_votes_asks_private_mappers_too() -> None:
    rules = semantics_of("kim", private="keep")
    mappers = [private("ann", 0, 6), shared("bob", 0, 3)]
    votes = {"ann": ballot("0124"), "bob": ballot("1")}
    assert barred(rules, mappers, votes, marked="") == "0235"
    assert barred(rules, mappers, votes, marked="0123") == "5"


def test_what_could_not_be_read_blocks_the_whole_file() -> None:
    unknown = [Mapper(None, None, private=True)]
    assert barred(UNIFIED, unknown) == barred(KIM, unknown, unlinked=True) == "012345"


def test_a_mapping_beyond_the_pages_asked_for() -> None:
    assert barred(UNIFIED, [private("ann", 7, 9)]) == ""
    nothing = objections(KIM, BitMap(), BitMap(), [private("ann", 0, 3)], {}, unlinked=False)
    assert not forbidden(nothing)


# ---- the model ----


class Asker:
    """Asks of one page at a time whether it may go, in the words of the rules."""

    def __init__(
        self, rules: Semantics, mappers: list[Mapper], ballots: dict[str, Ballot], unlinked: bool
    ) -> None:
        self.rules = rules
        self.mappers = mappers
        self.ballots = ballots
        self.unlinked = unlinked

    def may_go(self, page: int, *, marked: bool) -> bool:
        here = [each for each in self.mappers if each.pages is None or page in each.pages]
        everybody_agreed = all(self.agreed(mapper, page) for mapper in here)
        if self.rules.private == "block" and any(mapper.private for mapper in here):
            anonymous = self.unlinked and all(mapper.private for mapper in here)
            if not (self.rules.votes and anonymous and everybody_agreed):
                return False
        if not self.rules.votes:
            return True
        if any(page in ballot.held for ballot in self.ballots.values()):
            return False
        return marked or everybody_agreed

    def agreed(self, mapper: Mapper, page: int) -> bool:
        name = mapper.process
        return isinstance(name, str) and name in self.ballots and page in self.ballots[name].agreed


page_sets = st.sets(st.integers(0, PAGES - 1)).map(BitMap)
mapped = st.none() | st.sets(st.integers(0, PAGES + 1), min_size=1).map(BitMap)
mapper_lists = st.lists(
    st.builds(Mapper, st.sampled_from(NAMES), mapped, st.booleans()), max_size=5
)


@st.composite
def ballot_boxes(draw: st.DrawFn) -> dict[str, Ballot]:
    """Nobody both agrees to a page and holds it."""
    box = {}
    for name in draw(st.sets(st.sampled_from(("ann", "bob", "cid", "dan")))):
        agreed = draw(page_sets)
        box[name] = Ballot(agreed, draw(page_sets) - agreed)
    return box


@settings(max_examples=600)
@given(
    st.sampled_from(EVERY_RULE), page_sets, page_sets, mapper_lists, ballot_boxes(), st.booleans()
)
def test_each_page_is_forbidden_as_the_rules_say(
    rules: Semantics,
    pages: BitMap,
    marked: BitMap,
    mappers: list[Mapper],
    ballots: dict[str, Ballot],
    unlinked: bool,
) -> None:
    asker = Asker(rules, mappers, ballots, unlinked)
    expected = [page for page in pages if not asker.may_go(page, marked=page in marked)]
    found = objections(rules, pages, marked, mappers, _by_process(ballots), unlinked=unlinked)
    assert list(forbidden(found)) == expected


def reasons(
    rules: Semantics, mappers: list[Mapper], ballots: Mapping[str, Ballot]
) -> list[tuple[str, object, str]]:
    """(rule, process, pages) of each objection that is about a page."""
    found = objections(rules, ALL, BitMap(), mappers, _by_process(ballots), unlinked=False)
    return [(one.rule, one.process, "".join(map(str, one.pages))) for one in found if one.pages]


def test_each_objection_names_who_and_why() -> None:
    unknown = Mapper(None, span(5, 9), private=True, pid=12)
    mappers = [private("ann", 0, 2), unknown, shared("bob", 1, 3)]
    assert reasons(UNIFIED, mappers, {}) == [
        ("private-mapping", "ann", "01"),
        ("unreadable", None, "5"),
    ]
    assert reasons(STULTZ, mappers, {}) == []
    votes = {"ann": ballot("01"), "bob": ballot("1", held="4")}
    assert reasons(semantics_of("kim", private="keep"), mappers, votes) == [
        ("held", "bob", "4"),
        ("not-agreed", None, "5"),
        ("not-agreed", "bob", "2"),
    ]


def test_a_copy_of_a_ballot_is_its_own() -> None:
    first = Ballot(BitMap([1]), BitMap([2]), BitMap([3]))
    second = first.copy()
    assert second == first
    for pages in (second.agreed, second.held, second.lost):
        pages.add(9)
    assert first == Ballot(BitMap([1]), BitMap([2]), BitMap([3]))
