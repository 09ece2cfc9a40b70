"""oVirt's schedule, look by look."""

from tests.support.looks import Looks, S
from vmferry.convergence.actions import Cancel, Throttle
from vmferry.convergence.policies.ovirt import OVirt, OVirtSettings
from vmferry.convergence.sensing import Period


def limits(settings: OVirtSettings, iterations: list[int]) -> list[int | str | None]:
    """Return what is done at each look, ten seconds apart, at which the migration is in these iterations."""
    looks = Looks(OVirt(), settings)
    done: list[int | str | None] = []
    for number, iteration_count in enumerate(iterations):
        actions = looks.at(10 * number, iteration_count=iteration_count)
        kinds = [
            "cancel" if isinstance(action, Cancel) else action.limit_ns // 1_000_000  # type: ignore[union-attr]
            for action in actions
        ]
        done.append(kinds[0] if kinds else None)
    return done


def test_steps_follow_the_iterations_and_then_it_is_given_up() -> None:
    done = limits(OVirtSettings(), [1, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert done == [100, None, None, 150, 200, 300, 400, None, 500, "cancel"]


def test_the_other_policy_allows_five_seconds_once_more() -> None:
    done = limits(OVirtSettings(last_downtime=5000), [1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    assert done[-3:] == [500, 5000, "cancel"]


def test_at_one_look_one_step_is_made_however_many_iterations_are_over() -> None:
    assert limits(OVirtSettings(), [1, 1, 30, 31, 31, 90]) == [100, None, 150, 200, None, 300]


def test_iterations_count_from_the_first_look_on() -> None:
    assert limits(OVirtSettings(), [1, 20, 21, 22]) == [100, None, None, 150]


def test_between_looks_nothing_is_done() -> None:
    looks = Looks(OVirt(), OVirtSettings())
    looks.at(0, iteration_count=1)
    looks.at(10)
    assert [looks.at(10 + tenth / 10, iteration_count=2 + tenth) for tenth in range(1, 100)] == [[]] * 99
    assert looks.limit_at(20) == 150


def test_auto_converge_slows_the_guest_beside_it() -> None:
    looks = Looks(OVirt(), OVirtSettings(cpu_throttle_initial=35))
    high = Period(duration_ns=S, dirty_bytes=60, sent_bytes=100, throttle_percent=0)
    looks.at(1, period=high)
    (throttle,) = looks.at(2, period=high)
    assert isinstance(throttle, Throttle)
    assert throttle.percent == 35
