"""Guests in bursts move in about the time that was foretold; `python -m bench.bursts` shows more of them."""

import pytest
from bench.bursts import OURS, guest_in_bursts, trial

from vmferry.convergence.variants import NO_AUTO_CONVERGE, PLANNED
from vmferry.study.survey import QEMU_NEW, QEMU_OLD

RESPONSIVE = "background-sync+responsive-throttle"


@pytest.mark.parametrize(
    ("seed", "body", "strategy"),
    [
        (100, OURS, PLANNED.name),
        (103, QEMU_NEW, RESPONSIVE),
        (107, QEMU_OLD, PLANNED.name),
        (107, QEMU_NEW, NO_AUTO_CONVERGE.name),
    ],
)
def test_a_guest_in_bursts_moves_as_foretold_whenever_it_begins(seed: int, body: str, strategy: str) -> None:
    each = trial(seed, body, strategy, 3)
    assert each.right == [True] * 3
    assert sum(each.within) >= 2


def test_the_same_seed_gives_the_same_guest() -> None:
    assert guest_in_bursts(7) == guest_in_bursts(7) != guest_in_bursts(8)
