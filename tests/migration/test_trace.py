import pytest

from tests.support.loopback import Pair, Writer
from vmferry.convergence.policies.auto_converge import HARDLY_SMALLER_PERCENT
from vmferry.migration.events import Decided, Synced
from vmferry.migration.trace import TRACE_EVENTS, Tracer, matching_events


def busy_pair(background_sync: str = "preserve") -> Pair:
    """A migration that needs background syncs and all of the throttle."""
    pair = Pair(8192, background_sync=background_sync, cpu_responsive_throttle=True)
    Writer(pair, page_count=8000, pages_per_s=2000)
    pair.source.run()
    return pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return busy_pair()


def lines(pair: Pair, *patterns: str) -> list[str]:
    written: list[str] = []
    tracer = Tracer(written.append, [name for pattern in patterns for name in matching_events(pattern)])
    for entry in pair.journal.entries:
        tracer.record(entry.time_ns, entry.event)
    return written


def test_each_event_has_one_name_and_the_list_is_sorted() -> None:
    names = [event.name for event in TRACE_EVENTS]
    assert names == sorted(set(names))


def test_every_event_happens_in_a_busy_migration(pair: Pair) -> None:
    assert {line.split()[0] for line in lines(pair, "*")} == {event.name for event in TRACE_EVENTS}


def test_what_is_off_is_not_printed(pair: Pair) -> None:
    assert lines(pair) == []
    assert {line.split()[0] for line in lines(pair, "migrate_s*")} == {"migrate_set_state", "migrate_start"}


def test_states_and_the_throttle_are_told_in_qemus_words(pair: Pair) -> None:
    states = ["setup", "active", "device", "completed"]
    assert lines(pair, "migrate_set_state") == [f"migrate_set_state new state {state}" for state in states]
    steps = [e.throttle_percent for e in pair.events(Decided) if e.throttle_percent != e.old_throttle_percent]
    assert lines(pair, "cpu_throttle_set") == [f"cpu_throttle_set set guest CPU throttled by {step}%" for step in steps]
    assert lines(pair, "migration_throttle") == ["migration_throttle"] * len(steps)


def test_syncs_are_told_by_their_kind(pair: Pair) -> None:
    kinds = [sync.kind for sync in pair.events(Synced)]
    assert len(lines(pair, "migration_bitmap_sync_end")) == len(kinds)
    assert len(lines(pair, "migration_background_sync")) == kinds.count("background")
    assert len(lines(pair, "migration_iteration")) == kinds.count("iteration")


def test_the_ratio_is_told_when_it_stays_high(pair: Pair) -> None:
    high = lines(pair, "migration_dirty_ratio_high")
    for line in high:
        _, _, current, _, previous = line.split()
        assert int(previous) > 0
        assert int(current) >= min(int(previous), HARDLY_SMALLER_PERCENT)
    assert len(high) == sum(bool(decision.figures["dirty-ratio-high"]) for decision in pair.events(Decided))


def test_the_watcher_begins_and_ends_with_the_iterations(pair: Pair) -> None:
    told = lines(pair, "*watcher*", "migrate_set_state")
    assert [line.removeprefix("migrate_set_state new state ") for line in told] == [
        "setup", "active", "migration_background_sync_watcher_start", "device",
        "migration_background_sync_watcher_end", "completed",
    ]  # fmt: skip
    assert lines(busy_pair(background_sync="off"), "*watcher*") == []
