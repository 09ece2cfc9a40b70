"""That a migration does not converge is said early, once, and not for a single bad period."""

import pytest

from vmferry.convergence.prospect import Prospect
from vmferry.convergence.sensing import Period

MIB = 1 << 20


def period(throttle_percent: int, dirty_mib: int, sent_mib: int) -> Period:
    return Period(
        duration_ns=10**9, dirty_bytes=dirty_mib * MIB, sent_bytes=sent_mib * MIB, throttle_percent=throttle_percent
    )


HOPELESS = period(80, 715, 720)


@pytest.mark.parametrize(
    ("periods", "said"),
    [
        ([HOPELESS], 0),
        ([HOPELESS, HOPELESS], 1),
        ([HOPELESS] * 9, 1),
        ([HOPELESS, period(80, 300, 720), HOPELESS], 0),
        ([period(50, 715, 720)] * 9, 0),
        ([period(80, 600, 720)] * 9, 0),
        ([period(80, 715, 0)] * 9, 0),
    ],
)
def test_two_hopeless_periods_in_a_row_at_the_highest_throttle_are_told(periods: list[Period], said: int) -> None:
    prospect = Prospect()
    told = [line for line in (prospect.judge(period, 80) for period in periods) if line]
    assert len(told) == said
    assert all(line.startswith("80 % does not converge: dirty 715 MiB of 720 MiB sent") for line in told)
