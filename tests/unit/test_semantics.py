"""The presets, row by row as the table of ``docs/semantics.md`` ("Whose rules") has them."""

from __future__ import annotations

import pytest

from vfs_volatile.core.semantics import (
    PRESETS,
    Conflict,
    Lifetime,
    Mvrange,
    Preset,
    Private,
    Semantics,
    semantics_of,
)

EVERY_PRESET: tuple[Preset, ...] = ("unified", "stultz", "kim")

ROWS: dict[str, tuple[str, str, str]] = {
    "mvrange": ("shared", "shared", "process"),
    "private": ("block", "keep", "block"),
    "lifetime": ("persistent", "last-close", "persistent"),
}


def test_there_are_three_presets_and_unified_is_the_default() -> None:
    assert tuple(PRESETS) == EVERY_PRESET
    assert Semantics() == PRESETS["unified"]


@pytest.mark.parametrize("rule", ROWS)
def test_a_row_of_the_table(rule: str) -> None:
    assert tuple(getattr(PRESETS[name], rule) for name in EVERY_PRESET) == ROWS[rule]


def test_who_must_agree_before_a_purge() -> None:
    """One mark is enough, or the votes of all who map the page."""
    assert [PRESETS[name].votes for name in EVERY_PRESET] == [False, False, True]


def test_whether_those_who_map_a_page_can_forbid_its_purge() -> None:
    assert [PRESETS[name].looks_at_mappers for name in EVERY_PRESET] == [True, False, True]
    assert semantics_of("kim", private="keep").looks_at_mappers, "votes do"
    assert semantics_of("stultz", private="block").looks_at_mappers


def test_an_mvrange_over_an_fvrange_mark() -> None:
    assert PRESETS["kim"].conflict == "veto"


@pytest.mark.parametrize(
    ("rules", "shared", "private"),
    [
        (PRESETS["unified"], False, True),
        (PRESETS["stultz"], False, True),
        (PRESETS["kim"], False, False),
        (semantics_of("kim", conflict="einval"), True, True),
        (semantics_of("unified", conflict="einval"), False, True),
        (semantics_of("unified", mvrange="process"), False, False),
        (semantics_of("kim", mvrange="shared"), False, True),
    ],
)
def test_which_mappings_mvrange_refuses(rules: Semantics, shared: bool, private: bool) -> None:
    assert rules.mvrange_refused(private=False) == shared
    assert rules.mvrange_refused(private=True) == private


@pytest.mark.parametrize("preset", EVERY_PRESET)
@pytest.mark.parametrize("mvrange", [None, "shared", "process"])
@pytest.mark.parametrize("private", [None, "block", "keep"])
@pytest.mark.parametrize("lifetime", [None, "persistent", "last-close"])
@pytest.mark.parametrize("conflict", [None, "veto", "einval"])
def test_any_single_rule_can_be_chosen_otherwise(
    preset: Preset,
    mvrange: Mvrange | None,
    private: Private | None,
    lifetime: Lifetime | None,
    conflict: Conflict | None,
) -> None:
    found = semantics_of(
        preset, mvrange=mvrange, private=private, lifetime=lifetime, conflict=conflict
    )
    base = PRESETS[preset]
    assert found.mvrange == (mvrange or base.mvrange)
    assert found.private == (private or base.private)
    assert found.lifetime == (lifetime or base.lifetime)
    assert found.conflict == (conflict or base.conflict)
