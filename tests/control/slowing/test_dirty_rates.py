"""A throttle as a limit on what each vCPU dirties: together they dirty what it leaves, and who dirties less is free."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.control.slowing.dirty_rates import DirtyRates
from vmferry.convergence.sensing import RateMeasured, RateSeen
from vmferry.convergence.written import Written

S = 1_000_000_000
RATES = st.lists(st.floats(0, 1e10), min_size=1, max_size=16)


@given(RATES, st.integers(1, 99))
def test_together_they_dirty_what_the_throttle_leaves(rates: list[float], percent: int) -> None:
    ceiling = DirtyRates(sum(rates), tuple(rates)).ceiling(len(rates), percent)
    left = sum(min(rate, ceiling) for rate in rates)
    assert left == pytest.approx(sum(rates) * (100 - percent) / 100, rel=1e-9, abs=1e-6)


def test_a_writer_beside_readers_may_dirty_all_that_is_left() -> None:
    assert DirtyRates(400, (400, 0, 0, 0)).ceiling(4, 50) == 200


@pytest.mark.parametrize("rates", [None, (400.0,)])
def test_where_it_is_not_known_what_each_dirties_they_share_alike(rates: tuple[float, ...] | None) -> None:
    assert DirtyRates(400, rates).ceiling(4, 50) == 50


def test_the_greatest_rates_are_kept_and_those_of_each_vcpu_before_all_others() -> None:
    surveyed = DirtyRates.surveyed([Written(S // 10, 1.0, 30, (30, 0)), Written(S, 1.0, 200, (200, 0))])
    assert surveyed == DirtyRates(300, (300, 0))
    assert DirtyRates.surveyed([]) == DirtyRates()
    assert surveyed.raised(DirtyRates.found(RateSeen(900))) == surveyed
    measured = RateMeasured(500, vcpu_dirty_bytes_per_s=(400, 100))
    assert surveyed.raised(DirtyRates.found(measured)) == DirtyRates(500, (400, 100))
