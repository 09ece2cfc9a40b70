import numpy as np
import pytest

from vmferry.convergence.curve import DirtyCurve, Written
from vmferry.convergence.lookahead import Courses, Situation, look_ahead

S = 1_000_000_000
MIB = 1 << 20
RATE = 100 * MIB


def course(set_mib: int, mib_per_s: int, *, pending_mib: int | None = None, from_now: bool = True) -> Courses:
    """What becomes of a guest that rewrites a set from its beginning to its end, at 100 MiB/s and 500 ms."""
    curve = DirtyCurve(1 << 40)
    for duration_ns in (S // 500, S // 4, S // 2, S, 2 * S, 4 * S):
        distinct = min(set_mib, mib_per_s * duration_ns / S)
        curve.learn(Written(duration_ns, 1.0, round(distinct * MIB)))
    pending_bytes = (set_mib if pending_mib is None else pending_mib) * MIB
    situation = Situation(
        pending_bytes=pending_bytes,
        pending_ns=pending_bytes / RATE * S,
        again_bytes=0,
        sync_ns=S,
        bandwidth_bytes_per_s=RATE,
        threshold_bytes=RATE / 2,
    )
    return look_ahead(curve, situation, from_now=from_now)


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
