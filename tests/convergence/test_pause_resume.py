"""The fork of cloud-hypervisor: a throttle that goes by the number of the iteration."""

from tests.support.looks import Looks
from vmferry.convergence.actions import Throttle
from vmferry.convergence.policies.pause_resume import PauseResume, PauseResumeSettings, throttle_percent


def test_after_four_iterations_ten_percent_more_with_every_second() -> None:
    percents = [throttle_percent(iteration_count, PauseResumeSettings()) for iteration_count in range(1, 30)]
    assert percents == [0] * 5 + [10, 10, 20, 20, 30, 30, 40, 40, 50, 50, 60, 60, 70, 70, 80, 80, 90, 90] + [99] * 6


def test_it_acts_where_an_iteration_begins_that_calls_for_more() -> None:
    looks = Looks(PauseResume(), PauseResumeSettings())
    for iteration_count in range(1, 6):
        assert looks.at(iteration_count, iteration_count=iteration_count) == []
    (throttle,) = looks.at(6, iteration_count=6)
    assert throttle == Throttle(percent=10, reason="iteration 6 begins: 10 %")
    assert looks.at(6.5) == []


def test_other_steps() -> None:
    settings = PauseResumeSettings(after=1, every=1, step=40)
    assert [throttle_percent(iteration_count, settings) for iteration_count in range(1, 7)] == [0, 0, 40, 80, 99, 99]
