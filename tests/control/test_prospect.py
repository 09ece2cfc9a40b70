"""That a migration does not converge is said early, once, and not for a single bad period."""

import pytest

from tests.support.fake_qemu import answer
from vmferry.control.progress import Progress
from vmferry.control.prospect import Prospect

MIB = 1 << 20
Period = tuple[int, int, int]
HOPELESS: Period = (80, 715 * MIB, 720 * MIB)


@pytest.mark.parametrize(
    ("periods", "said"),
    [
        ([HOPELESS], 0),
        ([HOPELESS, HOPELESS], 1),
        ([HOPELESS] * 9, 1),
        ([HOPELESS, (80, 300 * MIB, 720 * MIB), HOPELESS], 0),
        ([(50, 715 * MIB, 720 * MIB)] * 9, 0),
        ([(80, 600 * MIB, 720 * MIB)] * 9, 0),
        ([(80, 715 * MIB, 0)] * 9, 0),
    ],
)
def test_two_hopeless_periods_in_a_row_at_the_highest_throttle_are_told(periods: list[Period], said: int) -> None:
    told: list[str] = []
    prospect = Prospect(80, told.append)
    for period in periods:
        prospect.evaluated(*period)
    assert len(told) == said
    assert all(line.startswith("80 % does not converge: dirty 715 MiB of 720 MiB sent") for line in told)


def test_iterations_of_a_vm_that_slows_its_guest_itself_are_periods() -> None:
    told: list[str] = []
    prospect = Prospect(99, told.append)
    for second in range(1, 5):
        transferred, rate = second * 100 * MIB, 99 * MIB // 4096
        looked = answer(at_s=second, dirty_sync_count=second, transferred=transferred, dirty_pages_rate=rate) | {
            "cpu-throttle-percentage": 99
        }
        for _ in range(3):
            prospect.observe(Progress.from_qmp(looked))
        assert len(told) == (second > 3)
