"""Auto-converge and the responsive throttle, decision by decision."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.support.looks import period_view
from vmferry.convergence.actions import Throttle
from vmferry.convergence.policies.auto_converge import AutoConverge, AutoConvergeSettings

MIB = 1 << 20
ORIGINAL = AutoConvergeSettings()
RESPONSIVE = AutoConvergeSettings(cpu_responsive_throttle=True)


def decide(
    policy: AutoConverge,
    settings: AutoConvergeSettings,
    dirty_mib: int,
    sent_mib: int,
    throttle_percent: int = 0,
    rearms_late: bool = False,
) -> Throttle:
    view = period_view(dirty_mib * MIB, sent_mib * MIB, throttle_percent)
    (throttle,) = policy.look(replace(view, sensed=replace(view.sensed, rearms_late=rearms_late)), settings)
    assert isinstance(throttle, Throttle)
    return throttle


def throttles(settings: AutoConvergeSettings, periods: list[tuple[int, int]], rearms_late: bool = False) -> list[int]:
    """The throttle after each period, each given as (dirty MiB, sent MiB)."""
    policy, throttle, answer = AutoConverge(), 0, []
    for dirty_mib, sent_mib in periods:
        throttle = decide(policy, settings, dirty_mib, sent_mib, throttle, rearms_late).percent
        answer.append(throttle)
    return answer


def test_two_high_periods_make_one_step() -> None:
    assert throttles(ORIGINAL, [(60, 100)] * 6) == [0, 20, 20, 30, 30, 40]


def test_a_calm_period_between_does_not_reset_the_count() -> None:
    assert throttles(ORIGINAL, [(60, 100), (10, 100), (10, 100), (60, 100)]) == [0, 0, 0, 20]


def test_exactly_the_threshold_is_not_high() -> None:
    assert throttles(ORIGINAL, [(50, 100)] * 4) == [0, 0, 0, 0]


def test_nothing_sent_counts_as_high_if_anything_was_dirtied() -> None:
    assert throttles(ORIGINAL, [(1, 0), (1, 0)]) == [0, 20]
    assert throttles(ORIGINAL, [(0, 0), (0, 0)]) == [0, 0]


def test_responsive_steps_on_one_high_rate_once_the_ratio_stayed_high_twice() -> None:
    # Period 1 sets the ratio. 2: rate twice -> step, ratio once. 3: ratio twice -> step, rate kept at 1.
    # 4: rate twice -> step, ratio once. 5: ratio twice -> step.
    assert throttles(RESPONSIVE, [(60, 100)] * 5) == [0, 20, 30, 40, 50]


def test_a_falling_ratio_is_not_high() -> None:
    periods = [(90, 100), (80, 100), (70, 100), (60, 100)]
    assert throttles(RESPONSIVE, periods) == throttles(ORIGINAL, periods)


def test_the_ratio_skips_a_period_in_which_nothing_was_sent() -> None:
    policy = AutoConverge()
    decide(policy, RESPONSIVE, 60, 100)
    figures = decide(policy, RESPONSIVE, 60, 0).figures
    assert figures["dirty-ratio-percent"] == 60
    assert not figures["dirty-ratio-high"]


def test_between_periods_there_is_nothing_to_do() -> None:
    assert not list(AutoConverge().look(period_view(None, 0), RESPONSIVE))


def test_the_reason_tells_the_figures() -> None:
    policy = AutoConverge()
    first = decide(policy, ORIGINAL, 812, 198, 20)
    second = decide(policy, ORIGINAL, 812, 198, 20)
    assert first.reason == "dirty 812 MiB > 50 % of 198 MiB sent, first time: throttle stays 20 %"
    assert second.reason == "dirty 812 MiB > 50 % of 198 MiB sent, second time: 20 -> 30 %"
    calm = decide(policy, ORIGINAL, 10, 198, 30)
    assert calm.reason == "dirty 10 MiB <= 50 % of 198 MiB sent: throttle stays 30 %"


def test_the_reason_of_a_responsive_step_tells_the_ratios() -> None:
    policy = AutoConverge()
    reasons = [decide(policy, RESPONSIVE, dirty, 100).reason for dirty in (60, 61, 62)]
    assert reasons[2] == "dirty 62 MiB > 50 % of 100 MiB sent, ratio 62 % after 61 %, second time: 0 -> 20 %"


def reference(settings: AutoConvergeSettings, periods: list[tuple[int, int]]) -> list[int]:
    """Sections 3 to 6 of the algorithm, written down as straight as they stand there."""
    throttle = rate_count = ratio_count = ratio = 0
    answer = []
    for dirty, sent in periods:
        ratio_high = False
        if settings.cpu_responsive_throttle and sent:
            current, previous = 100 * dirty // sent, ratio
            ratio = current
            if previous != 0:
                if current > 50 and current >= previous:
                    ratio_count += 1
                if ratio_count >= 2:
                    ratio_high, ratio_count = True, 0
        if dirty * 100 > sent * 50:
            rate_count += 1
            if rate_count >= 2 or ratio_high:
                if rate_count >= 2:
                    rate_count = 0
                throttle = 20 if throttle == 0 else min(throttle + 10, 99)
        answer.append(throttle)
    return answer


@given(st.booleans(), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=60))
def test_every_course_is_as_the_algorithm_says(responsive: bool, periods: list[tuple[int, int]]) -> None:
    settings = RESPONSIVE if responsive else ORIGINAL
    assert throttles(settings, periods) == reference(settings, periods)


def test_where_pages_are_armed_late_a_ratio_that_wavers_below_one_is_high() -> None:
    periods = [(90, 100), (99, 100), (90, 100), (85, 100), (100, 100), (80, 100)]
    assert throttles(RESPONSIVE, periods) == [0, 20, 20, 30, 40, 50]
    assert throttles(RESPONSIVE, periods, rearms_late=True) == [0, 20, 30, 40, 50, 60]


def test_where_pages_are_armed_late_a_ratio_that_falls_below_four_fifths_is_not_high() -> None:
    periods = [(79, 100), (70, 100), (60, 100), (55, 100)]
    assert throttles(RESPONSIVE, periods, rearms_late=True) == throttles(ORIGINAL, periods)
