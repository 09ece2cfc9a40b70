"""How long the highest throttle is held against, or without, a plan."""

from dataclasses import replace

import pytest

from tests.support.looks import S, period_view, sensed
from vmferry.convergence.goals import Plan
from vmferry.convergence.policies.last_resort import LastResort
from vmferry.convergence.policies.promise import Promise
from vmferry.convergence.sensing import View
from vmferry.convergence.unslowed import Begin

MIB = 1 << 20
FREE_MIB, THRESHOLD_MIB = 200, 12


def view(now_s: float, pass_mib: float, *, began: bool, percent: int = 99, lost_s: float | None = None) -> View:
    return replace(
        period_view(None, 0),
        sensed=replace(sensed(now_s), threshold_bytes=THRESHOLD_MIB * MIB),
        elapsed_ns=round(now_s * S),
        iteration_began=began,
        iteration_remaining_bytes=round(pass_mib * MIB),
        throttle_percent=percent,
        lost_ns=round((now_s if lost_s is None else lost_s) * S),
    )


def held_s(passes_mib: list[float], pass_s: float, *, is_foretold: bool = True, longest_s: float = 60.0) -> float:
    """Return how long it is held, the passes taking so long and beginning with so much; the last one comes again."""
    resort = LastResort()
    resort.look(view(0, FREE_MIB, began=True, percent=0))
    resort.begin(view(0, FREE_MIB, began=True, percent=0), is_foretold=is_foretold)
    number, now_s = 0, 0.0
    while now_s < longest_s:
        now_s += 0.1
        began = now_s >= (number + 1) * pass_s
        number += began
        now = view(now_s, ([FREE_MIB, *passes_mib])[min(number, len(passes_mib))], began=began)
        resort.look(now)
        if resort.is_in_vain(now):
            resort.end(now)
            assert resort.rests(view(20 * now_s, FREE_MIB, began=True))
            return now_s
    return longest_s


@pytest.mark.parametrize(
    ("passes_mib", "pass_s"),
    [([180, 160, 140, 120, 100, 80, 60, 40], 5.0), ([30, 25, 35], 1.0), ([190, 180, 170, 160, 150] * 3, 2.0)],
    ids=["they get shorter", "so near that luck will do", "they get shorter by and by"],
)
def test_it_is_held_while_passes_show_that_it_helps(passes_mib: list[float], pass_s: float) -> None:
    assert held_s(passes_mib, pass_s) > len(set(passes_mib)) * pass_s


@pytest.mark.parametrize("pass_s", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("mib", [200, 195, 100])
def test_it_is_in_vain_where_passes_get_no_shorter(mib: float, pass_s: float) -> None:
    assert held_s([mib], pass_s) <= 4 + 2 * pass_s


def test_no_pass_that_is_not_over_tells_that_it_is_in_vain_if_a_plan_says_that_it_helps() -> None:
    assert held_s([40, 10], 20.0) == pytest.approx(60, abs=0.2)
    assert held_s([200], 20.0) == pytest.approx(20, abs=0.2)


def test_against_all_that_is_foretold_no_more_than_eight_seconds_are_lost() -> None:
    assert held_s([200], 20.0, is_foretold=False) == pytest.approx(8, abs=0.2)


@pytest.mark.parametrize("is_foretold", [False, True])
def test_where_little_is_left_luck_has_six_seconds_from_the_last_pass_on_that_was_shorter(is_foretold: bool) -> None:
    assert held_s([40, 30], 5.0, is_foretold=is_foretold) == pytest.approx(16, abs=0.2)


def made(promise: Promise, sent_mib: float, percent: int, time_s: float) -> bool:
    """Make a plan on a link of 10 MiB/s, and return whether what was promised is overdue."""
    now = replace(period_view(None, 0), sensed=replace(sensed(0), sent_bytes=round(sent_mib * MIB)))
    promise.made(now, Plan(percent, Begin.NOW, time_s * S, 0.0, 0.0, 0.0), 10 * MIB)
    return promise.is_overdue(now, 10 * MIB)


def test_a_promise_is_overdue_after_what_was_foretold_in_its_first_seconds_and_a_quarter_more() -> None:
    promise = Promise()
    assert not made(promise, 0, 0, 4)
    assert not made(promise, 20, 0, 8), "100 MiB are promised now"
    assert not made(promise, 150, 0, 1000)
    assert made(promise, 160, 0, 1000)


def test_throttles_that_change_and_pause_break_one_promise_together() -> None:
    promise = Promise()
    overdue_mib = next(sent for sent in range(0, 200, 2) if made(promise, sent, (99, 50, 0)[sent // 2 % 3], 2))
    assert overdue_mib == 94, "50 MiB are promised within the first 3 s"


def test_a_link_that_stands_still_breaks_no_promise() -> None:
    promise = Promise()
    assert not any(made(promise, 10, 99, 4) for _ in range(1000))
