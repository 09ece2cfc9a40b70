from typing import Any

import numpy as np
import pytest

from vmferry.convergence.curve import DirtyCurve
from vmferry.convergence.lookahead import Courses, look_ahead, look_ahead_each
from vmferry.convergence.passes import Situation
from vmferry.convergence.unslowed import Begin
from vmferry.convergence.written import Written

S = 1_000_000_000
MIB = 1 << 20
RATE = 100 * MIB


def curve_of_a_sweep(set_mib: int, mib_per_s: int) -> DirtyCurve:
    """What a guest writes that rewrites a set from its beginning to its end."""
    curve = DirtyCurve(1 << 40)
    for duration_ns in (S // 500, S // 4, S // 2, S, 2 * S, 4 * S):
        distinct = min(set_mib, mib_per_s * duration_ns / S)
        curve.learn(Written(duration_ns, 1.0, round(distinct * MIB)))
    return curve


def situation_of(pending_mib: float, **others: Any) -> Situation:
    """So much to send at 100 MiB/s, and 500 ms of downtime."""
    fields = {
        "pending_bytes": pending_mib * MIB,
        "pending_ns": pending_mib * MIB / RATE * S,
        "again_bytes": 0,
        "sync_ns": S,
        "bandwidth_bytes_per_s": RATE,
        "threshold_bytes": RATE / 2,
    }
    return Situation(**{**fields, **others})


def course(set_mib: int, mib_per_s: int, *, pending_mib: int | None = None, from_now: bool = True) -> Courses:
    """What becomes of a guest that rewrites a set."""
    situation = situation_of(set_mib if pending_mib is None else pending_mib)
    return look_ahead(curve_of_a_sweep(set_mib, mib_per_s), situation, from_now=from_now)


def test_a_guest_that_writes_less_than_the_link_carries_needs_no_throttle() -> None:
    courses = course(set_mib=1000, mib_per_s=40)
    assert courses.time_ns[0] < 25 * S
    assert courses.lost_ns[0] == 0


def test_a_guest_that_writes_faster_than_the_link_needs_as_much_as_brings_it_below() -> None:
    courses = course(set_mib=1000, mib_per_s=400)
    converges = np.isfinite(courses.time_ns)
    assert not converges[:50].any()
    assert converges[85:].all()
    assert (np.diff(courses.time_ns[85:]) <= 0).all(), "the more it is slowed, the sooner it is there"


def test_where_no_throttle_helps_all_are_infinite_and_what_remains_is_told() -> None:
    courses = course(set_mib=1000, mib_per_s=600_000)
    assert not np.isfinite(courses.time_ns).any()
    assert courses.left_bytes[0] == pytest.approx(1000 * MIB, rel=0.03)


def test_a_small_set_fits_the_downtime_however_fast_it_is_written() -> None:
    assert course(set_mib=40, mib_per_s=60_000).time_ns[0] < S


def test_what_begins_later_ends_later() -> None:
    now = course(set_mib=1000, mib_per_s=400)
    later = course(set_mib=1000, mib_per_s=400, from_now=False)
    assert later.time_ns[99] > now.time_ns[99]


def test_all_beginnings_at_once_are_each_as_by_itself() -> None:
    curve, situation = curve_of_a_sweep(1000, 400), situation_of(1000)
    each = look_ahead_each(curve, situation)
    for begin, from_now in ((Begin.NOW, True), (Begin.NEXT_PASS, False)):
        alone = look_ahead(curve, situation, from_now=from_now)
        assert np.array_equal(each[begin].time_ns, alone.time_ns)
        assert np.array_equal(each[begin].lost_ns, alone.lost_ns)
    assert each[Begin.AT_LAST].time_ns[99] >= each[Begin.NEXT_PASS].time_ns[99]


def paced_curve() -> DirtyCurve:
    """A guest that keeps up with whatever it is left."""
    curve = curve_of_a_sweep(1000, 400)
    for share in (0.05, 0.01):
        curve.learn(Written(S, share, 400 * MIB))
    return curve


def test_a_guest_that_is_paced_is_not_held_by_a_throttle_but_between_two_of_its_slices() -> None:
    curve = paced_curve()
    assert not np.isfinite(look_ahead(curve, situation_of(80), from_now=True).time_ns).any()
    in_slices = look_ahead(curve, situation_of(80, slice_ns=S / 100), from_now=True)
    assert in_slices.time_ns[99] == pytest.approx(0.8 * S, rel=0.01), "it ends while the vCPUs sleep"
    longer = look_ahead(curve, situation_of(100, slice_ns=S / 100), from_now=True)
    assert not np.isfinite(longer.time_ns).any(), "they wake before that"


def test_of_a_throttle_in_force_nobody_knows_when_the_next_slice_is() -> None:
    held = look_ahead(paced_curve(), situation_of(80, slice_ns=S / 100, throttle_percent=99), from_now=True)
    assert not np.isfinite(held.time_ns[99])


def test_a_guest_in_bursts_gets_there_in_a_calm() -> None:
    curve = DirtyCurve(1 << 40)
    for second in range(20):
        curve.learn(Written(S, 1.0, 300 * MIB if second % 10 == 5 else 0))
    courses = look_ahead(curve, situation_of(300), from_now=True)
    assert courses.time_ns[0] < 20 * S
    assert courses.lost_ns[0] == 0
