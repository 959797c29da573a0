"""What is remembered of purges: their causes, and that a burst is told as one."""

from vfs_volatile.core.history import Cause, History, Purged


def test_a_burst_for_one_cause_is_one_purge() -> None:
    history = History()
    for now in (10.0, 10.5, 11.4):
        history.record(Cause.BUDGET, 3, now)
    assert list(history.recent) == [Purged(10.0, 11.4, Cause.BUDGET, 9)]


def test_another_cause_or_a_pause_begins_a_new_one() -> None:
    history = History()
    history.record(Cause.BUDGET, 1, 10.0)
    history.record(Cause.REQUEST, 2, 10.1)
    history.record(Cause.REQUEST, 4, 11.2)
    assert [(purge.cause, purge.pages) for purge in history.recent] == [
        (Cause.BUDGET, 1),
        (Cause.REQUEST, 2),
        (Cause.REQUEST, 4),
    ]


def test_what_freed_nothing_is_no_purge() -> None:
    history = History()
    history.record(Cause.SYSTEM, 0, 10.0)
    assert not history.recent
    assert not history.freed.total()


def test_every_cause_is_counted_for_ever_and_the_last_purges_are_kept() -> None:
    history = History()
    for second in range(100):
        history.record(Cause.BUDGET if second % 2 else Cause.CGROUP, 1, 2.0 * second)
    assert history.freed[Cause.BUDGET] == history.freed[Cause.CGROUP] == 50
    assert [purge.began for purge in history.recent] == [2.0 * n for n in range(90, 100)]
