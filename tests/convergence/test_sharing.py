"""How a throttle is spread over vCPUs, and how one finds out what each of them dirties."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.convergence.actions import Action, Measure, Throttle
from vmferry.convergence.sensing import Sensed
from vmferry.convergence.sharing import LOOK_NS, Sharing, spread
from vmferry.convergence.written import Written

S = 1_000_000_000
RATES = st.lists(st.just(0.0) | st.floats(1, 1e10), min_size=1, max_size=20)
SENSED = Sensed(
    now_ns=0,
    sent_bytes=0,
    memory_bytes=1 << 30,
    remaining_bytes=1 << 29,
    again_bytes=0,
    threshold_bytes=0,
    bandwidth_bytes_per_s=0,
    downtime_limit_ns=0,
    iteration_count=2,
    dirty_sync_count=2,
)


@pytest.mark.parametrize(
    ("percent", "rates", "throttles"),
    [
        (50, (100, 100), (50, 50)),
        (50, (100, 0, 0, 0), (50, 0, 0, 0)),
        (80, (0, 0), (80, 80)),
        (50, (100, 10), (55, 0)),
        (99, (1000, 10, 10), (99, 99, 99)),
        (0, (5, 1), (0, 0)),
        (40, (7,), (40,)),
    ],
)
def test_writers_are_slowed_and_those_who_write_little_are_not(
    percent: int, rates: tuple[float, ...], throttles: tuple[int, ...]
) -> None:
    assert spread(percent, rates, 99) == throttles


@given(st.integers(0, 99), RATES)
def test_it_dirties_no_more_than_all_slowed_alike_and_takes_no_more_work(percent: int, rates: list[float]) -> None:
    throttles = spread(percent, rates, 99)
    dirtied = sum(rate * (100 - throttle) for rate, throttle in zip(rates, throttles, strict=True))
    assert dirtied <= sum(rates) * (100 - percent) * (1 + 1e-6)
    assert sum(throttles) <= len(rates) * (percent + 1)
    assert all(0 <= throttle <= 99 for throttle in throttles)


@given(st.integers(1, 99), RATES)
def test_who_writes_more_is_not_slowed_less(percent: int, rates: list[float]) -> None:
    throttles = spread(percent, rates, 99)
    by_rate = [throttle for _, throttle in sorted(zip(rates, throttles, strict=True))]
    assert by_rate == sorted(by_rate)


class Guest:
    """Obeys the experiment: each vCPU dirties its rate times what its throttle leaves."""

    def __init__(self, rates: tuple[float, ...]) -> None:
        self.rates = rates
        self.now_ns = 0
        self.sharing = Sharing(experiments=True)
        self.percents: tuple[int, ...] = (0,) * len(rates)

    def obey(self, action: Action) -> list[Action]:
        if isinstance(action, Measure):
            left = [rate * (100 - percent) / 100 for rate, percent in zip(self.rates, self.percents, strict=True)]
            return self.sharing.look(
                replace(SENSED, now_ns=self.now_ns), Written(LOOK_NS, 1.0, round(sum(left) * LOOK_NS / S))
            )
        assert isinstance(action, Throttle)
        assert action.vcpu_percents
        self.percents = action.vcpu_percents
        return []

    def find_out(self, percent: int, most_percent: int) -> Throttle:
        wanted = Throttle(percent=percent, reason="it is needed")
        actions: list[Action] = [self.sharing.shared(wanted, len(self.rates), self.now_ns, most_percent)]
        while True:
            for action in actions:
                if not self.sharing.experimenting:
                    assert isinstance(action, Throttle)
                    return action
                actions = self.obey(action)
            if not actions:
                self.now_ns += LOOK_NS // 3
                actions = self.sharing.look(replace(SENSED, now_ns=self.now_ns), None)


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=8), st.sampled_from([99, 80, 30]))
def test_an_experiment_finds_out_what_each_vcpu_dirties(rates: list[int], most_percent: int) -> None:
    guest = Guest(tuple(map(float, rates)))
    throttle = guest.find_out(20, most_percent)
    assert guest.sharing.rates == pytest.approx(guest.rates, abs=len(rates) * 1000 + 0.031 * sum(rates))
    assert throttle.asked_percent == 20
    assert throttle.vcpu_percents == spread(20, guest.sharing.rates or (), most_percent)
    assert "it is needed; by what each vCPU dirties" in throttle.reason


def test_the_experiment_takes_a_look_for_each_vcpu_and_happens_once() -> None:
    guest = Guest((1e9, 0, 0, 0))
    assert guest.find_out(60, 99).vcpu_percents == (60, 0, 0, 0)
    assert guest.now_ns <= 5 * math.ceil(4 / 3 * LOOK_NS)
    again = guest.sharing.shared(Throttle(percent=90, reason="more"), 4, guest.now_ns, 99)
    assert again.vcpu_percents == (90, 0, 0, 0)
    assert guest.sharing.shared(Throttle(percent=0, reason="enough"), 4, guest.now_ns, 99).vcpu_percents is None


def test_a_body_that_tells_what_each_vcpu_wrote_needs_no_experiment() -> None:
    sharing = Sharing(experiments=True)
    sharing.learn(Written(2 * S, 1.0, 300, vcpu_bytes=(200, 10)), (50, 0))
    assert sharing.rates == (200.0, 5.0)
    assert sharing.shared(Throttle(percent=50, reason=""), 2, 0, 99).vcpu_percents == (52, 0)
