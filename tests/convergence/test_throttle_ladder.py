"""The throttle ladder."""

from hypothesis import given
from hypothesis import strategies as st

from vmferry.convergence.policies.auto_converge import AutoConvergeSettings, next_throttle_percent
from vmferry.convergence.sensing import Period


def step(throttle: int, settings: AutoConvergeSettings, dirty: int = 100, sent: int = 100) -> int:
    return next_throttle_percent(
        Period(duration_ns=1, dirty_bytes=dirty, sent_bytes=sent, throttle_percent=throttle), settings
    )


def ladder(settings: AutoConvergeSettings) -> list[int]:
    steps = [0]
    while not steps[1:] or steps[-1] != steps[-2]:
        steps.append(step(steps[-1], settings))
    return steps[1:-1]


def test_the_default_ladder() -> None:
    assert ladder(AutoConvergeSettings()) == [20, 30, 40, 50, 60, 70, 80, 90, 99]


def test_the_ladder_of_qemus_own_test() -> None:
    settings = AutoConvergeSettings(cpu_throttle_initial=5, cpu_throttle_increment=25, max_cpu_throttle=95)
    assert ladder(settings) == [5, 30, 55, 80, 95]


def test_tailslow_goes_only_as_far_as_needed() -> None:
    settings = AutoConvergeSettings(cpu_throttle_tailslow=True, cpu_throttle_increment=50)
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
    settings = AutoConvergeSettings(
        cpu_throttle_initial=initial,
        cpu_throttle_increment=increment,
        max_cpu_throttle=maximum,
        cpu_throttle_tailslow=tailslow,
    )
    assert 0 <= step(throttle, settings, dirty, min(sent, 2 * dirty)) <= maximum
