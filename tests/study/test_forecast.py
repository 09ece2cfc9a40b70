"""Forecasts of guests whose curve is known exactly."""

import pytest

from vmferry.convergence.curve import Written
from vmferry.convergence.variants import PLANNED
from vmferry.study.forecast import NO_THROTTLE, Survey, forecast, prices

MIB = 1 << 20
MS = 1_000_000


def survey(set_mib: int, mib_per_s: int, downtime_limit_ms: int = 300) -> Survey:
    """A guest of 256 MiB that rewrites a set from its beginning to its end; the link carries 100 MiB/s."""
    written = tuple(
        Written(window * MS, 1.0, round(min(set_mib, mib_per_s * window / 1000) * MIB))
        for window in (50, 100, 200, 400, 1000, 2000)
    )
    return Survey(
        memory_bytes=256 * MIB,
        used_bytes=256 * MIB,
        vcpu_count=2,
        written=written,
        bandwidth_bytes_per_s=100 * MIB,
        downtime_limit_ms=downtime_limit_ms,
    )


def test_a_quiet_guest_will_move_by_itself_whatever_is_done() -> None:
    for told in forecast(survey(200, 5), (NO_THROTTLE, "original", PLANNED.name), draws=2, tell=lambda name: None):
        assert told.chance == 1
        assert told.total_time_ms
        assert 2400 < told.total_time_ms.p50 < 3500
        assert told.work_lost_vcpu_s
        assert told.work_lost_vcpu_s.p90 == 0


def test_a_busy_guest_needs_to_be_slowed_and_what_would_do_instead_is_told() -> None:
    busy = survey(200, 2000)
    free, planned = forecast(busy, (NO_THROTTLE, PLANNED.name), draws=2, tell=lambda name: None)
    assert (free.chance, planned.chance) == (0, 1)
    assert planned.work_lost_vcpu_s
    assert planned.work_lost_vcpu_s.p50 > 0
    price = prices(busy)
    assert price.throttle_percent
    assert 80 < price.throttle_percent < 99
    assert price.downtime_limit_ms
    assert price.bandwidth_bytes_per_s
    with_price = survey(200, 2000, downtime_limit_ms=round(price.downtime_limit_ms * 1.2))
    (told,) = forecast(with_price, (NO_THROTTLE,), draws=2, tell=lambda name: None)
    assert told.chance == 1, "the downtime that is named would do"


def test_forecasts_of_a_steady_guest_agree() -> None:
    told = [list(forecast(survey(200, 2000), (PLANNED.name,), draws=3, tell=lambda name: None)) for _ in range(2)]
    assert told[0] == told[1]


def test_a_guest_that_converges_by_itself_has_no_price() -> None:
    price = prices(survey(200, 5))
    assert price.throttle_percent == 0
    assert price.downtime_limit_ms == pytest.approx(300)
