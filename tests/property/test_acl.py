"""Access control lists against acl(5), read out: whom a list lets do what, one by one."""

from __future__ import annotations

import re
import struct
from itertools import product
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from vfs_volatile.core import acl
from vfs_volatile.errors import SyscallError

TAGS = {1: "U", 2: "u", 4: "G", 8: "g", 16: "M", 32: "O"}
VERSION = struct.pack("<I", 2)
OWNER, OWNING_GROUP = 1, 11


class Person(NamedTuple):
    """Somebody who wants something of a file of OWNER and OWNING_GROUP."""

    uid: int
    gids: frozenset[int]


PEOPLE = [
    Person(uid, frozenset(gids))
    for uid, gids in product((1, 2, 3, 4), ((11,), (12,), (13,), (11, 12), (12, 13), (14,)))
]
WANTS = range(8)


# ---- the slow, obvious model ----


def allows(entries: acl.Acl, who: Person, want: int) -> bool:
    """Acl(5), ACCESS CHECK ALGORITHM. The kernel's, not ours: what is ours must suit it."""

    def perms(tag: int, ids: object = None) -> list[int]:
        return [e.perm for e in entries if e.tag == tag and (ids is None or e.id in ids)]  # type: ignore[operator]

    masks = perms(acl.MASK)
    mask = masks[0] if masks else 7
    if who.uid == OWNER:
        return contains(perms(acl.USER_OBJ)[0], want)
    if named := perms(acl.USER, [who.uid]):
        return contains(named[0] & mask, want)
    groups = perms(acl.GROUP_OBJ) if OWNING_GROUP in who.gids else []
    groups += perms(acl.GROUP, who.gids)
    if groups:
        return any(contains(perm & mask, want) for perm in groups)
    return contains(perms(acl.OTHER)[0], want)


def contains(perm: int, want: int) -> bool:
    return perm & want == want


def of_mode(mode: int) -> acl.Acl:
    """The list that says what a mode says."""
    return (
        acl.Entry(acl.USER_OBJ, mode >> 6 & 7),
        acl.Entry(acl.GROUP_OBJ, mode >> 3 & 7),
        acl.Entry(acl.OTHER, mode & 7),
    )


def class_bits(entries: acl.Acl, who: Person, mode: int) -> int:
    """Those of the three triples of a mode that is about this person (acl(5), CORRESPONDENCE)."""
    if who.uid == OWNER:
        return mode >> 6 & 7
    in_group_class = any(
        (e.tag == acl.USER and e.id == who.uid)
        or (e.tag == acl.GROUP and e.id in who.gids)
        or (e.tag == acl.GROUP_OBJ and OWNING_GROUP in who.gids)
        for e in entries
    )
    return mode >> 3 & 7 if in_group_class else mode & 7


def is_list(tags: list[int], perms: list[int], ids: list[int]) -> bool:
    """Acl(5), VALID ACLs; but the kernel minds neither order nor repetition of the named."""
    word = "".join(TAGS.get(tag, "?") for tag in tags)
    named = [number for number, letter in zip(ids, word, strict=True) if letter in "ug"]
    return (
        bool(re.fullmatch("Uu*Gg*(?:M|)O", word))
        and ("M" in word or not named)
        and max(perms) <= 7
        and acl.NO_ID not in named
    )


# ---- lists ----

perms = st.integers(0, 7)


@st.composite
def lists(draw: st.DrawFn) -> acl.Acl:
    users = draw(st.lists(st.integers(1, 3), unique=True, max_size=3))
    groups = draw(st.lists(st.integers(11, 13), unique=True, max_size=3))
    entries = [
        acl.Entry(acl.USER_OBJ, draw(perms)),
        *(acl.Entry(acl.USER, draw(perms), uid) for uid in users),
        acl.Entry(acl.GROUP_OBJ, draw(perms)),
        *(acl.Entry(acl.GROUP, draw(perms), gid) for gid in groups),
    ]
    has_mask: bool = draw(st.booleans())
    if users or groups or has_mask:
        entries.append(acl.Entry(acl.MASK, draw(perms)))
    return (*entries, acl.Entry(acl.OTHER, draw(perms)))


modes = st.integers(0, 0o7777).map(lambda bits: 0o100000 | bits)
numbers = st.sampled_from([0, 5, 6, acl.NO_ID])
words = st.lists(
    st.tuples(st.sampled_from([*TAGS, *TAGS, 0, 3, 64]), st.sampled_from([*range(8), 8]), numbers),
    max_size=7,
)


def kept(value: bytes | None, mode: int) -> acl.Acl:
    """What the kernel checks with: the list that is kept, or the mode."""
    return acl.parse(value) if value is not None else of_mode(mode)


@given(lists())
def test_a_list_and_its_bytes(entries: acl.Acl) -> None:
    assert acl.parse(acl.to_value(entries)) == entries


@given(words, st.binary(max_size=3))
@example([(1, 7, acl.NO_ID), (4, 7, acl.NO_ID), (32, 7, acl.NO_ID)], b"")
@example([(1, 7, 5), (2, 7, 5), (2, 1, 5), (4, 7, 5), (16, 1, 5), (32, 7, 5)], b"")
def test_what_is_a_list(entries: list[tuple[int, int, int]], garbage: bytes) -> None:
    value = VERSION + b"".join(struct.pack("<HHI", *entry) for entry in entries) + garbage
    columns = [list(column) for column in zip(*entries, strict=True)]
    expected = bool(entries) and not garbage and is_list(*columns)
    assert _is_taken(value) == expected


@given(lists(), st.data())
def test_what_is_damaged_is_no_list_or_another(entries: acl.Acl, data: st.DataObject) -> None:
    value = bytearray(acl.to_value(entries))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if _is_taken(bytes(value)):
        assert acl.to_value(acl.parse(bytes(value))) == value


def _is_taken(value: bytes) -> bool:
    try:
        acl.parse(value)
    except SyscallError:
        return False
    return True


@given(lists(), modes)
def test_giving_a_list_lets_everybody_do_what_it_says(entries: acl.Acl, mode: int) -> None:
    new_mode, value = acl.given(acl.to_value(entries), mode)
    assert new_mode & ~0o777 == mode & ~0o777
    now = kept(value, new_mode)
    for who, want in product(PEOPLE, WANTS):
        assert allows(now, who, want) == allows(entries, who, want)
        # Nobody who looks at the mode alone thinks that somebody may less than he may.
        assert contains(class_bits(entries, who, new_mode), want) >= allows(now, who, want)


@given(lists(), modes)
def test_after_chmod_nobody_may_more_than_the_mode_says(entries: acl.Acl, mode: int) -> None:
    now = acl.parse(acl.after_chmod(acl.to_value(entries), mode))
    assert acl.permissions(now) == mode & 0o777
    unmasked = tuple(e._replace(perm=7) if e.tag == acl.MASK else e for e in entries)
    has_mask = any(entry.tag == acl.MASK for entry in entries)
    for who, want in product(PEOPLE, WANTS):
        said = contains(class_bits(entries, who, mode), want)
        in_group_class = has_mask and who.uid != OWNER and _is_named(entries, who)
        by_entry = allows(unmasked, who, want) if in_group_class else True
        assert allows(now, who, want) == (said and by_entry)


def _is_named(entries: acl.Acl, who: Person) -> bool:
    """Is there an entry of the group class that is about this person?"""
    return class_bits(entries, who, 0o070) == 7


@given(lists(), modes)
def test_inheriting_is_what_both_allow(default: acl.Acl, mode: int) -> None:
    new_mode, value = acl.inherited(acl.to_value(default), mode)
    assert new_mode & ~0o777 == mode & ~0o777
    now = kept(value, new_mode)
    assert acl.permissions(now) == new_mode & 0o777
    for who, want in product(PEOPLE, WANTS):
        by_mode = contains(class_bits(default, who, mode), want)
        assert allows(now, who, want) == (allows(default, who, want) and by_mode)
