"""The dirty curve against brute-force counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.convergence.curve import DirtyCurve
from vmferry.convergence.points import POINTS_PER_OCTAVE
from vmferry.convergence.written import Written

MS = 1_000_000
S = 1000 * MS
PAGE = 4096
MEMORY = 1 << 40


def curve_of(*points: Written) -> DirtyCurve:
    curve = DirtyCurve(MEMORY)
    for point in points:
        curve.learn(point)
    return curve


def at(curve: DirtyCurve, work_ns: float) -> float:
    return float(curve.distinct_bytes(np.array([float(work_ns)]))[0])


def counted(seed: int, set_pages: int, pages_per_s: int, duration_ns: int) -> int:
    """How many distinct bytes a random writer writes, by counting."""
    writes = np.random.default_rng(seed).integers(set_pages, size=pages_per_s * duration_ns // S)
    return len(np.unique(writes)) * PAGE


points = st.builds(
    Written,
    st.integers(1, 60 * S),
    st.floats(0.01, 1, exclude_min=True),
    st.integers(0, 1 << 38),
)


@given(st.lists(points, min_size=1, max_size=60))
def test_it_never_falls_never_bends_upwards_and_is_above_all_it_has_seen_unslowed(seen: list[Written]) -> None:
    curve = curve_of(*seen)
    longest = curve.known_ns
    works = np.linspace(0, longest, 200)
    steps = np.diff(curve.distinct_bytes(works))
    assert (steps >= -1e-3).all()
    assert (np.diff(steps) <= 1e-6 * MEMORY).all()
    for point in curve.points:
        work_ns = point.duration_ns * min(1.0, point.cpu_share / curve.demand)
        if work_ns <= longest and not point.slowed:
            assert at(curve, work_ns) >= point.distinct_bytes * (1 - 1e-9)


def test_short_times_of_a_throttled_guest_are_put_together() -> None:
    curve = curve_of(Written(S, 1.0, 1000 << 20), Written(2 * S, 1.0, 1000 << 20))
    for slices in (0, 2, 1, 0, 2):  # of 1 ms each, at 1 GiB/s
        curve.learn(Written(S // 5, 0.01, slices * 1 << 20))
    assert at(curve, 2 * MS) == pytest.approx(2 << 20, rel=0.01)


@given(st.lists(points, min_size=1, max_size=60), st.floats(0, 1e15))
def test_beyond_what_was_seen_it_stays_within_memory(seen: list[Written], work_ns: float) -> None:
    curve = curve_of(*seen)
    assert 0 <= at(curve, work_ns) <= MEMORY
    assert at(curve, work_ns + S) >= at(curve, work_ns) * (1 - 1e-9)


@pytest.mark.parametrize("set_pages", [1000, 20_000])
@pytest.mark.parametrize("pages_per_s", [2000, 100_000])
def test_what_a_random_writer_writes_is_told_between_the_windows_that_were_seen(
    set_pages: int, pages_per_s: int
) -> None:
    windows = [250 * MS, 500 * MS, S, 2 * S]
    curve = curve_of(
        *(Written(window, 1.0, counted(seed, set_pages, pages_per_s, window)) for seed, window in enumerate(windows))
    )
    for window in (300 * MS, 700 * MS, 1500 * MS):
        assert at(curve, window) == pytest.approx(counted(9, set_pages, pages_per_s, window), rel=0.08)


def test_a_working_set_that_was_written_whole_does_not_grow() -> None:
    curve = curve_of(*(Written(window * MS, 1.0, 1 << 30) for window in (250, 500, 1000)))
    assert at(curve, 3600 * S) == pytest.approx(1 << 30, rel=0.01)


def test_a_flood_goes_on_as_it_was() -> None:
    curve = curve_of(*(Written(window * MS, 1.0, window << 20) for window in (250, 500, 1000)))
    assert at(curve, 100 * S) == pytest.approx(100_000 << 20, rel=0.01)


def test_it_needs_windows_of_two_lengths_to_tell_them_apart() -> None:
    curve = curve_of(Written(S, 1.0, 1 << 30))
    assert not curve.bends
    curve.learn(Written(2 * S, 1.0, 1 << 30))
    assert curve.bends


def test_a_guest_that_takes_what_it_gets_does_less_when_it_is_slowed() -> None:
    curve = curve_of(Written(S, 1.0, 1000 << 20), Written(2 * S, 1.0, 2000 << 20), Written(S, 0.5, 500 << 20))
    assert curve.demand == 1
    assert curve.work_ns(S, 0.5) == S / 2


def test_a_paced_guest_does_the_same_until_it_gets_less_than_it_wants() -> None:
    curve = curve_of(Written(S, 1.0, 1000 << 20), Written(2 * S, 1.0, 2000 << 20))
    for share in (0.5, 0.3):
        curve.learn(Written(S, share, 1000 << 20))
    assert 0 < curve.demand <= 0.3, "it has kept up with what it was left"
    curve.learn(Written(S, 0.1, 340 << 20))
    assert curve.demand == pytest.approx(0.3, abs=0.1)
    assert curve.work_ns(S, 0.5) == S
    assert curve.work_ns(S, 0.1) < S / 2


def test_a_paced_guest_is_seen_to_keep_up_for_longer_than_it_was_looked_at_unslowed() -> None:
    curve = curve_of(Written(S, 1.0, 1000 << 20), Written(2 * S, 0.1, 2000 << 20))
    assert curve.demand < 0.1


def test_what_is_old_is_forgotten() -> None:
    curve = curve_of(Written(S, 1.0, 1 << 33))
    for _ in range(POINTS_PER_OCTAVE):
        curve.learn(Written(S, 1.0, 1 << 20))
    assert at(curve, S) == 1 << 20


def test_a_guest_that_has_become_quiet_is_not_held_to_what_it_did_in_less_time() -> None:
    curve = curve_of(*(Written(window * MS, 1.0, 1 << 33) for window in (250, 500, 1000, 2000)))
    curve.learn(Written(2 * S, 1.0, 1 << 20))
    assert at(curve, S // 4) >= 1 << 30, "once may be chance"
    curve.learn(Written(2 * S, 1.0, 1 << 20))
    assert at(curve, S // 4) <= 1 << 20


def test_what_is_more_than_the_guest_ever_wrote_unthrottled_tells_nothing_of_what_it_wants() -> None:
    curve = DirtyCurve(1 << 30)
    curve.learn(Written(1_000_000_000, 1.0, 400 << 20))
    curve.learn(Written(1_000_000_000, 0.6, 529 << 20))
    assert curve.demand == 1


@pytest.mark.parametrize("last_mib", [1000, 999, 910])
def test_a_set_that_was_found_whole_twice_has_an_end_however_exactly_it_was_counted(last_mib: int) -> None:
    windows = {250: 500, 500: 1000, 1000: last_mib}
    curve = curve_of(*(Written(window * MS, 1.0, found << 20) for window, found in windows.items()))
    assert at(curve, 3600 * S) == 1000 << 20


def test_a_long_time_in_which_far_less_was_found_tells_of_no_end() -> None:
    windows = {250: 500, 500: 1000, 900: 500}
    curve = curve_of(*(Written(window * MS, 1.0, found << 20) for window, found in windows.items()))
    assert at(curve, S) > 1100 << 20
