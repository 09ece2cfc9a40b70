"""What is known of the running pass, and of the link."""

from dataclasses import replace

import pytest

from tests.support.looks import S, period_view, sensed
from vmferry.convergence.curve import DirtyCurve
from vmferry.convergence.policies.pass_watch import PassWatch
from vmferry.convergence.sensing import Period

MIB = 1 << 20


@pytest.mark.parametrize("steps_per_s", [1, 2, 5])
def test_a_link_that_moves_in_steps_is_known_by_all_of_its_time(steps_per_s: int) -> None:
    watch, curve, sent_bytes = PassWatch(), DirtyCurve(1 << 40), 0
    for look in range(1, 200):
        step_bytes = 4 * MIB if look * steps_per_s % 10 < steps_per_s else 0
        sent_bytes += step_bytes
        looked_at = sensed(look / 10, sent_bytes, remaining_bytes=(1 << 40) - sent_bytes)
        period = Period(duration_ns=S // 10, dirty_bytes=0, sent_bytes=step_bytes, throttle_percent=0)
        view = replace(period_view(None, 0), sensed=looked_at, elapsed_ns=look * S // 10, period=period)
        watch.look(view, curve)
    situation = watch.situation(view, curve, S)
    assert situation
    assert situation.bandwidth_bytes_per_s == pytest.approx(steps_per_s * 4 * MIB, rel=0.05)
