import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.convergence.test_lookahead import S, curve_of_a_sweep, situation_of
from tests.support.known import known
from vmferry.convergence.goals import Goals, make_plan
from vmferry.convergence.lookahead import Courses, look_ahead_each
from vmferry.convergence.remedies import remedies
from vmferry.convergence.unslowed import Begin

COUNT = 100


def courses(ends: dict[int, tuple[float, float]]) -> Courses:
    """Those throttles end, after so many seconds, with so many lost by each vCPU; the others never do."""
    time_ns, lost_ns = np.full(COUNT, np.inf), np.full(COUNT, np.inf)
    for percent, (time_s, lost_s) in ends.items():
        time_ns[percent], lost_ns[percent] = time_s * S, lost_s * S
    return Courses(time_ns, lost_ns, np.zeros(COUNT))


NEVER = courses({})
NOW, LATER = courses({50: (60, 30), 99: (20, 19.8)}), courses({50: (100, 20), 99: (40, 15)})
EACH = {Begin.NOW: NOW, Begin.NEXT_PASS: LATER, Begin.AT_LAST: NEVER}


def goals(**others: Any) -> Goals:
    return Goals(**{"work_weight": 1.0, "patience": 1.5, "patience_ns": 10 * S, **others})


def chosen(**others: Any) -> tuple[int, Begin]:
    plan = make_plan(EACH, goals(**others))
    assert plan
    return plan.percent, plan.begin


def test_time_and_work_are_weighed() -> None:
    assert chosen() == (99, Begin.NOW)
    assert chosen(work_weight=0.0) == (99, Begin.NOW)
    assert chosen(work_weight=10.0) == (99, Begin.NEXT_PASS)


def test_within_a_deadline_as_little_work_is_taken_as_can_be() -> None:
    assert chosen(work_weight=1000.0, finish_in_ns=1000 * S) == (99, Begin.NEXT_PASS)
    assert chosen(work_weight=1000.0, finish_in_ns=30 * S) == (99, Begin.NOW)


def test_what_the_guest_may_lose_is_kept_also_with_what_it_has_lost() -> None:
    assert chosen(max_loss_share=0.5) == (99, Begin.NEXT_PASS)
    assert chosen(max_loss_ns=16 * S) == (99, Begin.NEXT_PASS)
    plan = make_plan(EACH, goals(max_loss_ns=16 * S, lost_ns=15 * S))
    assert plan
    assert not plan.keeps_goals


def test_a_share_of_the_work_is_kept_by_letting_the_guest_run_before() -> None:
    plan = make_plan({Begin.NOW: NOW, Begin.NEXT_PASS: NEVER, Begin.AT_LAST: NEVER}, goals(max_loss_share=0.25))
    assert plan
    assert (plan.percent, plan.percent_now, plan.keeps_goals) == (99, 0, True)
    assert plan.time_ns == 19.8 / 0.25 * S


def test_more_than_the_guest_may_lose_is_never_taken() -> None:
    plan = known(make_plan(EACH, goals(max_loss_ns=5 * S)))
    assert (plan.percent_now, plan.harms) == (0, True)
    late = known(make_plan(EACH, goals(max_loss_ns=16 * S, finish_in_ns=10 * S)))
    assert (late.percent, late.begin, late.harms) == (99, Begin.NEXT_PASS, False)


def test_where_no_course_keeps_the_goals_they_are_missed_by_as_little_as_can_be() -> None:
    late = make_plan(EACH, goals(finish_in_ns=10 * S))
    assert late
    assert (late.percent, late.begin) == (99, Begin.NOW)
    assert late.misses_goals
    harmful = make_plan(EACH, goals(max_loss_ns=5 * S))
    assert harmful
    assert (harmful.percent, harmful.begin) == (99, Begin.NEXT_PASS)


def test_a_little_too_much_is_no_clear_miss_as_nobody_knows_that_well() -> None:
    plan = make_plan(EACH, goals(finish_in_ns=18 * S))
    assert plan
    assert not plan.keeps_goals
    assert not plan.misses_goals


def test_higher_throttles_than_are_allowed_are_left_out() -> None:
    assert chosen(highest_percent=98)[0] == 50
    assert make_plan(EACH, goals(highest_percent=49)) is None


def test_a_guest_that_gets_there_by_itself_soon_enough_is_not_slowed() -> None:
    free = courses({0: (35, 0), 99: (20, 19.8)})
    plan = make_plan({**EACH, Begin.NOW: free}, goals())
    assert plan
    assert plan.percent == 0
    plan = make_plan({**EACH, Begin.NOW: free}, goals(finish_in_ns=30 * S))
    assert plan
    assert plan.percent == 99


def test_what_would_do_is_told_for_each_single_change() -> None:
    curve = curve_of_a_sweep(set_mib=1000, mib_per_s=600_000)
    told = list(remedies(curve, situation_of(1000), goals()))
    assert told[0].startswith("a downtime limit of 1")
    assert any(line.startswith("a bandwidth of ") for line in told)
    assert told[-1] == "post-copy"


def test_a_higher_throttle_is_told_if_it_would_do() -> None:
    curve = curve_of_a_sweep(set_mib=1000, mib_per_s=400)
    told = list(remedies(curve, situation_of(1000), goals(highest_percent=20)))
    assert any(line.startswith("a throttle of ") for line in told), told


PACES = [(10.0, math.inf, 0.0), (1.0, 1.5, 10.0 * S), (0.0, 1.2, 2.0 * S), (1000.0, 1.5, 10.0 * S)]


@given(
    st.tuples(st.integers(1, 2000), st.integers(10, 100_000)),
    st.integers(1, 3000),
    st.sampled_from([(0, 0.0), (0, S / 100), (50, S / 100)]),
    st.sampled_from(PACES),
    st.sampled_from([(1.25, math.inf, 1.0, 99), (0.8, math.inf, 0.3, 99), (1.25, 20.0 * S, 1.0, 80)]),
)
def test_giving_up_what_costs_too_much_already_changes_no_plan(
    writes: tuple[int, int],
    pending_mib: int,
    throttle: tuple[int, float],
    pace: tuple[float, float, float],
    bounds: tuple[float, float, float, int],
) -> None:
    curve = curve_of_a_sweep(*writes)
    situation = situation_of(pending_mib, throttle_percent=throttle[0], slice_ns=throttle[1])
    wanted = goals(
        **dict(zip(("work_weight", "patience", "patience_ns"), pace, strict=True)),
        **dict(zip(("reluctance", "finish_in_ns", "max_loss_share", "highest_percent"), bounds, strict=True)),
    )
    given_up = make_plan(look_ahead_each(curve, situation, wanted.outclassed), wanted)
    followed = make_plan(look_ahead_each(curve, situation), wanted)
    assert given_up == followed
