"""The throttle ladder."""

from hypothesis import given
from hypothesis import strategies as st

from vmferry.convergence.sample import SyncSample, ThrottleSettings
from vmferry.convergence.throttle import next_throttle_percent


def step(throttle: int, settings: ThrottleSettings, dirty: int = 100, sent: int = 100) -> int:
    return next_throttle_percent(SyncSample(1, dirty, sent, throttle), settings)


def ladder(settings: ThrottleSettings) -> list[int]:
    steps = [0]
    while not steps[1:] or steps[-1] != steps[-2]:
        steps.append(step(steps[-1], settings))
    return steps[1:-1]


def test_the_default_ladder() -> None:
    assert ladder(ThrottleSettings()) == [20, 30, 40, 50, 60, 70, 80, 90, 99]


def test_the_ladder_of_qemus_own_test() -> None:
    settings = ThrottleSettings(initial_percent=5, increment_percent=25, maximum_percent=95)
    assert ladder(settings) == [5, 30, 55, 80, 95]


def test_tailslow_goes_only_as_far_as_needed() -> None:
    settings = ThrottleSettings(tailslow=True, increment_percent=50)
    # 80 % of the CPU dirties 60 where 50 are allowed: 66 % would be enough, 14 less.
    assert step(20, settings, dirty=60, sent=100) == 34
    assert step(20, settings, dirty=1000, sent=100) == 70


@given(
    st.integers(0, 99),
    st.integers(1, 99),
    st.integers(1, 99),
    st.integers(1, 99),
    st.booleans(),
    st.integers(1, 10**12),
    st.integers(0, 10**12),
)
def test_a_step_stays_between_zero_and_the_maximum(
    throttle: int, initial: int, increment: int, maximum: int, tailslow: bool, dirty: int, sent: int
) -> None:
    settings = ThrottleSettings(50, initial, increment, maximum, tailslow)
    assert 0 <= step(throttle, settings, dirty, min(sent, 2 * dirty)) <= maximum
