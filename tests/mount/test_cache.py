"""VolatileCache in one process, on a mount that drops nothing unless it is told to."""

from __future__ import annotations

import gc
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fvrange
from tests.support.mount import Mount, MountFactory
from tests.support.waiting import PATIENCE, eventually
from vfs_volatile import VolatileCache
from vfs_volatile.client.cache.layout import State

MIB = 1 << 20


@pytest.fixture
def cache(fs: Mount) -> Iterator[VolatileCache]:
    with VolatileCache(fs.path / "cache", size=16 * MIB) as made:
        yield made


def purge(cache: VolatileCache) -> None:
    """Drop whatever the cache has marked."""
    fd = os.open(cache.path, os.O_RDWR)
    try:
        fvrange.purge(fd)
    finally:
        os.close(fd)


def volatile_bytes(cache: VolatileCache) -> int:
    fd = os.open(cache.path, os.O_RDWR)
    try:
        return sum(run.length for run in fvrange.ranges(fd))
    finally:
        os.close(fd)


def test_it_is_a_mapping(cache: VolatileCache) -> None:
    cache["text"] = "value"
    cache[b"bytes"] = b"\0" * 10
    cache[1, None] = {"a": [1]}
    assert (cache["text"], cache[b"bytes"], cache[1, None]) == ("value", b"\0" * 10, {"a": [1]})
    assert "text" in cache
    assert "none" not in cache
    assert set(cache) == {"text", b"bytes", (1, None)}
    assert len(cache) == 3
    del cache["text"]
    assert "text" not in cache
    assert len(cache) == 2


def test_what_is_not_there(cache: VolatileCache) -> None:
    assert cache.get("none") is None
    assert cache.get("none", 7) == 7
    assert cache.pop("none") is None
    assert cache.pop("none", 7) == 7
    assert cache.delete("none") is False
    assert cache.touch("none") is False
    with pytest.raises(KeyError, match="none"):
        cache["none"]
    with pytest.raises(KeyError, match="none"):
        del cache["none"]


def test_add_keeps_what_is_there(cache: VolatileCache) -> None:
    assert cache.add("key", 1) is True
    assert cache.add("key", 2) is False
    assert cache["key"] == 1


def test_pop_takes_it_out(cache: VolatileCache) -> None:
    cache["key"] = 1
    assert cache.pop("key") == 1
    assert "key" not in cache


def test_types_of_keys_are_told_apart(cache: VolatileCache) -> None:
    for key in (1, 1.0, True, "1", b"1", (1,)):
        cache[key] = type(key).__name__
    assert {type(key).__name__: cache[key] for key in cache} == {
        name: name for name in ("int", "float", "bool", "str", "bytes", "tuple")
    }


def test_an_older_value_is_gone_when_set_returns(cache: VolatileCache, fs: Mount) -> None:
    with VolatileCache(fs.path / "cache") as other:
        for number in range(2000):
            cache["key"] = number
            assert other["key"] == number


@pytest.mark.parametrize("size", [0, 1, 4096, 65535, MIB - 7, MIB, 3 * MIB // 2])
def test_values_of_any_size(cache: VolatileCache, size: int) -> None:
    value = os.urandom(size)
    cache["before"] = b"before"
    cache["key"] = value
    cache["after"] = b"after"
    assert cache["key"] == value
    assert (cache["before"], cache["after"]) == (b"before", b"after")


def test_a_value_that_is_too_large_is_refused_and_changes_nothing(cache: VolatileCache) -> None:
    cache["key"] = "old"
    with pytest.raises(ValueError, match=r"too large; a cache of this size takes \d+ bytes"):
        cache["key"] = bytes(2 * MIB)
    assert cache["key"] == "old"
    assert cache.get_or_create("other", lambda: bytes(2 * MIB)) == bytes(2 * MIB)
    assert "other" not in cache


@pytest.mark.parametrize("priority", [-1, 8])
def test_a_priority_that_there_is_not_is_refused(cache: VolatileCache, priority: int) -> None:
    with pytest.raises(ValueError, match="is not between 0 and 7"):
        cache.set("key", 1, priority=priority)
    assert "key" not in cache


def test_entries_give_way_to_newer_ones(cache: VolatileCache) -> None:
    value = os.urandom(100_000)
    for number in range(500):
        cache[number] = value
    there = set(cache)
    assert there <= set(range(500))
    assert 499 in there
    assert 0 not in there
    assert 100 <= len(there) <= 160, "16 MiB hold some 160 of them"
    assert cache.stats().lost == 0
    assert cache.get(0) is None


def test_more_keys_than_the_index_has_room_for(fs: Mount) -> None:
    with VolatileCache(fs.path / "small", size=MIB, entries=64) as cache:
        for number in range(1000):
            cache[number] = number
        there = set(cache)
        assert 999 in there
        assert len(there) == 64
        assert all(cache[number] == number for number in there)


def test_keys_with_the_same_hash_are_told_apart(
    cache: VolatileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As good as impossible; then one of them is lost."""
    same = cache._place_of(b"anything")
    monkeypatch.setattr(cache, "_place_of", lambda _: same)
    cache["one"] = 1
    assert "other" not in cache
    cache["other"] = 2
    assert cache.get("one") is None
    assert cache["other"] == 2
    assert list(cache) == ["other"]


# ---- what the mount drops ----


def test_full_segments_are_volatile_and_the_rest_when_it_is_closed(fs: Mount) -> None:
    with VolatileCache(fs.path / "cache", size=16 * MIB) as cache:
        segment = cache._geometry.segment_bytes
        cache["key"] = bytes(1000)
        assert volatile_bytes(cache) == 0
        for number in range(10):
            cache[number] = bytes(segment // 2 - 100)
        assert volatile_bytes(cache) == 5 * segment
    assert 5 * segment < volatile_bytes(cache) < 6 * segment
    with VolatileCache(cache.path) as again:
        assert again["key"] == bytes(1000)
        again["new"] = "written behind what is marked"
        purge(again)
        assert again.get("key") is None
        assert again["new"] == "written behind what is marked"


def test_what_was_purged_is_a_miss_and_can_be_set_again(cache: VolatileCache) -> None:
    for number in range(100):
        cache[number] = os.urandom(50_000)
    purge(cache)
    assert cache.get(0, "gone") == "gone"
    assert 0 not in cache
    assert 0 not in set(cache)
    assert cache.stats().lost > 0
    cache[0] = "again"
    assert cache[0] == "again"
    assert cache.add(1, "added") is True


def test_a_value_of_which_one_page_is_gone_is_a_miss(cache: VolatileCache) -> None:
    """Wherever the page lies."""
    geometry = cache._geometry
    for page in range(0, geometry.segment_bytes, 16 * 4096):
        cache["key"] = os.urandom(geometry.segment_bytes + 1)  # it is marked at once
        fd = os.open(cache.path, os.O_RDWR)
        first = min(run.start for run in fvrange.ranges(fd) if not run.purged)
        fvrange.purge(fd, first + page, 4096)
        os.close(fd)
        assert cache.get("key") is None
        cache.clear()


def test_under_pressure_it_stays_near_the_budget(mount: MountFactory) -> None:
    fs = mount(budget="8M")
    with VolatileCache(fs.path / "cache", size=64 * MIB) as cache:
        for number in range(1000):
            cache[number] = number.to_bytes(4, "big") * 8000
        assert eventually(lambda: fs.resident <= 10 * MIB)
        there = set(cache)
        assert 999 in there
        assert len(there) < 400
        assert all(cache.get(n) in (None, n.to_bytes(4, "big") * 8000) for n in range(1000))


def test_low_priority_goes_first(mount: MountFactory) -> None:
    fs = mount(budget="8M")
    with VolatileCache(fs.path / "cache", size=64 * MIB) as cache:
        for number in range(40):
            cache.set(("dear", number), bytes(50_000), priority=5)
        for number in range(400):
            cache.set(("cheap", number), os.urandom(50_000), priority=1)
        assert eventually(lambda: fs.resident <= 10 * MIB)
        there = set(cache)
        assert {("dear", number) for number in range(40)} <= there
        assert ("cheap", 0) not in there


def test_touch_makes_an_entry_young(mount: MountFactory) -> None:
    fs = mount(budget="8M")
    with VolatileCache(fs.path / "cache", size=64 * MIB) as cache:
        cache["touched"] = cache["left"] = os.urandom(5000)
        for number in range(400):
            cache[number] = os.urandom(50_000)
            assert cache.touch("touched") is True
        assert eventually(lambda: fs.resident <= 10 * MIB)
        assert "touched" in cache
        assert "left" not in cache


def test_touch_keeps_the_priority(cache: VolatileCache) -> None:
    cache.set("dear", 1, priority=5)
    assert cache.touch("dear") is True
    assert cache["dear"] == 1
    filled = State.unpack(os.pread(cache._file.fd, 512, 0)).filling
    assert [priority for priority in range(8) if filled[priority] is not None] == [5]


def test_clear_takes_everything_and_gives_the_memory_back(cache: VolatileCache, fs: Mount) -> None:
    for number in range(100):
        cache[number] = os.urandom(50_000)
    cache.set("high", 1, priority=7)
    cache.clear()
    assert len(cache) == 0
    assert cache.get("high") is None
    assert eventually(lambda: fs.resident <= MIB)
    cache[1] = "new"
    assert dict(zip(cache, [cache[key] for key in cache], strict=True)) == {1: "new"}


# ---- get_or_create ----


def test_get_or_create_builds_once(cache: VolatileCache) -> None:
    built = []

    def build() -> str:
        built.append(1)
        return "built"

    assert cache.get_or_create("key", build) == "built"
    assert cache.get_or_create("key", build) == "built"
    assert cache["key"] == "built"
    assert len(built) == 1


def test_a_builder_that_raises_leaves_nothing_behind(cache: VolatileCache) -> None:
    def fail() -> str:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        cache.get_or_create("key", fail)
    assert "key" not in cache
    assert cache.get_or_create("key", lambda: "built") == "built"


def test_none_is_a_value(cache: VolatileCache) -> None:
    built = []
    for _ in range(2):
        assert cache.get_or_create("key", lambda: built.append(1)) is None
    assert len(built) == 1


def test_a_builder_may_use_the_cache_but_not_for_its_own_key(cache: VolatileCache) -> None:
    assert cache.get_or_create("a", lambda: cache.get_or_create("b", lambda: 1) + 1) == 2
    with pytest.raises(RuntimeError, match="would wait for itself"):
        cache.get_or_create("c", lambda: cache.get_or_create("c", lambda: 1))


def test_one_thread_builds_and_the_others_wait(cache: VolatileCache) -> None:
    inside = threading.Event()
    go_on = threading.Event()
    built = []

    def build() -> int:
        inside.set()
        assert go_on.wait(PATIENCE)
        built.append(1)
        return len(built)

    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(cache.get_or_create("key", build)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    assert inside.wait(PATIENCE)
    assert cache.get_or_create("another", lambda: "not held up") == "not held up"
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == [1] * 8


def test_threads_set_and_get_side_by_side(cache: VolatileCache) -> None:
    problems: list[object] = []

    def work(mine: int) -> None:
        for number in range(400):
            value = (mine, number) * 50
            cache[mine] = value
            if (found := cache.get(mine)) != value:
                problems.append((mine, number, found))
            other = cache.get((mine + 1) % 4)
            if other is not None and other != other[:2] * 50:
                problems.append(other)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not problems


# ---- the object ----


def test_it_remembers_between_two_openings(fs: Mount) -> None:
    with VolatileCache(fs.path / "cache", size=MIB) as cache:
        cache["key"] = "value"
    with VolatileCache(fs.path / "cache") as cache:
        assert cache["key"] == "value"
        assert cache.size == MIB


def test_a_directory_holds_it_under_a_name_of_its_own(fs: Mount) -> None:
    with VolatileCache(fs.path, size=MIB) as cache:
        assert cache.path == str(fs.path / "volatile.cache")
        assert os.stat(cache.path).st_mode & 0o777 == 0o600


def test_after_close_everything_is_an_error(fs: Mount) -> None:
    cache = VolatileCache(fs.path / "cache", size=MIB)
    cache["key"] = 1
    cache.close()
    cache.close()
    for call in (
        lambda: cache.get("key"),
        lambda: cache.set("key", 2),
        lambda: cache.get_or_create("key", lambda: 2),
        lambda: list(cache),
        cache.clear,
    ):
        with pytest.raises(ValueError, match="the cache is closed"):
            call()


def test_stats_count_what_this_object_saw(cache: VolatileCache) -> None:
    cache["key"] = 1
    cache["key"] = 2
    cache.get("key")
    cache.get("none")
    assert cache.stats() == (1, 1, 0, 2)


def test_one_that_is_forgotten_in_the_midst_of_a_set_is_not_waited_for(
    cache: VolatileCache,
) -> None:
    """As when the garbage collector runs then."""
    forgotten = VolatileCache(cache.path)
    forgotten["key"] = 1
    with cache._file.writing():
        del forgotten
        gc.collect()
    assert cache["key"] == 1
    cache["key"] = 2


def test_it_can_be_sent_to_another_process(cache: VolatileCache) -> None:
    cache["key"] = 1
    with pickle.loads(pickle.dumps(cache)) as other:
        assert other["key"] == 1


def test_nothing_is_left_open(fs: Mount) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with VolatileCache(fs.path / "cache", size=MIB) as cache:
        cache["key"] = 1
        assert cache["key"] == 1
    assert set(os.listdir("/proc/self/fd")) == before
    assert str(fs.path) not in Path("/proc/self/maps").read_text()
