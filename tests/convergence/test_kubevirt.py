"""KubeVirt's ramp and stall detector, decision by decision, and against the definitions of its proposals."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.looks import Looks, S, period_view
from vmferry.convergence.actions import Action, Cancel
from vmferry.convergence.limits import MAX_DOWNTIME_MS
from vmferry.convergence.policies.kubevirt import KubeVirt
from vmferry.convergence.policies.kubevirt_settings import KubeVirtSettings
from vmferry.convergence.policies.kubevirt_stall import SmoothBandwidth, StallDetector

MIB = 1 << 20
GIB = 1 << 30
RAMP = KubeVirtSettings(max_downtime_ms=1050, steps=6, stall_detection=False)
"""The example in the proposal's text has six increments."""
STALL = KubeVirtSettings(downtime_tuning=False)


def test_the_ramp_of_the_proposals_example() -> None:
    looks = Looks(KubeVirt(), RAMP)
    set_at: dict[int, int] = {}
    for second in range(200):
        iteration_count = 1 if second < 40 else 2 if second < 75 else 3 + second - 75
        limit_ms = looks.limit_at(second, iteration_count=iteration_count, memory_bytes=50 * GIB)
        if limit_ms is not None:
            set_at[second] = limit_ms
    assert set_at == {0: 150, 85: 300, 95: 450, 105: 600, 115: 750, 125: 900, 135: 1050}


def test_no_ramp_begins_with_qemus_limit_or_a_lower_highest_downtime() -> None:
    for most_ms, first_ms in ((900, 300), (200, 200)):
        settings = KubeVirtSettings(downtime_tuning=False, max_downtime_ms=most_ms)
        looks = Looks(KubeVirt(), settings)
        assert looks.limit_at(0, iteration_count=1) == first_ms
        assert looks.at(1000, iteration_count=50) == []


@given(st.integers(1, MAX_DOWNTIME_MS), st.integers(1, MAX_DOWNTIME_MS), st.integers(1, 50))
def test_a_ramp_ends_at_the_highest_downtime_and_never_passes_it(most_ms: int, initial_ms: int, steps: int) -> None:
    settings = KubeVirtSettings(max_downtime_ms=most_ms, initial_ms=initial_ms, steps=steps, stall_detection=False)
    looks = Looks(KubeVirt(), settings)
    limits = [looks.limit_at(10 * number, iteration_count=number + 1) for number in range(steps + 5)]
    given_ms = [limit for limit in limits if limit is not None]
    assert given_ms == sorted(given_ms)
    assert len(given_ms) == steps + 1
    assert (given_ms[0], given_ms[-1]) == (min(initial_ms, most_ms), most_ms)


def moments(settings: KubeVirtSettings, iterations: Sequence[tuple[float, int]]) -> list[bool]:
    """Tell of each iteration, given as when it begins and with how much, whether it is a good moment to end it."""
    looks, detector = Looks(KubeVirt(), settings), StallDetector()
    answers = []
    for number, (second, remaining_bytes) in enumerate(iterations, 1):
        looks.at(second, iteration_count=number, remaining_bytes=remaining_bytes)
        answers.append(detector.good_moment(looks.now, settings))
    return answers


def test_going_up_and_down_is_no_stall_as_long_as_it_comes_down_within_the_window() -> None:
    iterations = [(second, 1000 - 5 * second + 80 * (second // 10 % 2)) for second in range(0, 150, 10)]
    assert not any(moments(STALL, iterations))


def test_a_stall_waits_for_an_iteration_that_is_about_as_little_as_the_best() -> None:
    level = [(0.0, 9000), (20.0, 1000), (40.0, 1200), (60.0, 1150), (70.0, 1300), (80.0, 1041), (90.0, 1040)]
    assert moments(STALL, level) == [False, False, False, False, False, False, True]


def test_exactly_the_margin_below_is_a_stall() -> None:
    assert moments(STALL, [(0.0, 1000), (40.0, 960)])[-1]
    assert not moments(STALL, [(0.0, 1000), (40.0, 959)])[-1]
    assert not moments(STALL, [(0.0, 1000), (39.0, 1000)])[-1]


def test_if_it_does_not_come_back_the_least_seen_since_will_do() -> None:
    settings = KubeVirtSettings(downtime_tuning=False, patience_window_decay_factor=0.5)
    first = [(0.0, 100), (40.0, 500)]  # stalled; 100 is waited for until 80
    assert moments(settings, [*first, (50.0, 300), (79.0, 400), (80.0, 400), (99.0, 330), (100.0, 320)]) == [
        *[False] * 6,  # from 80 on for 300, until 100
        True,  # from 100 on for 320
    ]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 40)), min_size=1, max_size=40), st.integers(0, 20))
def test_the_first_stall_is_that_of_the_definition(steps: list[tuple[int, int]], margin: int) -> None:
    settings = KubeVirtSettings(stall_margin_percent=margin, downtime_tuning=False)
    second, iterations = 0, []
    for step, remaining_bytes in steps:
        second += step
        iterations.append((float(second), remaining_bytes))
    looks, detector = Looks(KubeVirt(), settings), StallDetector()
    for number, (now, remaining_bytes) in enumerate(iterations, 1):
        looks.at(now, iteration_count=number, remaining_bytes=remaining_bytes)
        good = detector.good_moment(looks.now, settings)
        old = [before for then, before in iterations[:number] if then <= now - 40]
        if old and remaining_bytes * 100 >= min(old) * (100 - margin):
            best = min(before for _, before in iterations[:number])
            assert good == (remaining_bytes * 100 <= best * (100 + margin))
            return
        assert not good


def test_bandwidth_is_smoothed_in_samples_of_400_ms() -> None:
    looks, bandwidth = Looks(KubeVirt(), STALL), SmoothBandwidth()
    assert bandwidth.time_ns(1000) is None
    for second, bytes_per_s in ((0.0, 0.0), (0.1, 1000.0), (0.2, 9000.0), (0.5, 2000.0)):
        looks.at(second, bandwidth_bytes_per_s=bytes_per_s)
        bandwidth.look(looks.now, 0.4)
    assert bandwidth.time_ns(1400) == S


def stalled_at(
    settings: KubeVirtSettings, remaining_bytes: int, memory_bytes: int = 100 * GIB
) -> tuple[Looks, list[Action]]:
    """Let a migration stall at 50 s, with a bandwidth of 100 MiB/s."""
    looks = Looks(KubeVirt(), settings)
    sensed: dict[str, Any] = {"bandwidth_bytes_per_s": 100.0 * MIB, "memory_bytes": memory_bytes}
    looks.at(0, iteration_count=1, remaining_bytes=100 * GIB, **sensed)
    looks.at(5, iteration_count=2, remaining_bytes=remaining_bytes)
    return looks, looks.at(50, iteration_count=3)


def test_a_rest_that_nearly_fits_is_allowed_the_highest_downtime_and_must_move_in_time() -> None:
    for rest in (50 * MIB, 135 * MIB):  # 0.5 s, 1.35 s = 1.5 x 900 ms
        looks, (action,) = stalled_at(STALL, rest)
        assert action.limit_ns == 900_000_000  # type: ignore[union-attr]
        assert looks.at(109.9, iteration_count=40) == []
        (end,) = looks.at(110)
        assert isinstance(end, Cancel)
        assert "has not moved in the 60 s" in end.reason


def test_a_rest_that_is_far_too_large_is_given_up() -> None:
    _, (end,) = stalled_at(STALL, 136 * MIB)
    assert isinstance(end, Cancel)
    assert end.reason == "it has stalled where the rest needs 1.36 s, too far above 900 ms"


def test_a_guest_that_may_be_disrupted_is_stopped_for_as_long_as_it_takes() -> None:
    settings = KubeVirtSettings(allow_workload_disruption=True)
    _, (action,) = stalled_at(settings, GIB)
    assert action.limit_ns == MAX_DOWNTIME_MS * 1_000_000  # type: ignore[union-attr]


def test_what_would_end_too_late_waits_for_a_better_bandwidth() -> None:
    settings = KubeVirtSettings(allow_workload_disruption=True, completion_timeout_per_gib_s=60)
    looks, actions = stalled_at(settings, 8 * GIB, memory_bytes=GIB)  # needs 82 s, at 50 of 120 s
    assert actions == []
    assert looks.limit_at(51, iteration_count=4, bandwidth_bytes_per_s=1000.0 * MIB) == MAX_DOWNTIME_MS


def test_a_late_migration_is_given_up_or_stopped() -> None:
    for disrupt in (False, True):
        settings = KubeVirtSettings(allow_workload_disruption=disrupt)
        looks = Looks(KubeVirt(), settings)
        sensed: dict[str, Any] = {"bandwidth_bytes_per_s": 100.0 * MIB, "memory_bytes": GIB, "remaining_bytes": GIB}
        looks.at(0, iteration_count=1, **sensed)
        assert looks.at(150) == []
        (action,) = looks.at(150.1)
        assert isinstance(action, Cancel) != disrupt
        assert "not completed in 2 min 30 s" in action.reason


def test_a_view_without_any_bandwidth_ends_nothing() -> None:
    detector = KubeVirt()
    view = period_view(None, 0)
    assert all(not isinstance(action, Cancel) for action in detector.look(view, STALL))
