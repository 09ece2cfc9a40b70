"""When background syncs are due."""

from vmferry.convergence.watcher import BackgroundSync, IterationView, WatchTimes, make_watcher

S = 1_000_000_000


def view(now_s: float, **changes: int) -> IterationView:
    usual = {
        "iteration_count": 2,
        "dirty_sync_count": 2,
        "last_evaluation_ns": 0,
        "throttle_percent": 20,
        "maximum_throttle_percent": 99,
    }
    return IterationView(now_ns=int(now_s * S), **(usual | changes))


def test_preserve_needs_more_than_five_seconds_without_an_evaluation() -> None:
    watcher = make_watcher(BackgroundSync.PRESERVE, WatchTimes(), 0)
    due = [t for t in range(1, 9) if watcher.due(view(t))]
    assert due == [6, 7, 8]  # until the sync it calls for is evaluated


def test_preserve_looks_once_per_second() -> None:
    watcher = make_watcher(BackgroundSync.PRESERVE, WatchTimes(), 0)
    assert [t / 10 for t in range(60, 100) if watcher.due(view(t / 10))] == [7.0, 8.0, 9.0]


def test_preserve_waits_until_an_iteration_has_been_seen_twice() -> None:
    watcher = make_watcher(BackgroundSync.PRESERVE, WatchTimes(), 0)
    assert [t for t in range(1, 20) if watcher.due(view(t, iteration_count=t))] == []
    assert watcher.due(view(20, iteration_count=19))


def test_preserve_leaves_the_first_iteration_and_a_full_throttle_alone() -> None:
    watcher = make_watcher(BackgroundSync.PRESERVE, WatchTimes(), 0)
    assert not any(watcher.due(view(t, iteration_count=1)) for t in range(1, 20))
    assert not any(watcher.due(view(t, throttle_percent=99)) for t in range(20, 40))
    assert watcher.due(view(40, throttle_percent=98))


def test_merge_ticks_every_five_seconds_if_nothing_else_synced() -> None:
    watcher = make_watcher(BackgroundSync.MERGE, WatchTimes(), 0)
    syncs, due = 2, []
    for t in range(1, 31):
        syncs += t == 12  # an iteration ends
        if watcher.due(view(t, dirty_sync_count=syncs)):
            due.append(t)
            syncs += 1
    assert due == [10, 20, 25, 30]  # 5: first seen; 15: something synced since 10


def test_merge_leaves_the_first_sync_alone() -> None:
    watcher = make_watcher(BackgroundSync.MERGE, WatchTimes(), 0)
    assert not any(watcher.due(view(t, dirty_sync_count=1)) for t in range(1, 60))


def test_off_is_never_due() -> None:
    watcher = make_watcher(BackgroundSync.OFF, WatchTimes(), 0)
    assert not any(watcher.due(view(t)) for t in range(1, 60))


def test_a_clock_that_jumps_hours_causes_one_sync_not_many() -> None:
    watcher = make_watcher(BackgroundSync.PRESERVE, WatchTimes(), 0)
    watcher.due(view(1))
    assert watcher.due(view(7200))
    assert not watcher.due(view(7200.5))


def test_scaled_times_scale_everything() -> None:
    times = WatchTimes(look_interval_ns=S // 10, sync_interval_ns=S // 2)
    watcher = make_watcher(BackgroundSync.PRESERVE, times, 0)
    assert [t / 10 for t in range(1, 9) if watcher.due(view(t / 10))] == [0.6, 0.7, 0.8]
