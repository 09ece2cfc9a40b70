import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.convergence.actions import Throttle
from vmferry.migration.events import Decided, Ended, Lost, Started, SwitchoverBegan, ThrottleSeen
from vmferry.migration.lost_work import LostWork
from vmferry.migration.status import MigrationStatus

STARTED = Started(page_size=4096, page_count=1, vcpu_count=4, auto_converge=True, parameters={})
S = 1_000_000_000


def recorded(*steps: tuple[int, int]) -> LostWork:
    """Seconds and the throttle from then on."""
    lost = LostWork()
    lost.record(0, STARTED)
    for second, percent in steps:
        lost.record(second * S, ThrottleSeen(throttle_percent=percent))
    return lost


@given(
    steps=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 99)), min_size=1, max_size=20), end=st.integers(50, 60)
)
def test_it_is_the_sum_over_every_second(steps: list[tuple[int, int]], end: int) -> None:
    steps.sort(key=lambda step: step[0])
    naive = sum(next(value for time, value in reversed(steps) if time <= second) for second in range(steps[0][0], end))
    lost = recorded(*steps)
    lost.advance(end * S)
    assert lost.throttled_ns == naive * S // 100
    assert lost.vcpu_ns == 4 * lost.throttled_ns
    assert lost.percent_of(100 * S) == naive / 100


def decided(*percents: int) -> Decided:
    return Decided(
        period_ns=None,
        dirty_bytes=None,
        sent_bytes=None,
        old_throttle_percent=0,
        throttle_percent=max(percents),
        reason="",
        vcpu_throttle_percents=list(percents),
    )


def test_each_vcpu_loses_what_its_own_throttle_takes() -> None:
    lost = recorded((0, 50))
    assert not lost.vcpu_taken_ns
    lost.record(2 * S, decided(80, 0, 20, 0))
    lost.record(12 * S, ThrottleSeen(throttle_percent=10))
    lost.record(22 * S, ThrottleSeen(throttle_percent=0))
    assert lost.vcpu_taken_ns == (10 * S, 2 * S, 4 * S, 2 * S)
    assert lost.vcpu_ns == 18 * S


def test_throttles_of_more_vcpus_than_there_are_count_as_one_of_all() -> None:
    lost = recorded((0, 0))
    lost.record(0, decided(80, 0))
    lost.advance(10 * S)
    assert lost.vcpu_ns == 4 * 8 * S


def test_a_guest_that_stands_still_loses_nothing_by_its_throttle() -> None:
    lost = recorded((0, 50))
    lost.record(6 * S, SwitchoverBegan(remaining_bytes=0, threshold_bytes=0))
    lost.record(10 * S, end(10 * S))
    assert (lost.throttled_ns, lost.total_ns) == (3 * S, 10 * S)


def test_the_throttle_goes_on_by_the_readers_clock_until_the_next_event() -> None:
    now = [100 * S]
    lost = LostWork(lambda: now[0])
    lost.record(0, STARTED)
    lost.record(0, ThrottleSeen(throttle_percent=50))
    now[0] += 4 * S
    assert lost.throttled_ns == 2 * S
    lost.record(3 * S, ThrottleSeen(throttle_percent=0))  # it was told a second later
    assert lost.throttled_ns == 3 * S // 2
    now[0] += S
    assert lost.throttled_ns == 3 * S // 2


def test_a_record_with_a_gap_does_not_tell_all() -> None:
    lost = recorded()
    assert lost.is_known
    lost.record(S, Lost(count=None))
    assert not lost.is_known


@pytest.mark.parametrize(("percent", "known"), [(90, False), (0, True)])
def test_what_a_limit_on_dirtying_takes_is_unknown(percent: int, known: bool) -> None:
    lost = recorded()
    lost.record(S, Decided.of(Throttle(percent=percent, reason=""), 0, takes_time=False))
    assert lost.is_known is known


def end(total_ns: int) -> Ended:
    return Ended(
        status=MigrationStatus.COMPLETED,
        total_time_ns=total_ns,
        downtime_ns=0,
        downtime_parts_ns={},
        sent_bytes=0,
        iteration_count=1,
        dirty_sync_count=1,
        max_throttle_percent=50,
    )
