"""Random sequences on a VolatileCache: a miss is always allowed, a wrong value never."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.support import fvrange
from tests.support.fvrange import PAGE, SIGBUS, ZERO
from tests.support.mount import LONG_DEADLINE, Mount
from vfs_volatile import VolatileCache
from vfs_volatile.client.cache.layout import HEAD_BYTES

SIZE = 1 << 20
KEYS = st.sampled_from(["a", b"a", 1, 1.0, ("a", 1), None, *range(2, 12)])
VALUES = st.one_of(
    st.integers(),
    st.text(max_size=20),
    st.builds(
        lambda seed, size: seed * size, st.binary(min_size=1, max_size=4), st.integers(0, 9000)
    ),
)
PRIORITIES = st.integers(0, 7)
MISS = object()


class CacheMachine(RuleBasedStateMachine):
    """Two objects for one file, as in two processes, and a model: what was set last."""

    directory: str

    @initialize(
        size=st.sampled_from([SIZE, 2 * SIZE]),
        entries=st.sampled_from([None, 8, 32]),
        passthrough=st.booleans(),
    )
    def make(self, size: int, entries: int | None, passthrough: bool) -> None:
        self.path = os.path.join(self.directory, "cache")
        if not passthrough:
            open(self.path, "x").close()
        self.caches = [VolatileCache(self.path, size=size, entries=entries)]
        self.caches.append(VolatileCache(self.path))
        self.fd = os.open(self.path, os.O_RDWR)
        self.model: dict[tuple[type, Hashable], object] = {}
        self.may_be_lost = False

    def teardown(self) -> None:
        if hasattr(self, "caches"):
            for cache in self.caches:
                cache.close()
            os.close(self.fd)
            os.unlink(self.path)

    def expect(self, key: Hashable, found: object) -> None:
        if found is not MISS:
            wanted = self.model.get((type(key), key), MISS)
            assert found == wanted, f"{key!r}: {found!r} is not {wanted!r}"
            assert type(found) is type(wanted)

    @rule(who=st.integers(0, 1), key=KEYS, value=VALUES, priority=PRIORITIES)
    def set(self, who: int, key: Hashable, value: object, priority: int) -> None:
        self.caches[who].set(key, value, priority=priority)
        self.model[type(key), key] = value
        assert self.caches[1 - who].get(key) == value, "nobody purged it in between"

    @rule(who=st.integers(0, 1), key=KEYS, value=VALUES, priority=PRIORITIES)
    def add(self, who: int, key: Hashable, value: object, priority: int) -> None:
        if self.caches[who].add(key, value, priority=priority):
            self.model[type(key), key] = value
        else:
            assert (type(key), key) in self.model

    @rule(who=st.integers(0, 1), key=KEYS, value=VALUES)
    def get_or_create(self, who: int, key: Hashable, value: object) -> None:
        built = []

        def build() -> object:
            built.append(key)
            return value

        found = self.caches[who].get_or_create(key, build)
        if built:
            self.model[type(key), key] = value
        self.expect(key, found)

    @rule(who=st.integers(0, 1), key=KEYS)
    def get(self, who: int, key: Hashable) -> None:
        self.expect(key, self.caches[who].get(key, MISS))

    @rule(who=st.integers(0, 1), key=KEYS)
    def pop(self, who: int, key: Hashable) -> None:
        self.expect(key, self.caches[who].pop(key, MISS))
        self.model.pop((type(key), key), None)

    @rule(who=st.integers(0, 1), key=KEYS)
    def touch(self, who: int, key: Hashable) -> None:
        self.caches[who].touch(key)

    @rule(who=st.integers(0, 1))
    def look_at_all(self, who: int) -> None:
        keys = list(self.caches[who])
        assert len({(type(key), key) for key in keys}) == len(keys)
        assert {(type(key), key) for key in keys} <= self.model.keys()

    @rule(who=st.integers(0, 1))
    def clear(self, who: int) -> None:
        self.caches[who].clear()
        self.model.clear()

    @rule(who=st.integers(0, 1))
    def reopen(self, who: int) -> None:
        self.caches[who].close()
        self.caches[who] = VolatileCache(self.path)

    @rule()
    def purge(self) -> None:
        fvrange.purge(self.fd)

    @rule(first=st.integers(0, 99), count=st.integers(1, 9))
    def purge_some(self, first: int, count: int) -> None:
        fvrange.purge(self.fd, self.caches[0]._geometry.segments_at + first * PAGE, count * PAGE)

    @rule(first=st.integers(0, 400), count=st.integers(1, 9), how=st.sampled_from([SIGBUS, ZERO]))
    def mark_and_purge_whatever(self, first: int, count: int, how: int) -> None:
        with contextlib.suppress(OSError):  # EOPNOTSUPP: no SIGBUS on the passthrough path
            fvrange.mark(self.fd, first * PAGE, count * PAGE, how)
        fvrange.purge(self.fd, first * PAGE, count * PAGE)

    @rule()
    def unmark(self) -> None:
        fvrange.unmark(self.fd)

    @rule(keep=st.integers(HEAD_BYTES, SIZE))  # a file with half a head is refused when opened
    def truncate(self, keep: int) -> None:
        os.ftruncate(self.fd, keep)

    @invariant()
    def nothing_is_wrong(self) -> None:
        if hasattr(self, "caches"):
            for kind, key in list(self.model):
                assert type(key) is kind
                self.expect(key, self.caches[0].get(key, MISS))


def test_a_random_life(fs: Mount) -> None:
    fs.rearm(LONG_DEADLINE)
    CacheMachine.directory = str(fs.path)
    run_state_machine_as_test(
        CacheMachine,
        settings=settings(
            max_examples=30,
            phases=[Phase.generate],
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
